import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg.theory import Check, falsify, report


def check(lhs, relation, rhs, **more):
    return Check("name", "derived", "statement", lhs, relation, rhs, **more)


@pytest.mark.parametrize(
    ("lhs", "relation", "rhs", "violation"),
    [
        (3.0, "==", 1.0, 2.0),
        (1.0, "==", 3.0, 2.0),
        (3.0, "<=", 1.0, 2.0),
        (1.0, "<=", 3.0, -2.0),
        (1.0, ">=", 3.0, 2.0),
    ],
)
def test_a_violation_is_the_distance_to_the_right_side(lhs, relation, rhs, violation):
    assert check(lhs, relation, rhs).violation == violation
    assert check(lhs, relation, rhs, scale=4.0).violation == violation / 4


@pytest.mark.parametrize("relation", ["==", "<=", ">="])
def test_nan_never_holds(relation):
    for sides in [(jnp.nan, 0.0), (0.0, jnp.nan), (jnp.nan, jnp.nan), (jnp.array([0.0, jnp.nan]), 0.0)]:
        assert not check(sides[0], relation, sides[1]).holds(1e300)


def test_equal_infinities_agree_and_different_ones_do_not():
    assert check(jnp.inf, "==", jnp.inf).holds(0.0)
    assert not check(jnp.inf, "==", -jnp.inf).holds()
    assert not check(jnp.inf, "<=", 1.0).holds()
    assert check(-jnp.inf, "<=", 1.0).holds(0.0)


def test_the_worst_element_decides():
    assert check(jnp.array([0.0, 1e-3]), "==", 0.0).worst == 1e-3
    assert not check(jnp.array([0.0, 1e-3]), "==", 0.0).holds()


def test_an_unknown_relation_is_refused():
    with pytest.raises(ValueError, match="relation"):
        check(0.0, "<", 1.0)


def test_each_precision_has_its_own_tolerance():
    accepted = {"tolerance": 1e-12, "tolerance_float32": 1e-4}
    assert not check(np.float64(1e-6), "==", 0.0, **accepted).holds()
    assert check(np.float32(1e-6), "==", 0.0, **accepted).holds()
    # A float64 side sets the standard.
    assert not check(np.float32(1e-6), "==", np.zeros(2), **accepted).holds()


def test_sides_of_different_precision_compare_under_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        assert check(jnp.ones(2, jnp.float32), "==", jnp.ones(2), scale=np.float32(2)).holds(0.0)
        assert check(jnp.ones(2, jnp.bfloat16), "<=", 1).holds(0.0)


def test_a_claim_can_be_compiled_vectorised_and_differentiated():
    def claim(x):
        return check(x**2, "<=", 2 * x)

    assert jax.jit(claim)(jnp.float64(3)).worst == 3
    assert jax.vmap(claim)(jnp.arange(3.0)).violation.tolist() == [0, -1, 0]
    assert jax.grad(lambda x: claim(x).worst)(3.0) == 4


def test_a_broadcast_check_takes_a_further_axis():
    claims = jax.vmap(lambda x: check(x, "==", 0.0, scale=jnp.sum(x)).broadcast())(jnp.ones((4, 2)))
    assert claims.violation.shape == (4, 2)
    assert claims.worst == 0.5


def test_the_search_finds_a_planted_violation():
    # The peak of height 1 has width 0.05 and lies off every start.
    def claim(x):
        return check(jnp.exp(-jnp.sum((x - 0.7) ** 2) / 2) + 0.02 * jnp.sum(jnp.cos(9 * x)), "<=", 0.9)

    rng = np.random.default_rng(0)
    found = falsify.search(claim, (rng.normal(0, 1.5, (32, 3)),))
    assert found.violation > 0 > found.started - 0.2
    assert found.violation >= found.started
    assert np.isclose(claim(*found.arguments).worst, found.violation)


def test_the_search_stays_below_a_true_bound():
    def claim(x, y):
        return check(2 * x * y, "<=", x**2 + y**2)

    found = falsify.search(claim, (np.linspace(-3, 3, 16), np.linspace(2, -1, 16)))
    assert -1e-6 < found.violation <= 1e-12
    assert found.check.violation.shape == (32,)


def test_the_search_moves_floating_arrays_only():
    def claim(x, k):
        return check(x * k, "<=", 0.0)

    found = falsify.search(claim, (np.zeros(3), np.array([0, 1, 2])), steps=20)
    assert found.arguments[1] == 2


def test_the_search_does_not_hide_nan():
    found = falsify.search(lambda x: check(jnp.sqrt(x), ">=", 0.0), (np.array([1.0, -1.0]),), steps=5)
    assert jnp.isnan(found.violation)


def test_a_row_measures_residuals_and_slacks():
    residual = report.summarise("family", check(jnp.array([1.0, 1.25, 0.5]), "==", 1.0))
    assert (residual.kind, residual.measured, residual.typical, residual.holds) == (
        "residual",
        0.5,
        0.25,
        False,
    )
    slack = report.summarise("family", check(jnp.array([1.0, 2.0]), "<=", 4.0, scale=2.0))
    assert (slack.kind, slack.measured, slack.typical, slack.holds) == ("slack", 1.0, 1.25, True)


def test_a_row_with_nan_fails_and_is_null_in_json():
    row = report.summarise("family", check(jnp.array([1.0, jnp.nan]), "<=", 4.0))
    assert not row.holds
    assert json.loads(report.as_json([row], seed=0, precision="float64"))["rows"][0]["measured"] is None


def test_the_page_escapes_what_it_shows():
    row = report.summarise("family", check(1.0, "<=", 2.0))
    assert "&lt;" not in report.as_html([row], seed=0, precision="float64")
    row = report.summarise("family", Check("name", "derived", "a < b", 1.0, "<=", 2.0))
    assert "a &lt; b" in report.as_html([row], seed=0, precision="float64")


def test_the_families_have_suites():
    assert {"ldr", "noise_robust"} <= set(report.families())
