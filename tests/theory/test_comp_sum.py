import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import losses
from jaxreg.theory import comp_sum, falsify, oracles
from jaxreg.theory.comp_sum import adversarial, bounds, gaps
from jaxreg.theory.comp_sum import losses as comp_sum_losses
from tests import suites

# One worker, so that the suite is evaluated once.
pytestmark = pytest.mark.xdist_group("theory_comp_sum")


@pytest.fixture(scope="module")
def rows():
    return suites.rows("comp_sum")


def test_negative_results_say_so_and_show_a_margin(rows):
    negative = [row for row in rows if row.statement.startswith("NEGATIVE")]
    assert len(negative) == 7
    assert all(row.measured >= 0 or row.relation == "==" for row in negative)


def test_the_search_finds_the_false_bound_in_ten_seconds_and_nothing_for_the_true_one():
    starts = (np.random.default_rng(0).standard_normal((64, 2)),)
    begin = time.monotonic()
    found = falsify.search(bounds.false_simple_bound, starts)
    assert time.monotonic() - begin < 10
    assert found.violation > 0.2
    np.testing.assert_allclose(jnp.sort(jax.nn.softmax(found.arguments[0])), [0, 1], atol=0.01)

    def true_bound(log_p):
        p = jax.nn.softmax(log_p)
        regret = comp_sum.phi(1.0, 1.7) - comp_sum.bayes_risk(p, 1.7)
        bound = comp_sum.simple_bound(jnp.maximum(regret, 1e-30), 1.7, 2)
        return bounds.Check("n", "derived", "s", jnp.max(p) - jnp.min(p), "<=", bound)

    assert falsify.search(true_bound, starts).violation <= 0


def test_a_transform_that_is_a_thousandth_too_large_is_caught(monkeypatch):
    right = bounds.transform
    cases = 2 * np.random.default_rng(0).standard_normal((500, 4)), np.arange(500) % 10

    def search():
        return falsify.search(bounds.regret_exceeds_transform, cases, steps=100)

    assert search().check.holds()
    monkeypatch.setattr(bounds, "transform", lambda b, tau, n: 1.001 * right(b, tau, n))
    assert not search().check.holds()


def test_a_loss_that_is_off_by_a_millionth_is_not_its_definition(monkeypatch):
    rng = np.random.default_rng(0)
    scores, labels = oracles.draw_scores(rng, 20, 4), oracles.draw_labels(rng, 20, 4)
    right = losses.comp_sum
    monkeypatch.setattr(losses, "comp_sum", lambda f, y, *, tau: right(f, y, tau=tau) * (1 + 1e-6))
    assert not comp_sum_losses.forms_agree(scores, labels).holds()


def test_the_smooth_loss_with_half_the_weight_is_no_bound(monkeypatch):
    right = losses.smooth_adversarial_comp_sum
    monkeypatch.setattr(
        losses,
        "smooth_adversarial_comp_sum",
        lambda f, g, y, *, tau, rho, nu: right(f, g, y, tau=tau, rho=rho, nu=0.5 * nu),
    )
    clean, moved = np.random.default_rng(0).standard_normal((2, 200, 5))
    cases = clean, moved, np.zeros(200), np.linspace(0, 1, 200)
    claim = adversarial.smaller_weight_suffices
    assert not falsify.search(claim, cases, steps=100).check.holds()


def test_single_precision_with_a_rounded_gap_is_caught(monkeypatch):
    right = losses.comp_sum

    def rounded(logits, labels, *, tau):
        own = jnp.take_along_axis(logits, labels[:, None], -1)
        return right(logits - own, labels, tau=tau)

    monkeypatch.setattr(losses, "comp_sum", rounded)
    assert not comp_sum_losses.single_precision_is_accurate(np.random.default_rng(0)).holds()


def test_a_smaller_bound_of_the_gap_or_of_the_inverse_is_caught(monkeypatch):
    rng = np.random.default_rng(0)
    cases = 2 * rng.standard_normal((200, 3, 3)), 2 * rng.standard_normal((200, 3, 3, 3)), np.zeros(200)
    bound = gaps.minimizability_gap_bound
    monkeypatch.setattr(gaps, "minimizability_gap_bound", lambda *x: bound(*x) * (1 - 1e-3))
    assert not falsify.search(gaps.gap_is_bounded, cases, steps=20).check.holds()
    simple = bounds.simple_bound
    monkeypatch.setattr(bounds, "simple_bound", lambda *x: simple(*x) * (1 - 1e-3))
    free = 4 * rng.standard_normal(200), rng.uniform(0, 4, 200)
    assert not falsify.search(bounds.simple_bound_holds, free, steps=20).check.holds()


