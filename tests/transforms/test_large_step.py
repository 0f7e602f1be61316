"""Large-step transformations beyond what every transformation must satisfy."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from scipy import special

from jaxreg import losses, transforms


def problem(seed, rows=32, features=5):
    """Examples, features times labels, that a plane through 0 separates; ``[rows, features]``."""
    rng = np.random.default_rng(seed)
    examples = rng.normal(size=(rows, features))
    direction = rng.normal(size=features)
    return jnp.asarray(examples * np.sign(examples @ direction)[:, None])


def mean_loss(weights, examples):
    per_example = jnp.logaddexp(0.0, -examples @ weights)
    return per_example.mean(), per_example


def gradient_and_slope(weights, examples):
    gradient, per_example = jax.grad(mean_loss, has_aux=True)(weights, examples)
    return gradient, transforms.logistic_slopes(per_example).mean()


def simulate(examples, rate, steps):
    """The method as it is written, in NumPy."""
    weights = np.zeros(examples.shape[1])
    for _ in range(steps):
        slopes = special.expit(-examples @ weights)
        weights = weights + rate * slopes @ examples / slopes.sum()
    return weights


def train(optimizer, examples, steps, dtype=jnp.float64):
    examples = jnp.asarray(examples, dtype)

    @jax.jit
    def step(weights, state):
        (value, per_example), gradient = jax.value_and_grad(mean_loss, has_aux=True)(weights, examples)
        slope = transforms.logistic_slopes(per_example).mean()
        updates, state = optimizer.update(gradient, state, weights, mean_slope=slope, value=value)
        return optax.apply_updates(weights, updates), state

    weights = jnp.zeros(examples.shape[1], dtype)
    state = optimizer.init(weights)
    for _ in range(steps):
        weights, state = step(weights, state)
    return weights


def test_thirty_steps_are_those_of_the_method_as_written():
    examples = problem(1)
    found = train(transforms.normalized_logistic_gd(0.7), examples, 30)
    np.testing.assert_allclose(found, simulate(np.asarray(examples), 0.7, 30), rtol=1e-12)


def test_the_adaptive_steps_are_gradients_of_the_logarithms():
    examples, weights = problem(2), jnp.asarray(np.random.default_rng(2).normal(size=5))
    exponential = lambda w: jnp.exp(-examples @ w).mean()  # noqa: E731
    logistic = lambda w: mean_loss(w, examples)[0]  # noqa: E731
    for name, loss, potential in (
        ("exponential", exponential, lambda w: jnp.log(exponential(w))),
        ("logistic", logistic, lambda w: jnp.log(jnp.expm1(logistic(w)))),
    ):
        transform = transforms.scale_by_risk(name)
        value, gradient = jax.value_and_grad(loss)(weights)
        found = transform.update(gradient, transform.init(weights), value=value)[0]
        np.testing.assert_allclose(found, jax.grad(potential)(weights), rtol=1e-12)


def test_the_default_risk_is_the_logistic_and_infinite_exponential_risk_is_refused():
    value = {"value": jnp.float64(2.0)}
    found = [
        transforms.scale_by_risk(*loss).update(jnp.ones(1), optax.EmptyState(), **value)[0]
        for loss in ((), ("logistic",))
    ]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="value"):
        transforms.scale_by_risk("exponential").update(jnp.ones(1), optax.EmptyState(), value=np.inf)
    assert transforms.scale_by_risk("logistic").update(jnp.ones(1), optax.EmptyState(), value=np.inf)[0] == 1


def test_the_perceptron_counts_a_tie_half():
    examples = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    gradient = jax.grad(lambda w: jnp.maximum(0.0, -examples @ w).mean())(jnp.array([1.0, 0.0]))
    optimizer = transforms.batch_perceptron()
    found = optimizer.update(gradient, optimizer.init(gradient))[0]
    np.testing.assert_allclose(found, np.array([-1.0, 1.5]) / 3, rtol=1e-15)


# -- 0 / 0


@pytest.mark.parametrize("margin", [80.0, 88.0, 100.0, 1e4, 1e30])
def test_float32_stands_still_and_is_never_nan_long_after_separation(margin):
    examples = jnp.eye(2, dtype=jnp.float32)
    weights = jnp.full(2, margin, jnp.float32)
    gradient, slope = gradient_and_slope(weights, examples)
    optimizer = optax.chain(transforms.normalized_logistic_gd(1e3), optax.trace(0.9))
    update = jax.jit(optimizer.update)(gradient, optimizer.init(weights), mean_slope=slope)[0]
    assert np.all(np.isfinite(update))
    if margin > 87.4:
        assert np.all(update == 0)
    else:
        np.testing.assert_allclose(update, 500.0, rtol=1e-4)
    adaptive = transforms.scale_by_risk("logistic")
    value = mean_loss(weights, examples)[0]
    assert np.all(np.isfinite(adaptive.update(gradient, adaptive.init(weights), value=value)[0]))


@pytest.mark.parametrize("rate", [1e-2, 1.0, 1e4, 1e30])
def test_float32_training_goes_on_for_ever_without_nan(rate):
    weights = train(transforms.normalized_logistic_gd(rate), problem(3), 200, jnp.float32)
    assert np.all(np.isfinite(weights))


def test_a_step_is_never_longer_than_the_farthest_example():
    for seed in range(20):
        examples = problem(seed)
        weights = 10.0 ** (seed % 5 - 2) * np.random.default_rng(seed).normal(size=5)
        gradient, slope = gradient_and_slope(jnp.asarray(weights), examples)
        transform = transforms.normalize_by_mean_slope()
        update = transform.update(gradient, optax.EmptyState(), mean_slope=slope)[0]
        assert np.linalg.norm(update) <= np.linalg.norm(examples, axis=-1).max() * (1 + 1e-12)


# -- Slopes from losses


@given(st.floats(-700, 700))
def test_slopes_are_those_of_sixty_digits(margin):
    exact = 1 / (1 + mpmath.exp(mpmath.mpf(margin)))
    found = transforms.logistic_slopes(jnp.logaddexp(0.0, -jnp.float64(margin)))
    np.testing.assert_allclose(float(found), float(exact), rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (jnp.float16, jnp.float32, 1e-6),
        (jnp.bfloat16, jnp.float32, 1e-6),
        (jnp.float32, jnp.float32, 1e-6),
        (jnp.float64, jnp.float64, 1e-15),
    ],
)
def test_slopes_keep_small_losses_and_come_in_at_least_float32(dtype, result, tolerance):
    given_losses = jnp.asarray([0.0, 2.0**-14, 0.5, 3.0, np.inf], dtype)
    found = transforms.logistic_slopes(given_losses)
    assert found.dtype == result
    exact = -np.expm1(-np.asarray(given_losses, np.float64))
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=tolerance)


def test_multiclass_slopes_are_half_the_gradients_l1_norm():
    rng = np.random.default_rng(4)
    logits, labels = jnp.asarray(3 * rng.normal(size=(50, 7))), jnp.asarray(rng.integers(7, size=50))
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
    gradient = jax.grad(lambda f: cross_entropy(f, labels).sum())(logits)
    slopes = transforms.logistic_slopes(cross_entropy(logits, labels))
    np.testing.assert_allclose(slopes, jnp.abs(gradient).sum(-1) / 2, rtol=1e-12)
    np.testing.assert_allclose(slopes, losses.mean_absolute_error(logits, labels) / 2, rtol=1e-12)


def test_a_loss_below_zero_by_rounding_counts_as_zero_and_by_more_is_nan():
    found = transforms.logistic_slopes(jnp.array([-1e-7, -0.0, -0.1, jnp.nan], jnp.float32))
    np.testing.assert_array_equal(found, [0.0, 0.0, np.nan, np.nan])
    with pytest.raises(TypeError, match="losses"):
        transforms.logistic_slopes(jnp.arange(3))


def test_the_derivative_of_a_slope_is_the_probability():
    values = jnp.array([0.0, 0.3, 5.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(transforms.logistic_slopes))(values), jnp.exp(-values))


# -- Several devices


def sharded_steps(mesh, examples, rate, steps):
    """Numerator and denominator averaged over the devices, each by itself, then divided."""
    optimizer = transforms.normalized_logistic_gd(rate)

    def run(part):
        def step(_, weights):
            pair = gradient_and_slope(weights, part)
            gradient, slope = jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "data"), pair)
            return weights + optimizer.update(gradient, optimizer.init(weights), mean_slope=slope)[0]

        return jax.lax.fori_loop(0, steps, step, jnp.zeros(part.shape[1]))

    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P(), check_vma=False))(
        examples
    )


def test_eight_devices_agree_with_one():
    examples = problem(5)
    wanted = simulate(np.asarray(examples), 2.0, 10)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    np.testing.assert_allclose(sharded_steps(mesh, examples, 2.0, 10), wanted, rtol=1e-13)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Explicit,))):
        placed = jax.device_put(examples, jax.P("data"))
        found = train(transforms.normalized_logistic_gd(2.0), placed, 10)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_head_by_large_steps_and_the_rest_by_adamw_learns():
    rng = np.random.default_rng(6)
    inputs = jnp.asarray(rng.normal(size=(64, 8)))
    labels = jnp.argmax(inputs[:, :3] ** 2, axis=-1)
    params = {
        "body": jnp.asarray(rng.normal(size=(8, 32)) / 8**0.5),
        "head": {"kernel": jnp.zeros((32, 3)), "bias": jnp.zeros(3)},
    }
    optimizer = optax.multi_transform(
        {"head": transforms.normalized_logistic_gd(1.0), "body": optax.adamw(1e-2)},
        {"head": "head", "body": "body"},
    )

    def objective(params):
        hidden = jax.nn.relu(inputs @ params["body"])
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        cross_entropy = losses.generalized_cross_entropy(logits, labels, q=0.0)
        return cross_entropy.mean(), (logits, transforms.logistic_slopes(cross_entropy).mean())

    def step(carry, _):
        params, state = carry
        gradient, (logits, slope) = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params, mean_slope=slope)
        accuracy = jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float64))
        return (optax.apply_updates(params, updates), state), accuracy

    with jax.numpy_dtype_promotion("standard"):
        _, accuracy = jax.jit(lambda carry: jax.lax.scan(step, carry, length=300))(
            (params, optimizer.init(params))
        )
    assert accuracy[-50:].max() > 0.97
