import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import losses
from jaxreg.theory import oracles, risk
from jaxreg.theory.noise_robust import definitions, minimisers, symmetry
from tests import suites

# One worker, so that the suite is evaluated once.
pytestmark = pytest.mark.xdist_group("theory_noise_robust")


@pytest.fixture(scope="module")
def rows():
    return suites.rows("noise_robust")


def test_every_loss_has_its_definition_checked(rows):
    here = {"ldr_kl", "ldr_quadratic", "ldr_top_k", "ldr_weights", "aldr_kl", "aldr_temperature"}
    elsewhere = {
        "comp_sum",
        "smooth_adversarial_comp_sum",
        "margin_adversarial_comp_sum",
        "expected",
        "mart",
        "trades",
    }
    assert set(losses.__all__) - here - elsewhere == set(definitions.DEFINITIONS)


def case(seed=0, cases=24, num_classes=5):
    rng = np.random.default_rng(seed)
    return oracles.draw_scores(rng, cases, num_classes, largest_scale=4.0), oracles.draw_labels(
        rng, cases, num_classes
    )


@pytest.mark.parametrize("name", sorted(definitions.DEFINITIONS))
def test_a_loss_that_is_off_by_a_millionth_is_not_its_definition(monkeypatch, name):
    right = getattr(losses, name)
    scores, labels = case()
    hyper = definitions.draw_hyperparameters(np.random.default_rng(1), name, labels.size)
    monkeypatch.setattr(losses, name, lambda f, y, **rest: right(f, y, **rest) * (1 + 1e-6))
    assert not definitions.equals_its_definition(name, scores, labels, hyper).holds()


def test_a_signed_sum_is_not_the_mean_absolute_error(monkeypatch):
    # The sum without absolute values vanishes identically.
    def signed(logits, labels):
        s = jax.nn.softmax(logits)
        return (jax.nn.one_hot(labels, logits.shape[-1], dtype=s.dtype) - s).sum(-1)

    scores, labels = case()
    monkeypatch.setattr(losses, "mean_absolute_error", signed)
    assert not definitions.equals_its_definition("mean_absolute_error", scores, labels, {}).holds()


def test_textbook_forms_lose_confident_examples(monkeypatch):
    def textbook(logits, labels, *, q=0.7):
        own = jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
        return (1 - own**q) / q

    monkeypatch.setattr(losses, "generalized_cross_entropy", textbook)
    check = definitions.confident_examples(np.random.default_rng(0))
    assert check.worst > 1e-3


def test_a_loss_that_is_not_symmetric_breaks_the_order_under_noise(monkeypatch):
    scores, _ = case(cases=16)
    probabilities = oracles.draw_probabilities(np.random.default_rng(2), 16, 5)
    arguments = jnp.asarray(scores), jnp.asarray(scores[::-1]), jnp.asarray(probabilities)
    rate = jnp.full(16, 0.4)
    claim = symmetry.noise_scales_symmetric_risks
    assert oracles.quick_jit(claim)(*arguments, rate=rate).holds()
    monkeypatch.setattr(losses, "mean_absolute_error", losses.brier)
    # A new function, since jax keeps what it compiled of the old one.
    assert not oracles.quick_jit(lambda *a, rate: claim(*a, rate=rate))(*arguments, rate=rate).holds()


def test_another_exponent_has_another_minimiser():
    q = oracles.separated_probabilities(np.random.default_rng(0), 2, 4)
    claimed = minimisers.generalized_cross_entropy_minimiser(q, q=0.41)
    loss = losses.generalized_cross_entropy
    check = minimisers.bfgs_ends_at("name", "derived", "statement", loss, {"q": 0.4}, q, claimed)
    assert not check.holds()


def test_a_vertex_is_not_best_for_a_proper_loss(monkeypatch):
    monkeypatch.setattr(losses, "mean_absolute_error", losses.brier)
    claim = minimisers.vertices_are_best
    flat = jnp.zeros(4)
    assert not oracles.quick_jit(claim)(flat, flat).holds()


def test_the_simulation_notices_another_noise_rate(monkeypatch):
    claim = functools.partial(symmetry.noise_by_simulation, rate=0.4, draws=200_000)
    assert claim(np.random.default_rng(0)).holds()
    # The clean risk counts as if the loss were twice the mean absolute error.
    right = losses.mean_absolute_error
    monkeypatch.setattr(losses, "mean_absolute_error", lambda f, y: right(f, y) ** 2)
    assert not claim(np.random.default_rng(0)).holds()


def test_noise_at_the_critical_rate_makes_all_labels_alike():
    q = jnp.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(risk.uniform_noise(q, 2 / 3), 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(risk.uniform_noise(q, 0.0), q)


def test_both_ways_to_the_conditional_risk_agree():
    scores, _ = case()
    q = jnp.asarray(oracles.draw_probabilities(np.random.default_rng(3), *scores.shape))
    power = jnp.linspace(0.1, 1, scores.shape[0])
    one = risk.conditional_risk(losses.generalized_cross_entropy, jnp.asarray(scores), q, q=power)
    other = losses.expected(losses.generalized_cross_entropy)(jnp.asarray(scores), q, q=power)
    np.testing.assert_allclose(one, other, rtol=1e-12)