def test_risks_of_numbers_known_by_hand():
    p = jnp.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(comp_sum.bayes_risk(p, 0.0), jnp.sum(jnp.sqrt(p)) ** 2 - 1, rtol=1e-12)
    np.testing.assert_allclose(comp_sum.bayes_risk(p, 1.0), -jnp.sum(p * jnp.log(p)), rtol=1e-12)
    np.testing.assert_allclose(comp_sum.bayes_risk(p, 2.0), 0.3, rtol=1e-12)
    np.testing.assert_allclose(comp_sum.bayes_risk_predicting(p, 0, 1.0), comp_sum.bayes_risk(p, 1.0))
    # Pooled with the likeliest class: two classes of 0.4 each.
    expected = -0.8 * np.log(0.4) - 0.2 * np.log(0.2)
    np.testing.assert_allclose(comp_sum.bayes_risk_predicting(p, 2, 1.0), expected, rtol=1e-12)
    assert jnp.isnan(comp_sum.bayes_risk_predicting(p, 3, 1.0))
    np.testing.assert_allclose(
        comp_sum.bayes_risk_bounded(p, 1.0, 50.0), comp_sum.bayes_risk(p, 1.0), rtol=1e-10
    )
    np.testing.assert_allclose(comp_sum.bayes_risk_bounded(p, 1.0, 0.0), np.log(3), rtol=1e-12)


def test_risks_are_continuous_in_tau_and_at_impossible_classes():
    p = jnp.array([0.6, 0.4, 0.0])
    taus = np.array([0.0, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 1.7, 1.999, 2.0])
    values = jax.jit(jax.vmap(lambda tau: comp_sum.bayes_risk(p, tau)))(taus)
    two = jax.jit(jax.vmap(lambda tau: comp_sum.bayes_risk(p[:2], tau)))(taus)
    np.testing.assert_allclose(values, two, rtol=1e-12)
    np.testing.assert_allclose(values[2:5], values[3], rtol=1e-8)
    np.testing.assert_allclose(values[-2], values[-1], rtol=1e-2)
    slopes = jax.grad(lambda p: comp_sum.bayes_risk(p, 1.5))(p)
    assert np.all(np.isfinite(slopes))


def test_the_inverse_differentiates_as_an_inverse_and_saturates():
    n = 4

    def case(tau):
        end = comp_sum.transform(1.0, tau, n)
        t = 0.4 * end
        at, slope = jax.value_and_grad(lambda t: comp_sum.inverse_transform(t, tau, n))(t)
        beyond, zero, negative = (
            comp_sum.inverse_transform(x, tau, n) for x in (2 * end, 0 * end, -0.1 * end)
        )
        product = slope * jax.grad(lambda b: comp_sum.transform(b, tau, n))(at)
        return product, beyond, zero, comp_sum.simple_bound(t, tau, n) - at, negative

    taus = jnp.array([0.0, 0.4, 1.0, 1.3, 1.5, 1.9, 2.0, 2.7])
    product, beyond, zero, slack, negative = oracles.quick_jit(jax.vmap(case))(taus)
    np.testing.assert_allclose(product, 1, rtol=1e-9)
    assert np.all(beyond == 1)
    assert np.all(zero == 0)
    assert np.all(slack >= 0)
    assert np.all(np.isnan(negative))
    assert np.all(np.isnan(jax.jit(lambda tau: comp_sum.transform(1.1, tau, n))(taus)))


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="tau"):
        comp_sum.transform(0.5, -0.1, 3)
    with pytest.raises(ValueError, match="n must"):
        comp_sum.transform(0.5, 1.0, 1)
    with pytest.raises(TypeError, match="p must"):
        comp_sum.bayes_risk(jnp.array([1, 0]), 1.0)
    assert jnp.isnan(comp_sum.bayes_risk(jnp.array([0.5, 0.5]), jnp.array(-1.0)))


def test_transform_is_finite_up_to_tau_2_and_its_inverse_accurate_down_to_tiny_regrets():
    beta = jnp.asarray([0.3, 1.0])
    near_two = jax.jit(lambda tau: comp_sum.transform(beta, tau, 2))
    for distance in (1e-3, 1e-6, 1e-12):
        # T = (b / 2) (1 + O(distance)) as b^distance -> 1.
        np.testing.assert_allclose(near_two(2 - distance), beta / 2, rtol=3 * distance + 1e-12)
    tiny = jnp.logspace(-14, -2, 500)
    regrets = comp_sum.transform(tiny, 0.037, 3)
    inverse = jax.jit(jax.vmap(lambda t: comp_sum.inverse_transform(t, 0.037, 3)))
    np.testing.assert_allclose(inverse(regrets), tiny, rtol=1e-12)


def test_bounded_bayes_risk_with_a_class_of_probability_zero_is_that_of_a_dense_grid():
    p, bound = np.array([0.7, 0.3, 0.0]), 0.1
    middle = np.linspace(0, 2 * bound, 20_001)
    scores = np.stack([2 * bound + 0 * middle, middle, 0 * middle], -1)
    taus = np.array([0.0, 0.5, 1.0, 1.5, 1.9])
    found = jax.jit(comp_sum.bayes_risk_bounded)(jnp.tile(p, (5, 1)), taus, bound)
    risk = jax.jit(
        jax.vmap(lambda tau: losses.expected(losses.comp_sum)(scores, np.tile(p, (20_001, 1)), tau=tau))
    )
    np.testing.assert_allclose(found, np.min(risk(taus), -1), rtol=1e-8)
