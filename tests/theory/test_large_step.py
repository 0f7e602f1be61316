import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg.theory import falsify, large_step
from jaxreg.theory.large_step import bounds, counts, limits, methods
from jaxreg.theory.large_step.problems import draw
from tests import suites

# One worker, so that the suite is evaluated once.
pytestmark = pytest.mark.xdist_group("theory_large_step")


@pytest.fixture(scope="module")
def rows():
    return suites.rows("large_step")


def test_the_searches_come_near_to_tight(rows):
    slack = {row.name: row.measured for row in rows}
    assert slack["weighted-margin-is-bounded"] < 1e-3
    assert slack["master-inequality-any-advance"] < 0.05
    assert slack["exponential-risk"] < 0.01


# -- Statements fail for methods that are wrong in the way they are about.


@pytest.mark.parametrize("tie", [0.0, 1.0])
def test_another_weight_of_ties_is_not_the_limit(monkeypatch, tie):
    def weights(margins):
        values = jnp.where(margins > 0, 0.0, jnp.where(margins < 0, 1.0, tie))
        # The start, where all margins are 0, is not what this is about.
        values = jnp.where(jnp.all(margins == 0), 0.5, values)
        return values, jnp.zeros_like(margins[0])

    perceptron = methods.METHODS["batch_perceptron"]._replace(weights=weights)
    monkeypatch.setitem(methods.METHODS, "batch_perceptron", perceptron)
    examples = jnp.asarray(limits.tied_examples(0, 20))
    check = limits.perceptron_limit(examples, ("logistic_gd", "batch_perceptron"), step_size=1e4)
    assert not check.holds(0.1)


def test_a_search_breaks_a_bound_on_the_steps_that_is_too_small(monkeypatch):
    right = counts.steps_bound
    monkeypatch.setattr(counts, "steps_bound", lambda *a, **options: 0.6 * right(*a, **options))
    rng = np.random.default_rng(0)
    claim = functools.partial(counts.steps_are_bounded, method="normalized_perceptron")
    cases = rng.normal(size=(60, 6, 3)), np.zeros(60)
    found = falsify.hill_climb(claim, cases)
    assert found.started < 0 < found.violation
    assert claim(*found.arguments).worst == found.violation


def test_gradient_descent_breaks_the_bound_of_the_normalized_method():
    features, labels = large_step.hard_instance(1000)
    rho = large_step.hardness(features, labels)
    count = large_step.separate(features, labels, method="logistic_gd", step_size=1e6).count
    assert count > large_step.steps_bound("normalized_logistic_gd", 1000, rho, 1e6)


def test_the_master_inequality_fails_for_a_margin_that_is_too_large():
    problems = draw(0, 20)
    size = 1e6 / problems.radius**2
    check = jax.vmap(
        lambda x, r, m, g: bounds.master_inequality(x, r, m, g, method="normalized_logistic_gd", steps=40)
    )(problems.examples, problems.radius, 2 * problems.margin, size)
    assert not check.holds()


# -- The loop and the solver


def counted(examples, method, step_size, max_steps=2000):
    """The method as it is written, in NumPy."""
    theta = np.zeros(examples.shape[1])
    for step in range(max_steps + 1):
        margins = examples @ theta
        if np.all(margins > 0):
            return step, theta
        mistakes = np.where(margins < 0, 1.0, np.where(margins == 0, 0.5, 0.0))
        slopes = 1 / (1 + np.exp(margins))
        loss = np.logaddexp(0, -margins).mean()
        theta = (
            theta
            + step_size
            * {
                "logistic_gd": slopes @ examples / len(examples),
                "normalized_logistic_gd": slopes @ examples / slopes.sum(),
                "batch_perceptron": mistakes @ examples / len(examples),
                "normalized_perceptron": mistakes @ examples / mistakes.sum(),
                "adaptive_logistic": slopes @ examples / len(examples) / -np.expm1(-loss),
                "adaptive_exponential": np.exp(-margins) @ examples / np.exp(-margins).sum(),
            }[method]
        )
    return max_steps, theta


@pytest.mark.parametrize("method", large_step.METHODS)
def test_counts_and_iterates_are_those_of_the_method_as_written(method):
    examples = np.asarray(draw(3, 1, rows=12).examples[0])
    sizes = np.array([[0.3], [2.0]]) / np.sum(examples**2, -1).max()
    found = large_step.separate(examples, np.ones(12, int), method=method, step_size=sizes, max_steps=2000)
    for place in np.ndindex(sizes.shape):
        count, theta = counted(examples, method, sizes[place])
        assert found.count[place] == count
        assert found.separated[place]
        np.testing.assert_allclose(found.iterate[place], theta, rtol=1e-9)
    if method != "adaptive_exponential":
        blocked = large_step.separate(
            examples, np.ones(12, int), method=method, step_size=sizes, max_steps=2000, block_rows=4
        )
        np.testing.assert_array_equal(blocked.count, found.count)
        np.testing.assert_allclose(blocked.iterate, found.iterate, rtol=1e-9)


