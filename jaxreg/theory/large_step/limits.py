"""The perceptron as the limit, losses against accuracy, and what the optax transformations rest on."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize

from jaxreg import transforms
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.large_step.margin import hard_instance, max_margin
from jaxreg.theory.large_step.methods import follow, separate
from jaxreg.theory.large_step.problems import draw
from jaxreg.theory.oracles import quick_jit

PAPER = "Tyurin (2025)"


def tied_examples(seed: int, cases: int, *, normalized: bool = False) -> np.ndarray:
    """Small integer problems ``[cases, 4, 2]`` on which a perceptron meets exact ties after its first step.

    All divisors are powers of two, so that its iterates are exact.
    """
    rng, found = np.random.default_rng(seed), []
    while len(found) < cases:
        examples = rng.integers(-3, 4, (4, 2)).astype(np.float64)
        iterate, tied, exact = np.zeros(2), False, True
        for step in range(6):
            weights = (examples @ iterate < 0) + 0.5 * (examples @ iterate == 0)
            if not weights.any():
                break
            tied |= step > 0 and bool(np.any(weights == 0.5))
            divisor = weights.sum() if normalized else 4.0
            exact &= bool(np.log2(divisor) % 1 == 0)
            iterate = iterate + weights @ examples / divisor
        if tied and exact and np.all(np.any(examples, axis=-1)):
            found.append(examples)
    return np.stack(found)


def perceptron_limit(
    examples: jax.Array, methods: tuple[str, str], *, step_size: float, steps: int = 6
) -> Check:
    """Iterates over the step size tend to the perceptron's, exact ties counted half."""
    smooth, limit = (
        quick_jit(jax.vmap(lambda x, m=method, g=size: follow(x, g, m, steps)))(examples)
        for method, size in zip(methods, (step_size, 1.0), strict=True)
    )
    # The normalized method goes on after separation in another way: compare up to it.
    before = ~limit.separated[..., None]
    return Check(
        f"{methods[1].replace('_', '-')}-is-the-limit",
        f"{PAPER}; ties derived",
        f"theta_t / gamma -> w_t of the {methods[1].replace('_', ' ')}, ties half; gamma = {step_size:g}",
        jnp.where(before, smooth.iterates / step_size, 0),
        "==",
        jnp.where(before, limit.iterates, 0),
        tolerance=1e-12,
        tolerance_float32=1e-4,
    )


def loss_over_step_size(seed: int) -> Check:
    """The loss grows with the step size at a fixed step, while the labels predicted do not depend on it."""
    examples = jnp.asarray(tied_examples(seed, 100))
    smooth = quick_jit(jax.vmap(lambda x: follow(x, 1e4, "logistic_gd", 3).iterates))(examples)
    limit = quick_jit(jax.vmap(lambda x: follow(x, 1.0, "batch_perceptron", 3).iterates))(examples)

    def mean_loss(iterates: jax.Array, loss) -> jax.Array:
        return loss(-jnp.einsum("cnd,ctd->ctn", examples, iterates)).mean(-1)

    return Check(
        "loss-grows-with-the-step",
        f"{PAPER}; exact form derived",
        "f(theta_t) / gamma -> mean max(0, -x_i.w_t), t >= 1, here gamma = 1e4",
        mean_loss(smooth[:, 1:], jax.nn.softplus) / 1e4,
        "==",
        mean_loss(limit[:, 1:], jax.nn.relu),
        tolerance=1e-4,  # log 2 / gamma at a tie
        tolerance_float32=2e-4,
    )


