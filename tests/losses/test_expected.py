"""The expectation of a loss over a distribution of labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg.losses import expected, generalized_cross_entropy, ldr_kl, mean_absolute_error

GENERATOR = np.random.default_rng(5)
LOGITS = 2 * GENERATOR.normal(size=(4, 3, 5))
PROBABILITIES = GENERATOR.dirichlet(np.ones(5), size=(4, 3))


def loop(loss, logits, probabilities, **hyper):
    labels = range(logits.shape[-1])
    each = [loss(logits, np.full(logits.shape[:-1], y), **hyper) for y in labels]
    return sum(probabilities[..., y] * each[y] for y in labels)


@pytest.mark.parametrize(
    ("loss", "hyper"),
    [
        (ldr_kl, {"temperature": 0.5, "margin": 0.3}),
        (ldr_kl, {"temperature": np.array([0.5, 1, 2]), "margin": 0.3}),
        (generalized_cross_entropy, {"q": 0.4}),
        (mean_absolute_error, {}),
    ],
)
def test_expectation_is_the_weighted_sum_over_the_labels(loss, hyper):
    found = jax.jit(lambda z, p: expected(loss)(z, p, **hyper))(LOGITS, PROBABILITIES)
    np.testing.assert_allclose(found, loop(loss, LOGITS, PROBABILITIES, **hyper), rtol=1e-13)


def test_one_hot_probabilities_give_the_loss_of_the_label():
    labels = GENERATOR.integers(5, size=(4, 3))
    found = expected(ldr_kl)(LOGITS, np.eye(5)[labels], temperature=0.5)
    np.testing.assert_allclose(found, ldr_kl(LOGITS, labels, temperature=0.5), rtol=1e-13)


def test_cross_entropy_of_smoothed_labels_is_optax_cross_entropy():
    found = expected(ldr_kl)(LOGITS, PROBABILITIES)
    soft = -np.sum(PROBABILITIES * jax.nn.log_softmax(LOGITS), -1)
    np.testing.assert_allclose(found, soft - np.log(5), rtol=1e-12, atol=1e-12)


def test_expectation_is_linear_in_the_probabilities_with_the_losses_as_gradient():
    slope = jax.grad(lambda p: expected(mean_absolute_error)(LOGITS, p).sum())(PROBABILITIES)
    for y in range(5):
        np.testing.assert_allclose(slope[..., y], mean_absolute_error(LOGITS, np.full((4, 3), y)), rtol=1e-13)


def test_gradient_and_hessian_of_the_logits_are_those_of_the_weighted_sum():
    def risk(z):
        return expected(generalized_cross_entropy)(z, PROBABILITIES[0, 0], q=0.4)

    def direct(z):
        return jnp.dot(PROBABILITIES[0, 0], (1 - jax.nn.softmax(z) ** 0.4) / 0.4)

    for derivative in (jax.jacrev, jax.jacfwd, jax.hessian):
        np.testing.assert_allclose(
            jax.jit(derivative(risk))(LOGITS[0, 0]), jax.jit(derivative(direct))(LOGITS[0, 0]), atol=1e-13
        )


def test_symmetric_loss_has_the_same_expectation_under_uniform_labels_everywhere():
    uniform = np.full(LOGITS.shape, 1 / 5)
    np.testing.assert_allclose(expected(mean_absolute_error)(LOGITS, uniform), 2 * 4 / 5, rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
def test_class_axis_may_stand_anywhere(axis):
    moved = (np.moveaxis(array, -1, axis) for array in (LOGITS, PROBABILITIES))
    found = expected(ldr_kl)(*moved, axis=axis, temperature=0.5)
    np.testing.assert_allclose(found, expected(ldr_kl)(LOGITS, PROBABILITIES, temperature=0.5), rtol=1e-13)


def test_removed_class_without_probability_equals_deleting_it():
    kept = np.array([True, True, False, True, True])
    p = PROBABILITIES * kept
    p /= p.sum(-1, keepdims=True)
    found, pullback = jax.vjp(lambda z: expected(ldr_kl)(z, p, where=kept, temperature=0.5), LOGITS)
    deleted, pullback_deleted = jax.vjp(
        lambda z: expected(ldr_kl)(z, p[..., kept], temperature=0.5), LOGITS[..., kept]
    )
    np.testing.assert_allclose(found, deleted, rtol=1e-13)
    slope = pullback(jnp.ones_like(found))[0]
    np.testing.assert_allclose(slope[..., kept], pullback_deleted(jnp.ones_like(found))[0], atol=1e-14)
    assert np.all(slope[..., ~kept] == 0)


def test_removed_class_with_probability_gives_nan():
    kept = np.array([True, True, False, True, True])
    assert np.all(np.isnan(expected(ldr_kl)(LOGITS, PROBABILITIES, where=kept)))


def test_class_without_probability_does_not_count_even_where_its_loss_is_infinite():
    logits, probabilities = np.array([1.0, -np.inf, 0.0]), np.array([0.25, 0.0, 0.75])
    value, slope = jax.value_and_grad(expected(ldr_kl))(logits, probabilities)
    finite = np.array([1.0, -1e6, 0.0])
    expected_value, expected_slope = jax.value_and_grad(expected(ldr_kl))(finite, probabilities)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes_are_those_of_the_loss(dtype):
    logits, probabilities = jnp.asarray(LOGITS, dtype), jnp.asarray(PROBABILITIES, dtype)
    value, pullback = jax.vjp(lambda z: expected(ldr_kl)(z, probabilities), logits)
    assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
    assert pullback(jnp.ones_like(value))[0].dtype == dtype


def test_probabilities_of_another_precision_are_accepted():
    found = expected(ldr_kl)(jnp.asarray(LOGITS, jnp.float32), PROBABILITIES)
    np.testing.assert_allclose(found, expected(ldr_kl)(LOGITS, PROBABILITIES), rtol=1e-5, atol=1e-5)


def test_wrong_shapes_and_dtypes_are_refused_by_name():
    with pytest.raises(ValueError, match="probabilities"):
        expected(ldr_kl)(LOGITS, PROBABILITIES[..., :3])
    with pytest.raises(TypeError, match="probabilities"):
        expected(ldr_kl)(LOGITS, np.ones(LOGITS.shape, int))
    with pytest.raises(TypeError, match="logits"):
        expected(ldr_kl)(LOGITS.astype(int), PROBABILITIES)
    with pytest.raises(ValueError, match="temperature"):
        expected(ldr_kl)(LOGITS, PROBABILITIES, temperature=-1.0)
    kept = np.full(LOGITS.shape, True)
    for wrong, error, message in (
        ({"axis": 3}, ValueError, r"axis must be an int in \[-3, 2\], got 3"),
        ({"axis": "last"}, ValueError, "axis must be an int"),
        ({"where": kept[..., :3]}, ValueError, r"where must broadcast to logits.*\(4, 3, 3\)"),
        ({"where": kept[None]}, ValueError, "where must broadcast to logits"),
        ({"where": kept.astype(float)}, TypeError, "where must be boolean"),
        ({"where": kept.astype(int)}, TypeError, "where must be boolean"),
    ):
        with pytest.raises(error, match=message):
            expected(ldr_kl)(LOGITS, PROBABILITIES, **wrong)
    with pytest.raises(ValueError, match="logits must have a class axis"):
        expected(ldr_kl)(1.0, 1.0)


def test_it_works_on_an_explicit_mesh_and_under_vmap():
    logits, probabilities = np.tile(LOGITS[:, 0], (4, 1)), np.tile(PROBABILITIES[:, 0], (4, 1))
    reference = expected(ldr_kl)(logits, probabilities, temperature=0.5)
    one = jax.vmap(lambda z, p: expected(ldr_kl)(z, p, temperature=0.5))
    np.testing.assert_allclose(one(logits, probabilities), reference, rtol=1e-13)
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        batch = jax.device_put((logits, probabilities), jax.NamedSharding(mesh, jax.P("data")))

        def values_and_gradient(z, p):
            values, pullback = jax.vjp(lambda z: expected(ldr_kl)(z, p, temperature=0.5), z)
            return values, pullback(jnp.ones_like(values))[0]

        values, slope = jax.jit(values_and_gradient)(*batch)
    np.testing.assert_allclose(values, reference, rtol=1e-13)
    assert slope.shape == logits.shape
