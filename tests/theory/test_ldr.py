import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxreg import losses
from jaxreg.theory import oracles
from jaxreg.theory.ldr import adaptive, adaptive_minimisers, consistency, domains, symmetry, uniqueness, value
from jaxreg.theory.ldr import stationary as ldr_stationary
from jaxreg.theory.ldr import temperature as ldr_temperature
from jaxreg.theory.risk import sum_over_labels
from tests import suites

# One worker, so that the suite is evaluated once.
pytestmark = pytest.mark.xdist_group("theory_ldr")


@pytest.fixture(scope="module")
def rows():
    return suites.rows("ldr")


def test_the_strong_statements_are_among_them(rows):
    strong = {
        "excess-risk-is-a-divergence",
        "minimiser-is-tempered-logarithm",
        "adaptive-minimiser",
        "uniqueness-threshold",
        "single-stationary-point-at-128-classes",
        "three-stationary-points-at-200-classes",
        "alternation-is-below-the-maximum",
        "alternation-can-miss-the-maximum",
        "small-alpha-ties",
        "float32-at-every-temperature",
        "symmetric-yet-consistent",
    }
    assert strong <= {row.name for row in rows}


# Each statement fails for a loss that is wrong in the way it is about.


def scores_and_labels(cases=64, num_classes=6):
    rng = np.random.default_rng(5)
    return oracles.draw_scores(rng, cases, num_classes), oracles.draw_labels(rng, cases, num_classes)


def wrong_without_the_constant(logits, labels, *, temperature=1.0, margin=0.0, **axes):
    right = losses.ldr_kl.right(logits, labels, temperature=temperature, margin=margin, **axes)
    return right + temperature * math.log(logits.shape[-1])


def wrong_with_the_label_in_the_margin(logits, labels, *, temperature=1.0, margin=0.0, **axes):
    return losses.ldr_kl.right(logits, labels, temperature=temperature, **axes) + margin


def wrong_textbook_form(logits, labels, *, temperature=1.0, margin=0.0, **axes):
    gaps = value.label_gaps(jnp.asarray(logits), jnp.asarray(labels), margin)
    scaled = gaps / jnp.asarray(temperature, gaps.dtype)[..., None]
    return temperature * (jax.nn.logsumexp(scaled, axis=-1) - math.log(gaps.shape[-1]))


def wrong_temperature_gradient(logits, labels, *, temperature=1.0, margin=0.0, **axes):
    frozen = jax.lax.stop_gradient(jnp.asarray(temperature, logits.dtype))
    return losses.ldr_kl.right(logits, labels, temperature=frozen, margin=margin, **axes)


def replace(monkeypatch, name, wrong):
    wrong.right = getattr(losses, name)
    monkeypatch.setattr(losses, name, wrong)


def test_a_forgotten_constant_is_not_the_supremum(monkeypatch):
    scores, labels = scores_and_labels(5, 4)
    replace(monkeypatch, "ldr_kl", wrong_without_the_constant)
    assert not value.value_is_the_solved_maximum(scores, labels, 0.7, 0.4).holds()


def test_a_margin_for_the_label_too_is_not_the_supremum(monkeypatch):
    scores, labels = scores_and_labels(5, 4)
    replace(monkeypatch, "ldr_kl", wrong_with_the_label_in_the_margin)
    assert not value.value_is_the_solved_maximum(scores, labels, 0.7, 0.4).holds()
    assert value.value_is_the_solved_maximum(scores, labels, 0.7, 0.0).holds()


def test_the_textbook_form_fails_at_high_temperature(monkeypatch):
    replace(monkeypatch, "ldr_kl", wrong_textbook_form)
    assert not ldr_temperature.accurate_at_every_temperature(np.random.default_rng(0)).holds()


def test_a_frozen_temperature_has_the_wrong_slope(monkeypatch):
    scores, labels = map(jnp.asarray, scores_and_labels())
    replace(monkeypatch, "ldr_kl", wrong_temperature_gradient)
    ones = jnp.ones(labels.shape)
    claim = oracles.quick_jit(ldr_temperature.slope_in_the_temperature)
    assert not claim(scores, labels, temperature=ones, margin=ones).holds()


def test_a_tempered_loss_fails_the_statement_of_symmetry(monkeypatch):
    scores, _ = scores_and_labels()
    hot = functools.partial(losses.ldr_kl, temperature=1e3)
    monkeypatch.setattr(losses, "ldr_kl", lambda f, y, temperature, margin: hot(f, y, margin=margin))
    claim = functools.partial(symmetry.hot_loss_is_symmetric, margin=0.5)
    assert not oracles.quick_jit(claim)(jnp.asarray(scores)).holds()


def test_another_temperature_has_another_minimiser(monkeypatch):
    q = oracles.separated_probabilities(np.random.default_rng(0), 3, 4)
    right = losses.ldr_kl
    monkeypatch.setattr(
        losses, "ldr_kl", lambda f, y, temperature: right(f, y, temperature=1.01 * temperature)
    )
    assert not consistency.minimiser_is_the_tempered_logarithm(q, 0.7).holds()


def test_the_wrong_cap_is_not_the_linear_program(monkeypatch):
    scores, labels = scores_and_labels(5, 6)
    right = losses.ldr_top_k
    monkeypatch.setattr(losses, "ldr_top_k", lambda f, y, k, **rest: right(f, y, k=k - 1, **rest))
    assert not domains.top_k_mean_is_the_linear_program(scores, labels, 3, 0.5).holds()
    assert not domains.capped_softmax_by_bisection(scores, labels, 3, 0.7, 0.5).holds()