def test_more_blocks_than_are_unrolled_take_the_same_steps():
    examples = np.asarray(draw(5, 1, rows=70).examples[0])
    options = {"step_size": jnp.array([1.0, 100.0]), "max_steps": 200}
    whole, blocked = (
        large_step.separate(examples, np.ones(70, int), block_rows=rows, **options) for rows in (None, 1)
    )
    np.testing.assert_array_equal(blocked.count, whole.count)
    np.testing.assert_allclose(blocked.iterate, whole.iterate, rtol=1e-9)


def test_rows_spread_over_devices_take_the_same_steps():
    examples = draw(3, 1, rows=16).examples[0]
    options = {"step_size": jnp.array([1.0, 100.0]), "max_steps": 200, "record": True}
    here = large_step.separate(examples, np.ones(16, int), **options)
    mesh = jax.make_mesh((4,), ("rows",))
    spread = jax.device_put(examples, jax.NamedSharding(mesh, jax.P("rows")))
    there = large_step.separate(spread, np.ones(16, int), block_rows=2, **options)
    np.testing.assert_array_equal(here.count, there.count)
    for name in ("iterate", "losses", "misclassified", "margins"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-9)
    with pytest.raises(ValueError, match="block_rows"):
        large_step.separate(spread, np.ones(16, int), block_rows=8)


def test_trajectories_end_where_separation_begins_and_labels_may_be_zero_and_one():
    examples = np.asarray(draw(4, 1).examples[0])
    labels = np.arange(8) % 2
    features = examples * (2 * labels - 1)[:, None]
    sizes = np.array([0.01, 1e3]) / np.sum(examples**2, -1).max()
    found = large_step.separate(features, labels, step_size=sizes, max_steps=1000, record=True)
    assert found.losses.shape == found.margins.shape == found.misclassified.shape == (1001, 2)
    for place, count in enumerate(found.count):
        assert found.losses[0, place] == pytest.approx(np.log(2))
        assert np.all(found.margins[:count, place] <= 0)
        assert found.margins[count, place] > 0
        assert found.misclassified[count, place] == 0
        assert np.all(np.isnan(found.losses[count + 1 :, place]))
        assert np.all(found.misclassified[count + 1 :, place] == -1)
    again = large_step.separate(examples, np.ones(8, int), step_size=sizes, max_steps=1000)
    np.testing.assert_array_equal(again.count, found.count)


def test_giving_up_says_so_and_is_a_value_and_no_error():
    found = large_step.separate(np.array([[1.0], [-1.0]]), np.ones(2, int), max_steps=7)
    assert (found.count, bool(found.separated)) == (7, False)
    assert large_step.max_margin(np.array([[1.0], [-1.0]]), np.ones(2, int)) == 0
    assert large_step.hardness(np.array([[1.0], [-1.0]]), np.ones(2, int)) == np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "newton"}, "method"),
        ({"step_size": 0.0}, "step_size"),
        ({"max_steps": -1}, "max_steps"),
        ({"block_rows": 3}, "block_rows"),
        ({"labels": np.array([1, 2, 1, 1])}, "labels"),
        ({"labels": np.ones(3)}, "labels"),
        ({"features": np.ones(4)}, "features"),
        ({"method": "adaptive_exponential", "block_rows": 2}, "block_rows"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_by_name(changes, message):
    arguments = {"features": np.ones((4, 2)), "labels": np.ones(4, int), **changes}
    with pytest.raises(ValueError, match=message):
        large_step.separate(**arguments)


def test_traced_labels_that_are_no_classes_never_separate():
    found = jax.jit(lambda labels: large_step.separate(jnp.eye(2), labels, max_steps=5))(jnp.array([1, 2]))
    assert not found.separated
    assert np.any(np.isnan(found.iterate))


def test_the_margin_of_many_rows_is_that_of_the_planes_direction_and_cannot_be_improved():
    rng = np.random.default_rng(5)
    features = rng.normal(size=(2000, 6))
    direction = rng.normal(size=6)
    labels = np.where(features @ direction > 0, 1, -1)
    features += 0.1 * labels[:, None] * direction
    margin, normal = large_step.best_plane(features, labels)
    signed = features * labels[:, None]
    assert margin > 0.1
    np.testing.assert_allclose((signed @ normal).min(), margin, rtol=1e-9)
    for _ in range(200):
        other = normal + 10.0 ** rng.uniform(-6, 0) * rng.normal(size=6)
        assert (signed @ other).min() / np.linalg.norm(other) <= margin * (1 + 1e-9)


def test_the_margin_is_the_distance_of_two_points_and_scales():
    for scale, flip in itertools.product((1e-6, 1.0, 1e6), (1, -1)):
        features = scale * np.array([[3.0, 1.0], [1.0, -3.0], [30.0, 40.0]])
        found = large_step.max_margin(flip * features, np.full(3, flip))
        # The segment between the first two rows is nearest to 0 at its middle, (2, -1).
        np.testing.assert_allclose(found, scale * 5**0.5, rtol=1e-8)
