"""Self-tuning: both steps by hand, the scale's fixed point, warm-up, compilation, devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from jaxreg import bilevel
from jaxreg.bilevel import History, NetworkLoss, SelfTuning, SelfTuningState, self_tuning
from tests import plain_layers

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 8, 3)), RNG.normal(size=(3, 8, 2))
TRAIN, VALID = (X[:2], Y[:2]), (X[2:], Y[2:])
KEY, OTHER = jax.random.key(0), jax.random.key(1)
TAU = 0.01
RATES = {"inner": 0.1, "outer": 0.5, "scale": 0.25}


def network(params, hyperparameters, values, batch, key):
    del values, key
    return bilevel.best_response_dense(params["layer"], batch[0], hyperparameters) + params["offset"]


def penalised(outputs, values, batch):
    return jnp.mean(jnp.sum((outputs - batch[1]) ** 2 + values["penalty"][:, None] * outputs**2, axis=-1))


def valid_loss(params, hyperparameters, values, batch, key):
    return jnp.mean(jnp.sum((network(params, hyperparameters, values, batch, key) - batch[1]) ** 2, axis=-1))


def tuner(**changes):
    options = {name: optax.sgd(rate) for name, rate in RATES.items()}
    options |= {"entropy_weight": TAU, **changes}
    return self_tuning(NetworkLoss(network, penalised), valid_loss, **options)


def start(scale=0.5):
    layer = bilevel.best_response_dense_init(KEY, 3, 2, 1, gate_scale=1.0, dtype=jnp.float64)
    return {"layer": layer, "offset": jnp.array([0.1, -0.2])}, {"penalty": bilevel.Positive(0.7, scale=scale)}


def softplus(x):
    return np.log1p(np.exp(x))


# -- By hand: weights of each example written out, gradients of them in NumPy


def outputs(params, lam, x):
    """Of each example, by its own weights."""
    rows = [plain_layers.responding(params["layer"], mine) for mine in lam]
    return np.stack([x[i] @ w + b for i, (w, b) in enumerate(rows)]) + np.asarray(params["offset"])


def layer_gradient(layer, lam, x, error):
    """From the derivative ``error`` with respect to each output ``[B, outputs]``."""
    gate, n = np.asarray(layer.gate), layer.outputs
    v, c = lam @ gate[:, :n], lam @ gate[:, n:]
    kernel = np.concatenate([x.T @ error, x.T @ (v * error)], axis=1)
    bias = np.concatenate([error.sum(0), (c * error).sum(0)])
    inner = np.concatenate(
        [error * (x @ np.asarray(layer.response_kernel)), error * np.asarray(layer.response_bias)], 1
    )
    return kernel, lam.T @ inner, bias, inner @ gate.T


def trained(params, lam, x, y, rate):
    """One step of descent on the penalised loss."""
    f, penalty = outputs(params, lam, x), softplus(lam)
    error = 2 * (f - y + penalty * f) / len(x)
    kernel, gate, bias, _ = layer_gradient(params["layer"], lam, x, error)
    layer = params["layer"]._replace(
        kernel=params["layer"].kernel - rate * kernel,
        gate=params["layer"].gate - rate * gate,
        bias=params["layer"].bias - rate * bias,
    )
    loss = np.mean(np.sum((f - y) ** 2 + penalty * f**2, axis=1))
    return {"layer": layer, "offset": params["offset"] - rate * error.sum(0)}, loss


def assert_trees_close(found, wanted, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, wanted)


def draws(hyper, key):
    """The noise is the public one, with the first of the step's two keys."""
    return np.asarray(bilevel.perturb(hyper, jax.random.split(key)[0], 8).unconstrained)


@pytest.fixture(scope="module")
def alternated(numerics):
    tuning = tuner()
    assert isinstance(tuning, SelfTuning)
    before = tuning.init(*start())
    return tuning, before, *tuning.step(before, TRAIN, VALID, OTHER)


