"""The functions of class probabilities and regrets in many digits, where rounding or overflow would tell."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxreg.theory import comp_sum, oracles

TAUS = np.array([0.0, 0.5, 0.999, 1.0, 1.1, 1.3, 1.4, 1.7, 1.99, 2.0, 3.0, 9.0])
SURE = (0.0, 1e-30, 2e-9, 1 - 2e-9)
"""The last one is rounded, so that what it lacks is known from the others alone."""


def exact(function, *axes):
    """Values of a function of mpmath numbers on the outer grid of the arrays."""
    with mpmath.workdps(400):
        grid = np.array([float(function(*map(mpmath.mpf, point))) for point in _points(axes)])
    return grid.reshape([len(values) for values in axes])


def _points(axes):
    grids = np.meshgrid(*(np.asarray(axis, float) for axis in axes), indexing="ij")
    return zip(*(grid.ravel() for grid in grids), strict=True)


def phi(one_plus_u, tau):
    return mpmath.log(one_plus_u) if tau == 1 else (one_plus_u ** (1 - tau) - 1) / (1 - tau)


def risk_of(p, tau):
    """Of the best scores: p proportional to powers, or the likeliest class alone. The last one is the top."""
    p = [*p[:-1], 1 - sum(p[:-1])]
    if tau >= 2:
        return (1 - p[-1]) / (tau - 1)
    powers = [x ** (1 / (2 - tau)) for x in p]
    return sum(x * phi(sum(powers) / power, tau) for x, power in zip(p, powers, strict=True) if x)


def transform_of_two(beta, tau):
    return phi(mpmath.mpf(2), tau) - risk_of([(1 - beta) / 2, (1 + beta) / 2], tau)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_risks_of_nearly_sure_labels_are_accurate_relative_to_what_is_left(dtype):
    p, taus = np.array(SURE, dtype), TAUS.astype(dtype)
    least, of_top, of_none = oracles.quick_jit(
        lambda p, tau: (
            comp_sum.bayes_risk(p, tau),
            comp_sum.bayes_risk_predicting(p, 3, tau),
            comp_sum.bayes_risk_bounded(p, tau, 60.0),
        )
    )(p[None], taus)
    expected = exact(lambda tau: risk_of([mpmath.mpf(float(x)) for x in p], tau), taus)
    rtol = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(least, expected, rtol=rtol)
    np.testing.assert_allclose(of_top, expected, rtol=rtol)
    # The box cuts scores 120 apart, which is out of reach except at probability 0.
    np.testing.assert_allclose(of_none, expected, rtol=max(rtol, 1e-8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_risks_in_boxes_of_any_size_are_finite_and_of_a_sure_label_accurate(dtype):
    taus, bounds = TAUS.astype(dtype)[:, None], np.array([0.5, 6.0, 20.0, 60.0, 400.0], dtype)
    found = oracles.quick_jit(comp_sum.bayes_risk_bounded)(jnp.asarray([1.0, 0.0, 0.0], dtype), taus, bounds)
    expected = exact(lambda tau, bound: phi(1 + 2 * mpmath.exp(-2 * bound), tau), taus[:, 0], bounds)
    rtol = 10 * np.finfo(dtype).eps
    # A probability of 0 counts as the smallest there is, whose root is the largest power at tau = 0.
    small = 3 * np.finfo(dtype).tiny ** 0.5
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=small)
    even = comp_sum.bayes_risk_bounded(jnp.asarray([0.5, 0.5, 0.0], dtype), 3.0, bounds)
    np.testing.assert_allclose(even[1:], 1 / 4, rtol=1e-4)


def test_the_transform_of_bounded_scores_is_accurate_at_both_ends():
    taus, betas, bounds = np.array([0.0, 0.5, 1.0, 1.4, 1.9]), np.array([1e-9, 0.3, 1.0]), [0.5, 400.0]

    def of_two(beta, tau, bound):
        gap = 2 * bound
        if beta < 1:
            gap = min(gap, (mpmath.log1p(beta) - mpmath.log1p(-beta)) / (2 - tau))
        values = [(1 + sign * beta) / 2 * phi(1 + mpmath.exp(-sign * gap), tau) for sign in (1, -1)]
        return phi(mpmath.mpf(2), tau) - (values[0] + values[1] if beta < 1 else values[0])

    transform = oracles.quick_jit(comp_sum.bounded_transform)
    found = transform(betas[:, None, None], taus[:, None], np.array(bounds))
    np.testing.assert_allclose(found, exact(of_two, betas, taus, bounds), rtol=1e-13)


def test_the_sharper_line_of_many_classes_keeps_its_digits_in_single_precision():
    taus, n = np.array([2.0, 2.1, 2.5, 4.0]), 100_000
    found = comp_sum.sharper_transform(jnp.float32(1), taus.astype(np.float32), n)
    m = np.arange(1, n, dtype=np.longdouble)
    # The powers are exact to the digits of float32 that are asked for.
    taus = taus.astype(np.float32).astype(np.longdouble)
    lines = [min(1, np.min(1 - m * (m + 1) ** (1 - tau))) / (tau - 1) for tau in taus]
    np.testing.assert_allclose(found, np.array(lines, float), rtol=1e-5)


@pytest.mark.parametrize("tau", [1.5, 2.0, 10.0])
def test_no_regret_allows_no_mistake_however_many_classes(tau):
    zero = jnp.float32(0)
    inverse = jax.value_and_grad(lambda t: comp_sum.inverse_transform(t, tau, 10**6))
    value, slope = oracles.quick_jit(inverse)(zero)
    assert value == 0
    assert jnp.isfinite(slope)
    assert comp_sum.simple_bound(zero, tau, 10**6) == 0
    # 9e54 times 1e-35, out of range in one factor only.
    bound = comp_sum.simple_bound(jnp.float32(1e-35), 10.0, 10**6)
    np.testing.assert_allclose(bound, 9e54 * float(np.float32(1e-35)), rtol=1e-5)


def test_derivatives_in_tau_are_those_of_the_curve_at_cross_entropy_and_sum_exponential():
    p = np.array([0.1, 0.2, 0.7])
    share, regret = 0.4, 0.15
    slopes = [
        oracles.quick_jit(jax.grad(function))
        for function in (
            lambda tau: comp_sum.bayes_risk(p, tau),
            lambda tau: comp_sum.bayes_risk_predicting(p, 2, tau),
            lambda tau: comp_sum.transform(share, tau, 2),
            lambda tau: comp_sum.inverse_transform(regret, tau, 2),
        )
    ]

    def inverse(tau):
        return mpmath.findroot(lambda beta: transform_of_two(beta, tau) - mpmath.mpf(regret), 0.5)

    def exact_slopes(tau):
        risk, curve = (lambda t: risk_of(list(map(mpmath.mpf, p)), t)), lambda t: transform_of_two(share, t)
        with mpmath.workdps(60):
            step = mpmath.mpf("1e-15")
            return [float((f(tau + step) - f(tau - step)) / (2 * step)) for f in (risk, risk, curve, inverse)]

    for tau in (0.0, 1.0, 1.3, 1.6):
        np.testing.assert_allclose([slope(tau) for slope in slopes], exact_slopes(tau), rtol=1e-9)


def test_the_risk_rises_from_a_sure_label_at_its_right_derivative():
    sure, change = jnp.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.75, 0.25])
    gradient = oracles.quick_jit(jax.grad(comp_sum.bayes_risk))
    for tau in (1.2, 1.3, 1.4, 1.7, 2.0, 3.0):
        slope = gradient(sure, tau) @ change
        np.testing.assert_allclose(slope, 1 / (tau - 1), rtol=1e-12)  # sum p^a - 1 is -a at first order


def test_up_to_tau_one_the_transform_ends_vertically_and_its_inverse_level():
    curve = oracles.quick_jit(jax.value_and_grad(lambda beta, tau: comp_sum.transform(beta, tau, 3)))
    inverse_slope = oracles.quick_jit(jax.grad(lambda t, tau: comp_sum.inverse_transform(t, tau, 3)))
    for tau in (0.0, 0.3, 1.0):
        most, slope = curve(1.0, tau)
        assert slope == jnp.inf
        assert inverse_slope(most * (1 - 1e-15), tau) < 0.1
    slope = oracles.quick_jit(jax.grad(lambda beta: comp_sum.transform(beta, 1.5, 2)))(1.0)
    np.testing.assert_allclose(slope, 2**0.5 * 2 / (2 * 2**0.5), rtol=1e-12)  # (sqrt(1 + b^2) - 1) sqrt 2


def test_second_derivatives_of_the_inverse_are_those_of_an_inverse_function():
    taus, beta = jnp.array([0.0, 0.4, 1.0, 1.2, 1.5, 1.9]), 0.3

    def both(tau):
        def curve(beta):
            return comp_sum.transform(beta, tau, 3)

        slope, bend = jax.grad(curve)(beta), jax.grad(jax.grad(curve))(beta)
        inverse = jax.grad(jax.grad(lambda t: comp_sum.inverse_transform(t, tau, 3)))(curve(beta))
        return inverse, -bend / slope**3

    np.testing.assert_allclose(*oracles.quick_jit(jax.vmap(both))(taus), rtol=1e-9)
    # sqrt(t (2 - t)) at tau = 0.
    bend = oracles.quick_jit(jax.grad(jax.grad(lambda t: comp_sum.inverse_transform(t, 0.0, 3))))(0.4)
    np.testing.assert_allclose(bend, -((0.4 * 1.6) ** -1.5), rtol=1e-12)


def test_the_linear_bound_has_its_slope_at_zero_too():
    slope = jax.grad(lambda t: comp_sum.simple_bound(t, 3.0, 5))(0.0)
    np.testing.assert_allclose(slope, 2 * 5**2, rtol=1e-12)
