import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import penalties
from jaxreg.penalties import predictions as predictions_module
from jaxreg.theory import falsify, hessian_alignment
from jaxreg.theory.hessian_alignment import (
    blind,
    costs,
    cubic_remainder,
    hutchinson,
    moments,
    objectives,
    transfer_measure,
)
from jaxreg.theory.hessian_alignment import domains as hessian_alignment_domains
from jaxreg.theory.oracles import quick_jit
from tests import suites

# One worker, so that the suite is evaluated once.
pytestmark = pytest.mark.xdist_group("theory_hessian_alignment")


@pytest.fixture(scope="module")
def rows():
    return suites.rows("hessian_alignment")


@pytest.fixture(scope="module")
def domains():
    return hessian_alignment.draw(0, 5)


@pytest.fixture(scope="module")
def dense(domains):
    return quick_jit(jax.vmap(hessian_alignment.derivatives))(domains)


def test_all_eighteen_numbers_occur(rows):
    text = " ".join(row.statement for row in rows)
    assert all(f"HA-{number}:" in text or f"HA-{number}," in text for number in range(1, 19)), text


def test_negative_results_say_so_and_show_a_margin(rows):
    negative = [row for row in rows if "NEGATIVE" in row.statement]
    assert len(negative) == 7
    assert all(row.measured >= 0 or row.relation == "==" for row in negative)


def test_the_searches_come_near_to_tight(rows):
    slack = {row.name: row.measured for row in rows}
    for name in (
        "hessian-is-bounded-1",
        "hessian-is-bounded-2",
        "quadratic-measure-one-sided",
        "quadratic-measure-symmetric",
        "third-central-moment-is-bounded",
        "third-derivative-is-bounded-1",
        "products-are-bounded",
        "irm-is-bounded",
    ):
        assert slack[name] < 1e-3
    assert slack["transfer-measure-around-any-centre"] < 0.1


# -- Statements fail for penalties that are wrong in the way they are about.


def test_a_curvature_without_the_outer_product_is_caught(domains, dense, monkeypatch):
    def without(self, values):
        return self.probabilities * values

    monkeypatch.setattr(predictions_module.Predictions, "curve", without)
    vector = jnp.ones((5, dense.gradient.shape[-1]))
    closed = quick_jit(jax.vmap(moments.moments))(domains, vector)
    checks = {check.name: check for check in moments.closed_forms(closed, dense, vector)}
    failing = {name for name, check in checks.items() if not check.holds(1e-3)}
    assert failing == {"closed-hessian-vector-product", "closed-hessian-gradient-product"}


def test_another_reference_is_caught(domains, monkeypatch):
    right = penalties.hessian_gradient_alignment

    def exchanged(*arguments, reference, **options):
        return right(*arguments, reference="mean" if reference == "pooled" else "pooled", **options)

    monkeypatch.setattr(objectives, "HGP", exchanged)
    checks = list(objectives.hgp_is_its_definition(domains))
    assert not any(check.holds(1e-4) for check in checks[:4])


def test_an_estimator_of_the_norm_with_normal_probes_would_break_its_variance(dense, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(hutchinson, "all_signs", lambda size: rng.normal(size=(4000, size)))
    hessian = np.asarray(dense.hessian)[..., :6, :6]
    checks = {check.name: check for check in hutchinson.variance_of_the_estimator(hessian)}
    assert not checks["estimator-has-variance-off"].holds(1e-3)


def test_a_remainder_that_is_a_tenth_too_small_is_caught_by_the_third_moment_search(monkeypatch):
    smaller = 0.9 * cubic_remainder.THIRD_MOMENT
    monkeypatch.setattr(cubic_remainder, "THIRD_MOMENT", smaller)
    rng = np.random.default_rng(0)
    starts = rng.normal(size=(16, 3)), rng.normal(size=(16, 3))
    found = falsify.search(cubic_remainder.third_central_moment_is_bounded, starts)
    assert found.violation > 1e-3
    starts = rng.normal(size=(16, 1, 2)), rng.normal(size=(16, 1, 2)), rng.normal(size=(16, 2, 1))
    assert falsify.search(cubic_remainder.third_derivative_is_bounded, starts).violation > 1e-3


def test_a_bound_without_the_cubic_remainder_is_caught_by_a_search_over_moves(monkeypatch):
    monkeypatch.setattr(cubic_remainder, "constant", lambda classes: 0.0)
    rng = np.random.default_rng(0)
    starts = (*rng.normal(size=(2, 16, 3, 2)), rng.normal(size=(16, 2, 3, 1)), rng.normal(size=(16, 2, 3, 3)))
    found = falsify.search(cubic_remainder.excess_is_bounded, starts, steps=100)
    assert found.violation > 0.01


def test_a_bound_without_the_gradients_difference_is_caught():
    pair = hessian_alignment.draw_pair(0, optimal=False)
    source, target = hessian_alignment.hessians(pair)
    values, vectors = np.linalg.eigh(target - source)
    found = hessian_alignment.transfer(pair, 1 / 64, vectors.T[:3])
    assert found > values[-1] / 64**2 / 2 + hessian_alignment.remainder(pair, 1 / 64)


def test_fish_with_the_other_sign_is_caught(domains, dense, monkeypatch):
    right = penalties.fish
    monkeypatch.setattr(penalties, "fish", lambda *args, **options: -right(*args, **options))
    assert not hessian_alignment_domains.fish_moves_along_two_products(domains, dense).holds(1e-3)


def test_a_penalty_on_diagonals_that_sees_correlations_is_caught(monkeypatch):
    monkeypatch.setattr(penalties, "hessian_diagonal_alignment", penalties.hessian_alignment)
    assert not blind.diagonals_are_blind().holds()


# -- Counting


def test_operations_inside_loops_branches_and_compiled_parts_count():
    square, count = jnp.ones((4, 4)), costs.matrix_operations

    def looped(x):
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, carry), None), x, length=5)[0]

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, x)

    once = 2 * 4**3
    assert count(looped, square) == 5 * once
    assert count(branched, square) == 2 * once
    assert count(jax.checkpoint(jnp.matmul), square, square) == once


def test_the_excess_near_the_centre_is_its_quadratic_form():
    pair = hessian_alignment.draw_pair(3, optimal=True)
    move = np.random.default_rng(0).normal(size=(3, 3))
    for size in (1e-3, 1e-5, 1e-7):
        values, gradients = transfer_measure.excess(pair, size * move)
        flat = move.ravel()
        expected = [flat @ h @ flat / 2 for h in hessian_alignment.hessians(pair)]
        np.testing.assert_allclose(values / size**2, expected, rtol=10 * size + 1e-6)
        np.testing.assert_allclose(
            gradients.reshape(2, -1) / size,
            np.stack([h @ flat for h in hessian_alignment.hessians(pair)]),
            rtol=1e-2,
            atol=10 * size,
        )