def test_an_alternation_is_two_steps_of_training_and_one_of_tuning_by_hand(alternated):
    _, before, state, history = alternated
    params, hyper = start()
    keys = jax.random.split(OTHER, 3)
    for index in range(2):
        params, loss = trained(params, draws(hyper, keys[index]), X[index], Y[index], RATES["inner"])
        np.testing.assert_allclose(history.train_loss[index], loss, rtol=1e-12)
    assert_trees_close(state.params, params)
    lam = draws(hyper, keys[2])
    error = outputs(params, lam, X[2]) - Y[2]
    by_example = layer_gradient(params["layer"], lam, X[2], 2 * error / 8)[3]
    u, xi = np.asarray(hyper["penalty"].unconstrained), np.asarray(hyper["penalty"].raw_scale)
    sigma, slope = softplus(xi), 1 / (1 + np.exp(-xi))
    along_scale = np.sum(by_example * (lam - u) / sigma) * slope - TAU * slope / sigma
    node = state.hyperparameters["penalty"]
    np.testing.assert_allclose(node.unconstrained, u - RATES["outer"] * by_example.sum(), rtol=1e-12)
    np.testing.assert_allclose(node.raw_scale, xi - RATES["scale"] * along_scale, rtol=1e-12)
    np.testing.assert_allclose(history.valid_loss, [np.mean(np.sum(error**2, axis=1))], rtol=1e-12)
    assert state.steps == 2
    assert isinstance(state, SelfTuningState) and isinstance(history, History)
    assert_trees_close(history.values, {"penalty": node.constrain()[None]})
    assert_trees_close(
        (history.unconstrained, history.scales), (node.unconstrained[None, None], node.scale[None, None])
    )
    for after, given in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
        assert (after.shape, after.dtype) == (given.shape, given.dtype)


def test_optimisers_that_accumulate_gradients_step_with_their_mean():
    steps = {name: optax.MultiSteps(optax.sgd(rate), 2) for name, rate in RATES.items()}
    tuning = self_tuning(NetworkLoss(network, penalised), valid_loss, **steps, entropy_weight=TAU)
    with jax.numpy_dtype_promotion("standard"):
        begin = tuning.init(*start())
        once, _ = tuning.tune_step(begin, (X[2], Y[2]), KEY)
        twice, _ = tuning.tune_step(once, (X[2], Y[2]), OTHER)
        state, _ = tuning.step(begin, TRAIN, VALID, OTHER)
    assert_trees_close(once.hyperparameters, begin.hyperparameters, 0)
    plain = tuner()
    moved = [plain.tune_step(plain.init(*start()), (X[2], Y[2]), key)[0] for key in (KEY, OTHER)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *(s.hyperparameters for s in moved))
    assert_trees_close(twice.hyperparameters, mean, 1e-6)  # optax accumulates in float32
    keys, both = jax.random.split(OTHER, 3), []
    for index in range(2):
        params, hyper = start()
        both.append(trained(params, draws(hyper, keys[index]), X[index], Y[index], RATES["inner"])[0])
    assert_trees_close(state.params, jax.tree.map(lambda a, b: (a + b) / 2, *both), 1e-6)


def test_single_steps_make_up_the_alternation(alternated):
    tuning, state, wanted, _ = alternated
    keys = jax.random.split(OTHER, 3)
    for index in range(2):
        state, _ = tuning.train_step(state, (X[index], Y[index]), keys[index])
    state, _ = tuning.tune_step(state, (X[2], Y[2]), keys[2])
    assert_trees_close(state, wanted)


def test_a_centred_alternation_by_hand():
    tuning = tuner(centred=True, train_steps=1)
    params, hyper = start()
    state, history = tuning.step(tuning.init(params, hyper), (X[:1], Y[:1]), VALID, OTHER)
    keys = jax.random.split(OTHER, 2)
    u = np.asarray(hyper["penalty"].unconstrained)
    still, drawn = np.full((8, 1), u), draws(hyper, keys[0])
    # This network is linear in its weights: its linearisation is itself at fixed elementary parts.
    f0 = outputs(params, np.zeros((8, 1)), X[0])
    error = 2 * (f0 - Y[0] + softplus(still) * f0) / 8
    f = outputs(params, drawn - u, X[0])
    moved = 2 * (f - Y[0] + softplus(drawn) * f) / 8
    elementary = layer_gradient(params["layer"], np.zeros((8, 1)), X[0], error)
    response = layer_gradient(params["layer"], drawn - u, X[0], moved)
    layer, rate, n = params["layer"], RATES["inner"], 2
    layer = layer._replace(
        kernel=layer.kernel - rate * np.concatenate([elementary[0][:, :n], response[0][:, n:]], axis=1),
        gate=layer.gate - rate * response[1],
        bias=layer.bias - rate * np.concatenate([elementary[2][:n], response[2][n:]]),
    )
    params = {"layer": layer, "offset": params["offset"] - rate * error.sum(0)}
    loss = np.mean(np.sum((f0 - Y[0]) ** 2 + softplus(still) * f0**2, axis=1))
    np.testing.assert_allclose(history.train_loss, [loss], rtol=1e-12)
    deviation = draws(hyper, keys[1]) - u
    off = 2 * (outputs(params, deviation, X[2]) - Y[2]) / 8
    shift = -RATES["outer"] * layer_gradient(layer, deviation, X[2], off)[3].sum()
    np.testing.assert_allclose(state.hyperparameters["penalty"].unconstrained, u + shift, rtol=1e-12)
    # Re-centred: what is computed at any hyper-parameters is what the trained parameters compute there.
    for at in (0.0, 0.4):
        found = outputs(state.params, np.full((8, 1), at - shift), X[2])
        np.testing.assert_allclose(found, outputs(params, np.full((8, 1), at), X[2]), rtol=1e-11, atol=1e-12)


