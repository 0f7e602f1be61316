"""Capped and quadratic LDR losses against linear programs and bisection on the multiplier."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog
from scipy.special import logsumexp, softmax

from jaxreg.losses import ldr_kl
from jaxreg.losses.ldr_quadratic import ldr_quadratic
from jaxreg.losses.ldr_top_k import DOMAINS, ldr_top_k

GENERATOR = np.random.default_rng(7)
EXAMPLES, CLASSES = 12, 7
LOGITS = 2 * GENERATOR.normal(size=(EXAMPLES, CLASSES))
LABELS = GENERATOR.integers(0, CLASSES, EXAMPLES)
MARGIN = 0.5
MASK = (np.arange(CLASSES) + np.arange(EXAMPLES)[:, None]) % 4 != 1
MASK |= np.arange(CLASSES) == LABELS[:, None]


def gaps(logits, label, margin=MARGIN):
    return logits - logits[label] + margin * (np.arange(len(logits)) != label)


def linear_program(z, k, domain):
    """Maximise p.z over the domain as its definition states it."""
    size, one = len(z), np.ones(len(z))
    if domain == "scaled_distribution":
        rows, bounds = [one, *(np.eye(size) - 1 / k)], [1] + [0] * size
    else:
        rows, bounds = [one, *np.eye(size)], [1] + [1 / k] * size
    equal = {"A_eq": [one], "b_eq": [1]} if domain == "distribution" else {}
    result = linprog(-z, A_ub=np.array(rows), b_ub=bounds, bounds=(0, None), **equal)
    assert result.success
    return -result.fun


def capped_softmax(z, k, temperature):
    """min(1/k, exp(z / temperature - multiplier)) with the multiplier at which it adds up to 1."""
    scaled = z / temperature
    if k == len(z):
        return np.full(len(z), 1 / k)

    def weights(multiplier):
        return np.exp(np.minimum(scaled - multiplier, -np.log(k)))

    ends = scaled.min() - 1, logsumexp(scaled) + 1
    return weights(brentq(lambda m: weights(m).sum() - 1, *ends, xtol=1e-15, rtol=1e-15))


def objective(z, p, temperature):
    kept = p > 0
    return p @ z - temperature * np.sum(p[kept] * np.log(len(z) * p[kept]))


def projection(z):
    """max(0, z - threshold) with the threshold at which it adds up to 1."""
    threshold = brentq(lambda t: np.maximum(z - t, 0).sum() - 1, z.max() - 1, z.max(), xtol=1e-15, rtol=1e-15)
    return np.maximum(z - threshold, 0)


def value_and_weights(loss, logits, labels, **hyper):
    """The values, and the weights that the gradients are made of."""
    call = jax.jit(lambda logits: loss(logits, labels, **hyper))
    values, pullback = jax.vjp(call, jnp.asarray(logits))
    (gradient,) = pullback(jnp.ones_like(values))
    return np.asarray(values), np.asarray(gradient) + np.eye(logits.shape[1])[labels]


# -- Temperature 0 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("k", [1, 3, CLASSES])
def test_value_at_temperature_zero_is_that_of_the_linear_program(domain, k):
    found = ldr_top_k(LOGITS, LABELS, k=k, margin=MARGIN, domain=domain)
    expected = [linear_program(gaps(row, y), k, domain) for row, y in zip(LOGITS, LABELS, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_gradient_at_temperature_zero_is_a_subgradient_at_ties_too(domain, k):
    """Convex, hence psi(g) >= psi(f) + gradient.(g - f) for all g."""
    logits = np.round(LOGITS)
    loss = jax.jit(functools.partial(ldr_top_k, k=k, margin=1.0, domain=domain))
    gradient = np.asarray(jax.grad(lambda z: loss(z, LABELS).sum())(logits))
    for _ in range(50):
        others = logits + np.round(3 * GENERATOR.normal(size=logits.shape))
        bound = loss(logits, LABELS) + np.sum(gradient * (others - logits), -1)
        assert np.all(np.asarray(loss(others, LABELS)) >= np.asarray(bound) - 1e-12)


def test_classes_tied_at_the_last_place_share_its_weight():
    logits = np.array([[5.0, 2, 2, 2, 1], [4, 4, 4, 4, 4], [3, 3, 1, 0, 0]])
    _, weights = value_and_weights(ldr_top_k, logits, np.array([4, 0, 2]), k=3)
    expected = [[1 / 3, 2 / 9, 2 / 9, 2 / 9, 0], [0.2] * 5, [1 / 3, 1 / 3, 1 / 3, 0, 0]]
    np.testing.assert_allclose(weights, expected, atol=1e-15)


@pytest.mark.parametrize(
    ("loss", "temperature"), [("top_k", 0.0), ("top_k", 1.0), ("quadratic", 0.0), ("quadratic", 1.0)], ids=str
)
def test_scores_that_the_same_program_divides_give_the_same_with_numbers_known_at_trace_time(
    loss, temperature
):
    """XLA may divide once for the threshold and once for what is compared with it, rounded differently."""
    named = {"top_k": functools.partial(ldr_top_k, k=3), "quadratic": ldr_quadratic}[loss]
    own = functools.partial(named, temperature=temperature, margin=0.5)
    generator = np.random.default_rng(0)
    halves = jnp.asarray(np.round(3 * generator.normal(size=(100, 10))) / 2)
    labels, divisor = jnp.arange(100) % 10, jnp.asarray(10 ** generator.uniform(-1, 1, (100, 1)))

    def both(logits):
        return own(logits, labels), jax.grad(lambda logits: own(logits, labels).sum())(logits)

    together = jax.jit(lambda halves, divisor: both(halves / divisor))(halves, divisor)
    apart = jax.jit(both)(jax.jit(jnp.divide)(halves, divisor))
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_temperature_zero_traced_known_and_approached_agree(k):
    logits, hyper = np.round(LOGITS), {"k": k, "margin": 1.0}
    known = value_and_weights(ldr_top_k, logits, LABELS, **hyper)
    for temperature, tolerance in ((jnp.float64(0), 1e-14), (jnp.full(EXAMPLES, 1e-30), 1e-14), (1e-3, 3e-3)):
        found = value_and_weights(ldr_top_k, logits, LABELS, temperature=temperature, **hyper)
        np.testing.assert_allclose(found[0], known[0], atol=tolerance)
        np.testing.assert_allclose(found[1], known[1], atol=1e-14)


def test_hinges_at_the_label_alone_have_slope_zero():
    for domain in DOMAINS[1:]:
        logits = np.array([[3.0, 1.0, 0.0]])
        values, weights = value_and_weights(ldr_top_k, logits, np.array([0]), k=2, margin=1.0, domain=domain)
        assert values == 0
        assert np.array_equal(weights, [[1, 0, 0]])


# -- With the divergence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.03, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 2, 5, 6, CLASSES])
def test_value_and_weights_are_those_of_the_bisection_on_the_multiplier(k, temperature):
    hyper = {"k": k, "temperature": temperature, "margin": MARGIN}
    values, weights = value_and_weights(ldr_top_k, LOGITS, LABELS, **hyper)
    for n, (row, y) in enumerate(zip(LOGITS, LABELS, strict=True)):
        z = gaps(row, y)
        p = capped_softmax(z, k, temperature)
        np.testing.assert_allclose(weights[n], p, atol=1e-12)
        np.testing.assert_allclose(values[n], objective(z, p, temperature), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [2, 6])
def test_value_is_not_exceeded_by_any_other_weights(k):
    values = np.asarray(ldr_top_k(LOGITS, LABELS, k=k, temperature=0.7, margin=MARGIN))
    for _ in range(200):
        scores = GENERATOR.normal(size=CLASSES) * GENERATOR.uniform(0, 5)
        p = capped_softmax(scores, k, 1.0)
        for value, row, y in zip(values, LOGITS, LABELS, strict=True):
            assert value >= objective(gaps(row, y), p, 0.7) - 1e-12


def test_k_of_one_is_the_uncapped_loss_and_k_of_all_classes_the_mean():
    for temperature in (0.0, 0.3, 1e6, np.inf):
        hyper = {"temperature": temperature, "margin": MARGIN}
        expected = ldr_kl(LOGITS, LABELS, **hyper)
        np.testing.assert_allclose(ldr_top_k(LOGITS, LABELS, k=1, **hyper), expected, rtol=1e-14, atol=1e-14)
        mean = [gaps(row, y).mean() for row, y in zip(LOGITS, LABELS, strict=True)]
        np.testing.assert_allclose(
            ldr_top_k(LOGITS, LABELS, k=CLASSES, **hyper), mean, rtol=1e-13, atol=1e-13
        )


def test_a_single_class_keeps_the_digits_of_a_confident_label_s_slope():
    logits, lead = np.array([0.5, -1.0, 2.0], np.float32), 16.0
    logits[2] += lead
    slope = jax.grad(lambda f: ldr_top_k(f, 2, k=1, temperature=1.0))(logits)
    wrong = np.exp(logits[:2].astype(float) - logits[2])
    np.testing.assert_allclose(slope[2], -wrong.sum() / (1 + wrong.sum()), rtol=1e-6)


@pytest.mark.parametrize(("classes", "k"), [(10, 3), (1000, 5), (1000, 40), (1000, 999)])
def test_float32_is_accurate_at_every_temperature(classes, k):
    """Between few classes that are capped and all of them, and from the hardest to the mean."""
    logits = 5 * GENERATOR.normal(size=classes).astype(np.float32)
    temperatures = np.float32([0, *np.logspace(-6, 20, 27), np.inf])
    rows, labels = np.tile(logits, (len(temperatures), 1)), np.zeros(len(temperatures), int)
    found = np.asarray(ldr_top_k(rows, labels, k=k, temperature=temperatures))
    exact = np.asarray(ldr_top_k(rows.astype(float), labels, k=k, temperature=temperatures.astype(float)))
    z = gaps(logits.astype(float), 0, 0.0)
    # Beyond 1e4 a float64 objective of the definition loses its digits: there the mean and variance.
    for n, temperature in enumerate(temperatures.astype(float)):
        if 1e-3 <= temperature <= 1e4:
            expected = objective(z, capped_softmax(z, k, temperature), temperature)
            np.testing.assert_allclose(exact[n], expected, atol=3e-13 * max(100, temperature))
        elif temperature > 1e6:
            np.testing.assert_allclose(exact[n], z.mean() + z.var() / 2 / temperature, rtol=1e-9)
    assert found.dtype == np.float32
    assert np.max(np.abs(found - exact)) <= 2e-6 * np.max(np.abs(z))


def test_many_classes_take_the_same_weights_as_few():
    """More classes, or larger k, than the insertion serves."""
    logits = 2 * GENERATOR.normal(size=(3, 300))
    labels = np.array([0, 7, 299])
    for k in (2, 17, 120):
        for cap in (k, jnp.full(3, k)):
            values, weights = value_and_weights(ldr_top_k, logits, labels, k=cap, temperature=0.4, margin=1.0)
            for n, (row, y) in enumerate(zip(logits, labels, strict=True)):
                p = capped_softmax(gaps(row, y, 1.0), k, 0.4)
                np.testing.assert_allclose(weights[n], p, atol=1e-12)
                np.testing.assert_allclose(values[n], objective(gaps(row, y, 1.0), p, 0.4), atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_second_derivatives_are_those_of_finite_differences(k):
    label, step = 2, 1e-6
    point = np.concatenate([LOGITS[0], [0.7, 0.4]])

    def value(x):
        return ldr_top_k(x[:-2], label, k=k, temperature=x[-2], margin=x[-1])

    gradient = jax.jit(jax.grad(value))
    expected = [
        (gradient(point + step * e) - gradient(point - step * e)) / (2 * step) for e in np.eye(len(point))
    ]
    for hessian in (jax.jacfwd(jax.grad(value)), jax.jacrev(jax.jacfwd(value))):
        np.testing.assert_allclose(jax.jit(hessian)(point), expected, atol=1e-8)
    slopes = [(value(point + step * e) - value(point - step * e)) / (2 * step) for e in np.eye(len(point))]
    np.testing.assert_allclose(gradient(point), slopes, atol=1e-8)


# -- The quadratic regulariser -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1e-3, 0.3, 1.0, 10.0, 1e3])
def test_quadratic_value_and_weights_are_those_of_the_projection(temperature):
    hyper = {"temperature": temperature, "margin": MARGIN}
    values, weights = value_and_weights(ldr_quadratic, LOGITS, LABELS, **hyper)
    for n, (row, y) in enumerate(zip(LOGITS, LABELS, strict=True)):
        z = gaps(row, y)
        p = projection(z / temperature)
        np.testing.assert_allclose(weights[n], p, atol=1e-12)
        expected = p @ z - temperature / 2 * np.sum((p - 1 / CLASSES) ** 2)
        np.testing.assert_allclose(values[n], expected, rtol=1e-11, atol=1e-11)


def test_quadratic_ends_where_scores_lie_at_the_threshold():
    """Rounding puts them above it or below; examples that took turns in that went on for ever."""
    logits, labels = np.round(20 * GENERATOR.normal(size=(2000, 10))) / 10, np.zeros(2000, int)
    _, weights = value_and_weights(ldr_quadratic, logits, labels)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-13)
    for row, p in zip(logits[::20], weights[::20], strict=True):
        np.testing.assert_allclose(p, projection(row), atol=1e-13)


def test_quadratic_value_is_not_exceeded_by_any_other_weights():
    values = np.asarray(ldr_quadratic(LOGITS, LABELS, temperature=0.7, margin=MARGIN))
    for p in GENERATOR.dirichlet(np.full(CLASSES, 0.4), 200):
        for value, row, y in zip(values, LOGITS, LABELS, strict=True):
            assert value >= p @ gaps(row, y) - 0.35 * np.sum((p - 1 / CLASSES) ** 2) - 1e-12


@pytest.mark.parametrize("classes", [10, 1000])
def test_quadratic_is_accurate_in_float32_at_every_temperature(classes):
    logits = 5 * GENERATOR.normal(size=classes).astype(np.float32)
    temperatures = np.float32([0, *np.logspace(-6, 20, 27), np.inf])
    rows, labels = np.tile(logits, (len(temperatures), 1)), np.zeros(len(temperatures), int)
    found = np.asarray(ldr_quadratic(rows, labels, temperature=temperatures))
    exact = np.asarray(ldr_quadratic(rows.astype(float), labels, temperature=temperatures.astype(float)))
    z = gaps(logits.astype(float), 0, 0.0)
    assert exact[0] == z.max()
    np.testing.assert_allclose(exact[-1], z.mean(), rtol=1e-12)
    assert np.max(np.abs(found - exact)) <= 2e-6 * np.max(np.abs(z))


def test_quadratic_second_derivatives_are_those_of_finite_differences():
    label, step = 2, 1e-6
    point = np.concatenate([LOGITS[0], [1.7, 0.4]])

    def value(x):
        return ldr_quadratic(x[:-2], label, temperature=x[-2], margin=x[-1])

    gradient = jax.jit(jax.grad(value))
    expected = [
        (gradient(point + step * e) - gradient(point - step * e)) / (2 * step) for e in np.eye(len(point))
    ]
    for hessian in (jax.jacfwd(jax.grad(value)), jax.jacrev(jax.jacfwd(value))):
        np.testing.assert_allclose(jax.jit(hessian)(point), expected, atol=1e-8)


# -- Extreme and bad arguments -------------------------------------------------------------------------------


def test_a_margin_between_huge_equal_scores_is_not_lost():
    logits = np.array([[1e30, 1e30, 0.0, -1e30], [1e30, 3.0, 2.0, -1e30]])
    labels = np.array([0, 3])
    for k in (jnp.array([2, 2]), 2):
        _, weights = value_and_weights(ldr_top_k, logits, labels, k=k, temperature=1.0, margin=0.25)
        tail = 0.5 * softmax([3.0, 2.0])
        np.testing.assert_allclose(weights, [[0.5, 0.5, 0, 0], [0.5, *tail, 0]], atol=1e-15)
    _, weights = value_and_weights(ldr_top_k, logits[:1], labels[:1], k=1, temperature=1.0, margin=0.25)
    np.testing.assert_allclose(weights[0, :2], softmax([0.0, 0.25]), atol=1e-15)


def test_scores_of_minus_infinity_are_limits():
    logits = np.array([[2.0, 1.0, -np.inf, -np.inf], [-np.inf, 1.0, 0.0, 2.0]])
    labels = np.array([0, 0])
    for temperature in (0.0, 1.0):
        values, weights = value_and_weights(ldr_top_k, logits, labels, k=2, temperature=temperature)
        assert np.isfinite(values[0])
        assert values[1] == np.inf
        assert np.all(weights[0, 2:] == 0)
        values, weights = value_and_weights(ldr_top_k, logits, labels, k=3, temperature=temperature)
        assert values[0] == -np.inf
        np.testing.assert_allclose(weights[0], [1 / 3, 1 / 3, 1 / 6, 1 / 6], atol=1e-15)
    for domain in DOMAINS[1:]:
        values, _ = value_and_weights(ldr_top_k, logits, labels, k=3, margin=2.0, domain=domain)
        assert values[0] == (0 if domain == "scaled_distribution" else 1 / 3)
        assert values[1] == np.inf


@pytest.mark.parametrize("domain", DOMAINS)
def test_removing_classes_equals_deleting_them(domain):
    temperatures = (0.0,) if domain != "distribution" else (0.0, 0.6, np.inf)
    chosen = slice(0, 2)
    for temperature in temperatures:
        hyper = {"temperature": temperature, "margin": MARGIN, "domain": domain, "k": 3}
        for left_over in (1e30, np.nan):
            filled = np.where(MASK, LOGITS, left_over)[chosen]
            mask = MASK[chosen]
            values, weights = value_and_weights(ldr_top_k, filled, LABELS[chosen], where=mask, **hyper)
            for n, (row, y, kept) in enumerate(zip(LOGITS[chosen], LABELS[chosen], mask, strict=True)):
                label = np.array([np.flatnonzero(kept).tolist().index(y)])
                expected = value_and_weights(ldr_top_k, row[None, kept], label, **hyper)
                np.testing.assert_allclose(values[n], expected[0][0], atol=1e-13)
                np.testing.assert_allclose(weights[n, kept], expected[1][0], atol=1e-13)
                assert np.all(weights[n, ~kept] == 0)


def test_k_that_cannot_be_checked_gives_nan_and_k_that_can_is_refused():
    values, weights = value_and_weights(
        ldr_top_k, LOGITS[:4], LABELS[:4], k=jnp.array([0, 3, CLASSES + 1, CLASSES])
    )
    assert np.array_equal(np.isnan(values), [True, False, True, False])
    assert np.array_equal(np.isnan(weights).any(-1), [True, False, True, False])
    few = np.arange(CLASSES) == LABELS[:4, None]
    few[0] = True
    values, weights = value_and_weights(ldr_top_k, LOGITS[:4], LABELS[:4], k=2, where=few)
    assert np.array_equal(np.isnan(values), [False, True, True, True])
    assert np.array_equal(np.isnan(weights).any(-1), [False, True, True, True])
    for wrong in (0, -1, CLASSES + 1, np.array([1, 9]), np.full(3, 2)):
        with pytest.raises(ValueError, match="k must"):
            ldr_top_k(LOGITS, LABELS, k=wrong)
    for wrong in (2.0, True, "2", None, jnp.float32(2)):
        with pytest.raises(TypeError, match="k must"):
            ldr_top_k(LOGITS, LABELS, k=wrong)


def test_domains_other_than_distributions_need_the_known_temperature_zero():
    for domain in DOMAINS[1:]:
        for temperature in (0.5, np.inf, jnp.float64(0), np.array([0.0] * 11 + [1.0])):
            with pytest.raises(ValueError, match="temperature"):
                ldr_top_k(LOGITS, LABELS, k=2, temperature=temperature, domain=domain)
    with pytest.raises(ValueError, match="domain"):
        ldr_top_k(LOGITS, LABELS, k=2, domain="simplex")
