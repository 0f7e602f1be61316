"""The steps themselves: both updates by hand, what moves and what must not, and who shares a perturbation."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg import bilevel
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.self_tuning.perturbed import exact_ridge

PAPER = "MacKay et al. (2019)"
LOW, HIGH = 0.1, 0.9


def _sigmoid(u: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-u))


def updates_by_hand(seed: int, examples: int = 8, width: int = 3, weight: float = 0.3) -> Check:
    """A training and a tuning step on a layer, against gradients written out at the noise that was drawn.

    One hyper-parameter is a rate that the training loss takes, one an integer that no loss takes: it moves
    by the layer's response to it alone.
    """
    rng = np.random.default_rng(seed)
    batch = rng.normal(size=(examples, width)), rng.normal(size=examples)
    parts = rng.normal(size=width), rng.normal(size=width), rng.normal(size=2)
    kernel, response, gate = (jnp.asarray(part)[:, None] for part in parts)
    layer = bilevel.BestResponse.from_parts(kernel, response, gate)
    taken = quick_jit(lambda *data: _both_steps(data[0], data[1], data[2], weight))(
        batch, layer, jax.random.key(seed)
    )
    moved, seen, tried, own, new, still = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), taken)
    rate = LOW + (HIGH - LOW) * _sigmoid(seen[0][:, 0])
    wanted = [
        *_trained_by_hand(batch, parts, seen[0], rate),
        rate,
        *_tuned_by_hand(batch, parts, tried[0], own[0], own[1], weight),
        np.zeros(len(_flat(still))),
    ]
    return Check(
        "updates-by-hand",
        PAPER,
        "phi - grad f(l + e, w(l + e)); (l, xi) - grad [F(l + e, w(l + e)) - tau H], an integer's too",
        _flat([*moved, seen[1]["a"], *new, still]),
        "==",
        _flat(wanted),
        scale=10.0,
        tolerance_float32=1e-4,
    )


def _both_steps(batch, layer, key, weight):
    """The layer after a training step; the noise of each step; numbers before and after; what stood still."""

    def valid_loss(layer, numbers, values, batch, key):
        del key
        y = bilevel.best_response_dense(layer, batch[0], numbers)[:, 0]
        return jnp.mean((y - batch[1]) ** 2), (numbers, values)

    def train_loss(layer, numbers, values, batch, key):
        fit, seen = valid_loss(layer, numbers, values, batch, key)
        y = bilevel.best_response_dense(layer, batch[0], numbers)[:, 0]
        return fit + jnp.mean(values["a"] * y**2), seen

    rule = optax.sgd(1.0)
    tuning = bilevel.self_tuning(
        train_loss, valid_loss, inner=rule, outer=rule, scale=rule, entropy_weight=weight, has_aux=True
    )
    dtype = batch[0].dtype
    tree = {
        "a": bilevel.Bounded(jnp.asarray(0.4, dtype), LOW, HIGH, scale=0.4),
        "b": bilevel.Integer(jnp.asarray(2.0, dtype), 0, 4, scale=0.7),
    }
    start, keys = tuning.init(layer, tree), jax.random.split(key)
    trained, (_, seen) = tuning.train_step(start, batch, keys[0])
    tuned, (_, tried) = tuning.tune_step(start, batch, keys[1])
    one = trained.params
    own, new = (
        (bilevel.unconstrain(numbers), jnp.stack([node.raw_scale for node in numbers.values()]))
        for numbers in (tree, tuned.hyperparameters)
    )
    still = jax.tree.map(jnp.subtract, (trained.hyperparameters, tuned.params), (tree, layer))
    return [one.elementary_kernel, one.response_kernel, one.gate], seen, tried, own, new, still


def _outputs(batch, parts, numbers):
    kernel, response, gate = parts
    return batch[0] @ kernel + (numbers @ gate) * (batch[0] @ response)


def _trained_by_hand(batch, parts, numbers, rate):
    (x, t), (kernel, response, gate), y = batch, parts, _outputs(batch, parts, numbers)
    error = 2 * (y - t + rate * y) / len(t)
    kernels = kernel - x.T @ error, response - x.T @ (error * (numbers @ gate))
    return [*kernels, gate - numbers.T @ (error * (x @ response))]


def _tuned_by_hand(batch, parts, numbers, own, raw_scale, weight):
    (x, t), (_, response, gate) = batch, parts
    error = 2 * (_outputs(batch, parts, numbers) - t) / len(t)
    along = np.outer(error * (x @ response), gate)
    sigma = np.logaddexp(0, raw_scale)
    slopes = (np.sum(along * (numbers - own) / sigma, axis=0) - weight / sigma) * _sigmoid(raw_scale)
    return own - along.sum(0), raw_scale - slopes


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def perturbations_of_a_batch(seed: int, examples: int = 64) -> Check:
    """The unconstrained number is perturbed and then mapped; what serves the whole batch has one value."""
    tree = {
        "a": bilevel.Bounded(0.3, LOW, HIGH),
        "b": bilevel.Positive(1e-3, shared=True),
        "c": bilevel.Integer(3, 0, 7, scale=1.0),
    }
    drawn = bilevel.perturb(tree, jax.random.key(seed), examples)
    numbers = np.asarray(drawn.unconstrained, np.float64)
    wanted = [
        LOW + (HIGH - LOW) * _sigmoid(numbers[:, 0]),
        np.logaddexp(0, numbers[:1, 1]),
        np.floor(8 * _sigmoid(numbers[:, 2])),
    ]
    different = [len(np.unique(column)) for column in numbers.T]
    return Check(
        "perturbations-of-a-batch",
        "derived",
        "values are images of perturbed unconstrained numbers: one a batch where shared, else one an example",
        np.concatenate([_flat(drawn.values), different]),
        "==",
        np.concatenate([_flat(wanted), [examples, 1, examples]]),
        scale=10.0,
        tolerance_float32=1e-5,
    )


def no_response_is_a_saddle(seed: int) -> Check:
    """With no response and no gate neither has a gradient, although together they could do better."""
    rng = np.random.default_rng(seed)
    x, t, numbers = (jnp.asarray(rng.normal(size=shape)) for shape in ((9, 3), (9,), (9, 1)))
    elementary = jnp.asarray(rng.normal(size=(3, 1)))

    def loss(flat):
        layer = bilevel.BestResponse.from_parts(elementary, flat[:3, None], flat[3:, None])
        return jnp.mean((bilevel.best_response_dense(layer, x, numbers)[:, 0] - t) ** 2)

    zero = jnp.zeros(4, x.dtype)
    slope, hessian = quick_jit(lambda flat: (jax.grad(loss)(flat), jax.hessian(loss)(flat)))(zero)
    values = np.linalg.eigvalsh(np.asarray(hessian, np.float64))
    signs = [np.sum(values > 0.01), np.sum(values < -0.01)]
    return Check(
        "no-response-is-a-saddle",
        "derived",
        "W' = 0 and V = 0: the gradient in both is 0, and the Hessian has eigenvalues of both signs",
        np.concatenate([np.asarray(slope, np.float64), signs]),
        "==",
        np.array([0, 0, 0, 0, 1.0, 1.0]),
        tolerance_float32=1e-6,
    )


def centred_training_rests_at_the_solution(seed: int) -> Check:
    """Whatever the scale and the response, a centred step leaves the exact weights; an uncentred does not.

    The loss is ridge regression's with the penalty of each example's own perturbed hyper-parameter.
    """
    rng = np.random.default_rng(seed)
    x, t, number = rng.normal(size=(12, 4)), rng.normal(size=12), 0.5
    exact = exact_ridge(x, t, number)
    response = rng.normal(size=4)

    def network(layer, deviation, values, batch, key):
        del values, key
        identity = jnp.broadcast_to(jnp.eye(4, dtype=batch[0].dtype), (12, 4, 4))
        rows = jnp.concatenate([batch[0][:, None], identity], axis=1)
        return bilevel.best_response_dense(layer, rows, deviation)[..., 0]

    def loss(outputs, values, batch):
        fit = jnp.sum((outputs[:, 0] - batch[1]) ** 2)
        return 0.5 * fit + 0.5 * jnp.mean(jnp.exp(values) * jnp.sum(outputs[:, 1:] ** 2, axis=-1))

    train_loss = bilevel.NetworkLoss(network, loss)

    @quick_jit
    def moves(layer, x, t, scales):
        def move(scale, centred):
            rule = optax.sgd(1.0)
            tuning = bilevel.self_tuning(
                train_loss, train_loss, inner=rule, outer=rule, scale=None, centred=centred
            )
            tree = bilevel.Unbounded(jnp.asarray(number, x.dtype), scale=scale)
            state, _ = tuning.train_step(tuning.init(layer, tree), (x, t), jax.random.key(seed))
            new = state.params
            return (new.elementary_kernel - layer.elementary_kernel)[:, 0], new.response_kernel

        centred = jax.vmap(lambda scale: move(scale, True))(scales)
        plain = jax.vmap(lambda scale: move(scale, False))(scales)
        return centred[0], jnp.abs(centred[1] - layer.response_kernel).max(), jnp.abs(plain[0]).max()

    parts = (exact.weights[:, None], response[:, None], np.ones((1, 1)))
    layer = bilevel.BestResponse.from_parts(*(jnp.asarray(part) for part in parts))
    scales = jnp.asarray([0.1, 1.0, 2.0])
    rest, responses, others = moves(layer, jnp.asarray(x), jnp.asarray(t), scales)
    moved = jnp.stack([responses > 1e-2, others > 1e-2]).astype(rest.dtype)
    return Check(
        "centred-training-rests-at-the-solution",
        "Bae, Grosse (2020), derived",
        "the centred step of w_0 is 0 at w*(l_0) for every scale; responses move, and w_0 if uncentred",
        jnp.concatenate([rest.ravel(), moved]),
        "==",
        jnp.concatenate([jnp.zeros(rest.size), jnp.ones(2)]).astype(rest.dtype),
        scale=10.0,
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The steps."""
    yield updates_by_hand(seed)
    yield perturbations_of_a_batch(seed)
    yield no_response_is_a_saddle(seed)
    yield centred_training_rests_at_the_solution(seed)