def test_the_scale_settles_where_the_entropy_and_the_curvature_balance():
    curvature, weight, centre = 3.0, 0.06, 1.25

    def quadratic(params, hyperparameters, values, batch, key):
        del params, values, batch, key
        return 0.5 * curvature * jnp.mean((hyperparameters[:, 0] - centre) ** 2)

    tuning = self_tuning(
        quadratic,
        quadratic,
        inner=optax.sgd(0.0),
        outer=optax.sgd(0.1),
        scale=optax.sgd(0.5),
        entropy_weight=weight,
        batch_size=512,
    )
    keys = jax.random.split(KEY, 400)
    tree = bilevel.Unbounded(0.0, scale=1.0)
    run = jax.jit(
        lambda: jax.lax.scan(lambda s, k: tuning.tune_step(s, {}, k), tuning.init(jnp.zeros(1), tree), keys)
    )
    state = run()[0]
    np.testing.assert_allclose(state.hyperparameters.scale, math.sqrt(weight / curvature), rtol=0.03)
    np.testing.assert_allclose(state.hyperparameters.unconstrained, centre, atol=0.03)


def test_until_the_end_of_the_warm_up_only_the_parameters_move_and_training_is_perturbed():
    tuning = tuner(warmup_steps=3, outer=optax.adam(0.1), scale=optax.adam(0.1))
    with jax.numpy_dtype_promotion("standard"):
        begin = tuning.init(*start())
        first, history = tuning.step(begin, TRAIN, VALID, OTHER)
        second, _ = tuning.step(first, TRAIN, VALID, KEY)
    for name in ("hyperparameters", "outer_state", "scale_state"):
        assert_trees_close(getattr(first, name), getattr(begin, name), 0)
    params = begin.params
    for index, key in enumerate(jax.random.split(OTHER, 3)[:2]):
        params, _ = trained(params, draws(begin.hyperparameters, key), X[index], Y[index], RATES["inner"])
    assert_trees_close(first.params, params)
    assert np.isfinite(history.valid_loss[0])
    assert second.hyperparameters["penalty"].unconstrained != begin.hyperparameters["penalty"].unconstrained


def test_fixed_scales_unperturbed_validation_and_more_to_report():
    def reported(params, hyperparameters, values, batch, key):
        return valid_loss(params, hyperparameters, values, batch, key), (hyperparameters, values, key)

    tuning = self_tuning(
        reported,
        reported,
        inner=optax.sgd(0.1),
        outer=optax.sgd(0.1),
        scale=None,
        perturb_validation=False,
        has_aux=True,
    )
    state, history = tuning.step(tuning.init(*start()), TRAIN, VALID, OTHER)
    (_, (given, values, keys)), (_, (still, still_values, _)) = history.train_loss, history.valid_loss
    assert given.shape == (2, 8, 1) and still.shape == (1, 1)
    np.testing.assert_allclose(values["penalty"], softplus(given[..., 0]), rtol=1e-12)
    np.testing.assert_allclose(still_values["penalty"], np.full((1, 8), 0.7), rtol=1e-12)
    assert len(np.unique(given)) == 16 and keys[0] != keys[1]
    node, before = state.hyperparameters["penalty"], start()[1]["penalty"]
    assert node.raw_scale == before.raw_scale and node.unconstrained != before.unconstrained


def test_nothing_is_traced_again_as_values_change():
    traces = []

    def counted(*arguments):
        traces.append(None)
        return valid_loss(*arguments)

    tuning = self_tuning(counted, valid_loss, **{name: optax.sgd(rate) for name, rate in RATES.items()})
    state, _ = tuning.step(tuning.init(*start()), TRAIN, VALID, KEY)
    once = len(traces)
    tuning.step(state, VALID and (X[1:], Y[1:]), VALID, OTHER)
    tuning.step(tuning.init(*start(scale=0.1)), TRAIN, VALID, OTHER)
    assert len(traces) == once


