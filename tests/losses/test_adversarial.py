"""The adversarial comp-sum losses against plain NumPy, their bounds, and what happens at kinks and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding

from jaxreg import losses

GENERATOR = np.random.default_rng(9)
CLEAN = GENERATOR.normal(size=(16, 4)) * 2
PERTURBED = CLEAN + GENERATOR.normal(size=(16, 4))
LABELS = GENERATOR.integers(4, size=16)
TAU = np.tile([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 0.25], 2)
RHO = np.tile([0.5, 2.0], 8)
NU = np.linspace(0, 3, 16)


def phi(total, tau):
    return np.where(
        tau == 1, np.log1p(total), np.expm1((1 - tau) * np.log1p(total)) / np.where(tau == 1, 1, 1 - tau)
    )


def wrong_differences(scores, labels):
    """The K - 1 differences to the wrong classes."""
    own = np.take_along_axis(scores, labels[..., None], -1)
    keep = np.arange(scores.shape[-1]) != labels[..., None]
    return (own - scores)[keep].reshape(*labels.shape, scores.shape[-1] - 1)


def smooth_by_hand(clean, perturbed, labels, tau, rho, nu):
    delta, moved = (wrong_differences(scores, labels) for scores in (clean, perturbed))
    exponentials = np.exp(-delta / np.asarray(rho)[..., None]).sum(-1)
    return phi(exponentials, tau) + nu * np.linalg.norm(moved - delta, axis=-1)


def margin_by_hand(perturbed, labels, tau, rho):
    hinges = np.clip(1 - wrong_differences(perturbed, labels) / np.asarray(rho)[..., None], 0, 1)
    return phi(hinges.sum(-1), tau)


smooth = jax.jit(losses.smooth_adversarial_comp_sum, static_argnames="axis")
margin = jax.jit(losses.margin_adversarial_comp_sum, static_argnames="axis")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float16, 2e-3), (np.float32, 2e-6), (np.float64, 1e-12)]
)
def test_both_are_their_definitions_in_every_precision(dtype, tolerance):
    clean, perturbed = CLEAN.astype(dtype), PERTURBED.astype(dtype)
    exact = clean.astype(float), perturbed.astype(float)
    found = smooth(clean, perturbed, LABELS, tau=TAU, rho=RHO, nu=NU)
    assert found.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(found, smooth_by_hand(*exact, LABELS, TAU, RHO, NU), rtol=tolerance)
    found = margin(perturbed, LABELS, tau=TAU, rho=RHO)
    np.testing.assert_allclose(found, margin_by_hand(exact[1], LABELS, TAU, RHO), rtol=tolerance, atol=1e-15)


def test_without_weight_the_smooth_loss_is_comp_sum_at_a_temperature():
    found = smooth(CLEAN, PERTURBED, LABELS, tau=1.5, rho=2.0, nu=0.0)
    np.testing.assert_allclose(found, losses.comp_sum(CLEAN / 2, LABELS, tau=1.5), rtol=1e-14)


def test_gradients_are_those_of_finite_differences():
    def total(clean, perturbed, tau, rho, nu):
        found = losses.smooth_adversarial_comp_sum(clean, perturbed, LABELS, tau=tau, rho=rho, nu=nu)
        return jnp.sum(found + losses.margin_adversarial_comp_sum(perturbed, LABELS, tau=tau, rho=rho))

    arguments = (CLEAN, PERTURBED, TAU + 0.01, RHO, NU + 0.1)
    gradients = jax.jit(jax.grad(total, argnums=range(5)))(*arguments)
    for position, gradient in enumerate(gradients):
        direction = GENERATOR.normal(size=arguments[position].shape)
        sides = []
        for step in (1e-6, -1e-6):
            moved = list(arguments)
            moved[position] = arguments[position] + step * direction
            sides.append(total(*moved))
        np.testing.assert_allclose(np.sum(gradient * direction), (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


def test_an_unmoved_input_has_distance_zero_and_gradient_zero():
    value, gradient = jax.value_and_grad(
        lambda moved: losses.smooth_adversarial_comp_sum(CLEAN, moved, LABELS, nu=1.0).sum()
    )(jnp.asarray(CLEAN))
    np.testing.assert_allclose(value, losses.comp_sum(CLEAN, LABELS).sum(), rtol=1e-14)
    assert np.all(gradient == 0)


def test_the_distance_neither_overflows_nor_underflows():
    for size in (1e-30, 1e30):
        moved = jnp.array([[0.0, size, size]], jnp.float32)
        found = smooth(jnp.zeros_like(moved), moved, np.array([0]), tau=2.0, nu=1.0)
        np.testing.assert_allclose(found, 2 / 3 + np.sqrt(2) * size, rtol=1e-6)


def test_removed_classes_do_not_count_and_bad_labels_are_nan():
    keep = np.array([True, True, False, True])
    labels = np.where(LABELS == 2, 3, LABELS)
    fewer, renamed = np.delete(CLEAN, 2, 1), np.where(labels == 3, 2, labels)
    found = smooth(CLEAN, PERTURBED, labels, tau=TAU, where=keep)
    np.testing.assert_allclose(found, smooth(fewer, np.delete(PERTURBED, 2, 1), renamed, tau=TAU), rtol=1e-12)
    found = margin(PERTURBED, labels, tau=TAU, where=keep)
    np.testing.assert_allclose(found, margin(np.delete(PERTURBED, 2, 1), renamed, tau=TAU), rtol=1e-12)
    for bad in (-1, 4, 2):
        assert np.all(np.isnan(smooth(CLEAN, PERTURBED, np.full(16, bad), where=keep)))
        assert np.all(np.isnan(margin(PERTURBED, np.full(16, bad), where=keep)))


def test_infinite_scores_are_limits():
    clean = jnp.array([0.0, -jnp.inf, 1.0])

    def value(clean, rho):
        return losses.smooth_adversarial_comp_sum(clean, clean, 0, rho=rho)

    found, slopes = jax.value_and_grad(value, argnums=(0, 1))(clean, 0.5)
    np.testing.assert_allclose(found, np.log1p(np.exp(2.0)), rtol=1e-6)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    assert margin(jnp.array([-jnp.inf, -jnp.inf, 0.0]), 0, tau=0.0) == 2
    assert margin(jnp.array([0.0, -jnp.inf, -jnp.inf]), 0, tau=0.0) == 0


def test_a_single_class_costs_nothing():
    assert smooth(jnp.ones((3, 1)), jnp.zeros((3, 1)), np.zeros(3, int)).tolist() == [0, 0, 0]
    assert margin(jnp.ones((3, 1)), np.zeros(3, int)).tolist() == [0, 0, 0]


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="perturbed_logits"):
        losses.smooth_adversarial_comp_sum(CLEAN, PERTURBED[:3], LABELS)
    with pytest.raises(TypeError, match="perturbed_logits"):
        losses.smooth_adversarial_comp_sum(CLEAN, PERTURBED.astype(int), LABELS)
    for name, bad in [("tau", -0.1), ("rho", 0.0), ("nu", -1.0), ("rho", np.inf)]:
        with pytest.raises(ValueError, match=name):
            losses.smooth_adversarial_comp_sum(CLEAN, PERTURBED, LABELS, **{name: bad})
    with pytest.raises(ValueError, match="rho"):
        losses.margin_adversarial_comp_sum(PERTURBED, LABELS, rho=-1.0)
    assert np.all(np.isnan(smooth(CLEAN, PERTURBED, LABELS, rho=jnp.full(16, -1.0))))


@given(st.integers(0, 10_000), st.floats(0, 4), st.floats(0.1, 10), st.integers(2, 12))
def test_the_smooth_loss_bounds_the_margin_loss_and_that_the_mistake(seed, tau, rho, classes):
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(32, classes)) * rng.choice([0.1, 1, 10])
    perturbed = clean + rng.normal(size=(32, classes)) * rng.choice([0.01, 1, 10])
    labels = rng.integers(classes, size=32)
    upper = smooth_by_hand(clean, perturbed, labels, tau, rho, np.sqrt(classes - 1) / rho)
    lower = margin_by_hand(perturbed, labels, tau, rho)
    mistake = wrong_differences(perturbed, labels).min(-1) <= 0
    assert np.all(lower <= upper + 1e-12)
    assert np.all(phi(1.0, np.float64(tau)) * mistake <= lower + 1e-12)


def test_explicit_mesh_and_another_class_axis_give_the_same():
    expected = smooth(CLEAN, PERTURBED, LABELS, tau=TAU) + margin(PERTURBED, LABELS, tau=TAU)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Explicit,))
    with jax.set_mesh(mesh):
        batch = jax.device_put((CLEAN, PERTURBED, LABELS, TAU), NamedSharding(mesh, jax.P("data")))

        def both(clean, perturbed, labels, tau):
            first = losses.smooth_adversarial_comp_sum(clean, perturbed, labels, tau=tau)
            return first + losses.margin_adversarial_comp_sum(perturbed, labels, tau=tau)

        np.testing.assert_allclose(jax.jit(both)(*batch), expected, rtol=1e-12)
    found = smooth(CLEAN.T, PERTURBED.T, LABELS, tau=TAU, axis=0)
    np.testing.assert_allclose(found + margin(PERTURBED.T, LABELS, tau=TAU, axis=0), expected, rtol=1e-12)