def higher_loss_earlier_separation() -> Iterator[Check]:
    """From a step size of 10 upwards the loss at step 10 rises and separation comes earlier: a table."""
    sizes = np.array([1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
    features, labels = hard_instance(200, small_radius=0.2, cosine=2**-0.5)
    found = separate(features, labels, method="logistic_gd", step_size=sizes, max_steps=20_000)
    yield Check(
        "larger-steps-separate-earlier",
        "derived",
        "n = 200, r = 0.2: first separated at 18154, 1814, 402, 357, 353, 353 for gamma = 1, 10, ..., 1e5",
        np.asarray(found.count, np.float64),
        "==",
        np.array([18154.0, 1814, 402, 357, 353, 353]),
        tolerance=0.0,
        tolerance_float32=4.0,  # rounding of the iterate
    )
    losses = separate(
        features, labels, method="logistic_gd", step_size=sizes, max_steps=10, record=True
    ).losses
    assert losses is not None
    stated = np.array([0.1035, 0.0101, 0.0342, 0.342, 3.42, 34.2])
    yield Check(
        "larger-steps-have-higher-loss",
        "derived",
        "the same instance: loss 0.1035, 0.0101, 0.0342, 0.342, 3.42, 34.2 at step 10",
        losses[10],
        "==",
        stated,
        scale=stated,
        tolerance=5e-3,  # the digits stated
        tolerance_float32=5e-3,
    )


def slopes_from_losses(logits: jax.Array, label: jax.Array) -> Check:
    """The slope that the normalization needs is a function of the loss, for any number of classes."""
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    gradient = jax.grad(loss)(logits, label)
    return Check(
        "slopes-from-losses",
        "derived",
        "1 - exp(-loss) = 1 - p_y = |p - e_y|_1 / 2 for the softmax cross-entropy",
        transforms.logistic_slopes(loss(logits, label)),
        "==",
        jnp.abs(gradient).sum(-1) / 2,
        tolerance_float32=1e-6,
    )


def transformation_is_the_method(seed: int, steps: int = 30) -> Check:
    """Training with the optax transformations gives the iterates of the methods."""
    problems = draw(seed, 20)
    # Of length at most 1, so that the risk does not vanish within these steps.
    problems = problems._replace(examples=problems.examples / problems.radius[:, None, None])

    def train(examples: jax.Array, optimizer: optax.GradientTransformationExtraArgs) -> jax.Array:
        def losses(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
            each = jax.nn.softplus(-examples @ theta)
            return each.mean(), each

        def step(carry: tuple, _: None) -> tuple:
            theta, state = carry
            (value, each), gradient = jax.value_and_grad(losses, has_aux=True)(theta)
            slope = transforms.logistic_slopes(each).mean()
            updates, state = optimizer.update(gradient, state, theta, mean_slope=slope, value=value)
            return (theta + updates, state), None

        theta = jnp.zeros(examples.shape[1], examples.dtype)
        return jax.lax.scan(step, (theta, optimizer.init(theta)), length=steps)[0][0]

    optimizers = {
        "normalized_logistic_gd": transforms.normalized_logistic_gd(0.5),
        "adaptive_logistic": optax.chain(transforms.scale_by_risk("logistic"), optax.sgd(0.5)),
    }
    found, wanted = [], []
    for method, optimizer in optimizers.items():
        found.append(quick_jit(jax.vmap(lambda x, o=optimizer: train(x, o)))(problems.examples))
        path = quick_jit(jax.vmap(lambda x, m=method: follow(x, 0.5, m, steps, stop=False)))(
            problems.examples
        )
        wanted.append(path.iterates[:, -1])
    return Check(
        "transformation-is-the-method",
        "derived",
        "thirty steps with the optax transformations end at the methods' iterates",
        jnp.stack(found),
        "==",
        jnp.stack(wanted),
        scale=steps,
        tolerance_float32=1e-3,
    )


def sums_are_combined_before_the_quotient(examples: jax.Array, theta: jax.Array) -> tuple[Check, Check]:
    """Over shards numerator and denominator are averaged by themselves, and not their quotients."""
    slopes = jax.nn.sigmoid(-examples @ theta)
    whole = slopes @ examples / slopes.sum()
    parts, shares = examples.reshape(2, -1, examples.shape[-1]), slopes.reshape(2, -1)
    numerators = jnp.einsum("sn,snd->sd", shares, parts)
    separate_sums = numerators.mean(0) / shares.sum(1).mean(0)
    quotients = (numerators / shares.sum(1, keepdims=True)).mean(0)
    size = jnp.linalg.norm(examples, axis=-1).max()
    return (
        Check(
            "sums-are-combined-before-the-quotient",
            "derived",
            "mean of the shards' numerators over the mean of their denominators is the whole batch's step",
            separate_sums,
            "==",
            whole,
            scale=size,
            tolerance_float32=1e-5,
        ),
        Check(
            "quotients-of-shards-differ",
            "derived",
            "the mean of the shards' own steps is another step",
            jnp.linalg.norm(quotients - whole) / size,
            ">=",
            1e-3,
        ),
    )


def counts_depend_on_scaled_step(seed: int) -> Check:
    """Rescaling the features by 2 is dividing the step size by 4."""
    problems = draw(seed, 40)
    ones, sizes = jnp.ones(problems.examples.shape[1], jnp.int32), jnp.array([0.25, 4.0, 64.0])

    def count(examples: jax.Array, scale: float) -> jax.Array:
        return separate(scale * examples, ones, step_size=sizes / scale**2, max_steps=3000).count  # pyright: ignore

    one, two = (quick_jit(jax.vmap(lambda x, s=s: count(x, s)))(problems.examples) for s in (1.0, 2.0))
    return Check(
        "counts-depend-on-scaled-step",
        "derived",
        "features times 2 and step size over 4 need the same number of steps",
        one.astype(float),
        "==",
        two.astype(float),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def margin_is_the_solved_maximum(seed: int, cases: int = 25) -> Check:
    """The margin by least squares equals that of a general solver."""
    problems = draw(seed, cases)
    solved, found = [], []
    for examples in np.asarray(problems.examples, np.float64):
        scaled = examples / np.linalg.norm(examples, axis=-1).max()
        result = optimize.minimize(
            lambda v: v @ v / 2,
            np.linalg.lstsq(scaled, np.full(len(scaled), 2.0))[0],
            jac=lambda v: v,
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda v, x=scaled: x @ v - 1, "jac": lambda v, x=scaled: x},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        solved.append(1 / np.linalg.norm(result.x))
        found.append(max_margin(scaled, np.ones(len(scaled), int)))
    return Check(
        "margin-is-the-solved-maximum",
        "derived",
        "mu = 1 / |v| with v the shortest vector of margins at least 1, found by SLSQP",
        np.array(found),
        "==",
        np.array(solved),
        scale=np.array(solved),
        tolerance=1e-6,  # that of SLSQP
        tolerance_float32=1e-4,
    )


def statements(seed: int) -> Iterator[Check]:
    """Limits, tables, and identities."""
    rng = np.random.default_rng(seed)
    examples = jnp.asarray(tied_examples(seed, 100))
    yield perceptron_limit(examples, ("logistic_gd", "batch_perceptron"), step_size=1e4)
    examples = jnp.asarray(tied_examples(seed, 100, normalized=True))
    yield perceptron_limit(examples, ("normalized_logistic_gd", "normalized_perceptron"), step_size=1e4)
    yield loss_over_step_size(seed)
    yield from higher_loss_earlier_separation()
    yield falsify.evaluate(
        slopes_from_losses, (rng.normal(0, 5, (200, 6)), rng.integers(6, size=200).astype(np.int32))
    )
    yield transformation_is_the_method(seed)
    yield from sums_are_combined_before_the_quotient(
        jnp.asarray(rng.normal(size=(16, 3)) + 1.0), jnp.asarray([1.0, -2.0, 0.5])
    )
    yield counts_depend_on_scaled_step(seed)
    yield margin_is_the_solved_maximum(seed)