def test_few_steps_are_compiled_without_a_loop_in_which_convolutions_are_slow():
    def marked(*arguments):
        with jax.named_scope("marked_loss"):
            return valid_loss(*arguments)

    rates = {name: optax.sgd(rate) for name, rate in RATES.items()}
    for batches in ((TRAIN, VALID), (VALID, TRAIN)):
        counts = {"train_steps": len(batches[0][0]), "valid_steps": len(batches[1][0])}
        tuning = self_tuning(marked, marked, **rates, **counts)
        text = tuning.step.lower(tuning.init(*start()), *batches, KEY).compile().as_text()
        assert re.search("marked_loss", text) and not re.search(r'while[^"]*marked_loss', text)


def test_vectorised_over_seeds(alternated):
    tuning, state, wanted, history = alternated
    keys = jnp.stack([KEY, OTHER])
    many, series = jax.vmap(tuning.step, (None, None, None, 0))(state, TRAIN, VALID, keys)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[1], (many, series)), (wanted, history))


def test_on_eight_devices_by_every_way_to_use_them(alternated):
    tuning, state, wanted, _ = alternated
    batches = TRAIN, VALID
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Explicit,))):
        placed = jax.device_put(batches, jax.P(None, "data"))
        found, _ = tuning.step(state, *placed, OTHER)
        assert_trees_close(found, wanted)
    # Each device draws noise of its own here; without noise it does not matter.
    mean = {
        "train_loss": NetworkLoss(network, lambda *a: jax.lax.pmean(penalised(*a), "data")),
        "valid_loss": lambda *a: jax.lax.pmean(valid_loss(*a), "data"),
    }
    options = {name: optax.sgd(rate) for name, rate in RATES.items()}
    local, whole = self_tuning(**mean, **options), tuner(entropy_weight=1e-3)
    quiet = whole.init(*start(scale=1e-30))
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    part = jax.P(None, "data")
    run = jax.shard_map(
        lambda s, t, v, k: local.step(s, t, v, k)[0],
        mesh=mesh,
        in_specs=(jax.P(), part, part, jax.P()),
        out_specs=jax.P(),
    )
    assert_trees_close(jax.jit(run)(quiet, *batches, OTHER), whole.step(quiet, *batches, OTHER)[0])


def test_wrong_arguments_are_refused_by_name():
    loss, rates = NetworkLoss(network, penalised), {name: optax.sgd(rate) for name, rate in RATES.items()}
    for changes, error, name in (
        ({"train_steps": 0}, ValueError, "train_steps"),
        ({"train_steps": 1.0}, TypeError, "train_steps"),
        ({"valid_steps": 0}, ValueError, "valid_steps"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps"),
        ({"entropy_weight": -1.0}, ValueError, "entropy_weight"),
        ({"inner": None}, TypeError, "inner"),
        ({"outer": 0.1}, TypeError, "outer"),
        ({"scale": 0.1}, TypeError, "scale"),
    ):
        with pytest.raises(error, match=name):
            self_tuning(loss, valid_loss, **{**rates, **changes})
    with pytest.raises(TypeError, match="valid_loss"):
        self_tuning(loss, None, **rates)
    with pytest.raises(TypeError, match="train_loss must be a NetworkLoss"):
        self_tuning(valid_loss, valid_loss, centred=True, **rates)
    tuning = self_tuning(lambda *a: jnp.ones(2), valid_loss, **rates)
    state = tuning.init(*start())
    with pytest.raises(ValueError, match="train_loss must return a scalar"):
        tuning.train_step(state, (X[0], Y[0]), KEY)
    with pytest.raises(ValueError, match="batch"):
        tuning.train_step(state, 1.0, KEY)
    with pytest.raises(ValueError, match="train_batches"):
        tuning.step(state, VALID, VALID, KEY)
    with pytest.raises(ValueError, match="valid_batches"):
        tuning.step(state, TRAIN, TRAIN, KEY)
    with pytest.raises(TypeError, match="hyperparameters"):
        tuning.init(start()[0], {"penalty": 0.5})
    with pytest.raises(ValueError, match="BestResponse"):
        tuner(centred=True).init({"w": jnp.ones(2)}, start()[1])