def adaptive_by_alternation(logits, labels, *, temperature=1.0, alpha=2.0, margin=0.0):
    """The largest stationary temperature instead of the best one."""
    gaps = value.label_gaps(logits, labels, margin)
    strength = jnp.asarray(alpha)[..., None] * math.log(gaps.shape[-1]) / temperature

    def update(_, lam):
        return temperature - value.kl_to_uniform(jax.nn.softmax(gaps / lam, axis=-1))[..., None] / strength

    lam = jax.lax.fori_loop(0, 300, update, jnp.full((*labels.shape, 1), float(temperature)))[..., 0]
    strength = strength[..., 0]
    return (
        losses.ldr_kl(logits, labels, temperature=lam, margin=margin)
        - strength / 2 * (lam - temperature) ** 2
    )


def test_the_alternation_is_not_the_global_maximum(monkeypatch):
    monkeypatch.setattr(losses, "aldr_kl", adaptive_by_alternation)
    assert not uniqueness.alternation_can_miss().holds()


def test_a_frozen_adaptive_temperature_has_the_wrong_hessian(monkeypatch):
    def frozen(logits, labels, *, alpha=2.0):
        lam = jax.lax.stop_gradient(losses.aldr_temperature(logits, labels, alpha=alpha))
        return losses.ldr_kl(logits, labels, temperature=lam)

    scores, labels = scores_and_labels(3, 4)
    monkeypatch.setattr(losses, "aldr_kl", frozen)
    claim = functools.partial(adaptive.hessian_has_the_implicit_term, alpha=2.0)
    assert not oracles.quick_jit(claim)(jnp.asarray(scores), jnp.asarray(labels)).holds()


def test_a_fixed_temperature_is_not_the_adaptive_minimiser(monkeypatch):
    q = oracles.separated_probabilities(np.random.default_rng(0), 2, 4)
    fixed = losses.ldr_kl
    monkeypatch.setattr(
        losses, "aldr_kl", lambda f, y, temperature, alpha: fixed(f, y, temperature=temperature)
    )
    assert not adaptive_minimisers.adaptive_minimiser(q, temperature=1.3, alpha=2.0).holds()


# The functions a theorist calls.


def test_the_threshold_is_attained_at_the_heaviest_distribution():
    for num_classes in (2, 10, 1000):
        heavy, light = ldr_stationary.heaviest_distribution(num_classes)
        p = np.append(heavy, np.full(num_classes - 1, light))
        assert np.isclose(p.sum(), 1)
        mean = p @ np.log(p)
        attained = p @ (np.log(p) - mean) ** 2 + oracles.kl_to_uniform(p)
        threshold = ldr_stationary.uniqueness_threshold(num_classes)
        assert np.isclose(attained / math.log(num_classes), threshold, atol=1e-4)


def test_a_single_class_has_no_threshold():
    with pytest.raises(ValueError, match="num_classes"):
        ldr_stationary.uniqueness_threshold(1)


def test_the_slope_of_the_curve_is_its_derivative():
    gaps, temperatures, step = np.array([0.0, 2.0, -1.0]), np.linspace(0.3, 1, 20), 1e-6
    hyper = {"temperature": 1.0, "alpha": 1.5, "counts": np.array([3.0, 1.0, 5.0])}
    above, below = (ldr_stationary.curve(gaps, temperatures + h, **hyper).value for h in (step, -step))
    slope = ldr_stationary.curve(gaps, temperatures, **hyper).slope
    np.testing.assert_allclose((above - below) / (2 * step), slope, atol=1e-8)


def test_counts_repeat_entries_of_the_gaps():
    once = ldr_stationary.curve(np.array([1.0, 0.0, 0.0]), np.array([0.4]), temperature=1.0, alpha=2.0)
    counted = ldr_stationary.curve(
        np.array([1.0, 0.0]), np.array([0.4]), temperature=1.0, alpha=2.0, counts=np.array([1.0, 2.0])
    )
    np.testing.assert_allclose(once, counted, rtol=1e-14)


def test_the_bounded_minimiser_stays_in_the_box_and_tends_to_the_free_one():
    q = np.array([0.5, 0.3, 0.15, 0.05])
    tight = symmetry.bounded_bayes_scores(q, temperature=1.0, bound=0.3)
    assert np.abs(tight).max() == 0.3
    loose = symmetry.bounded_bayes_scores(q, temperature=1.0, bound=50.0)
    free = consistency.bayes_scores(jnp.asarray(q), temperature=1.0)
    np.testing.assert_allclose(loose - loose.mean(), free, atol=1e-12)


def test_the_capped_softmax_obeys_its_cap():
    weights = oracles.capped_softmax(np.array([5.0, 1.0, 0.0, -2.0]), 0.4)
    assert np.isclose(weights.sum(), 1)
    assert weights.max() == 0.4
    np.testing.assert_allclose(oracles.capped_softmax(np.arange(4.0), 1.0), special.softmax(np.arange(4.0)))


def test_the_counterexample_is_bounded_and_symmetric():
    logits = jnp.asarray(scores_and_labels()[0])
    np.testing.assert_allclose(sum_over_labels(symmetry.normalised_linear_loss, logits), 0, atol=1e-14)
    labels = jnp.zeros(logits.shape[0], jnp.int32)
    assert jnp.abs(symmetry.normalised_linear_loss(logits, labels)).max() <= 2
