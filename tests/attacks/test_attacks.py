"""The attacks against closed forms on linear scores, and the traps of the inner maximisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxreg import attacks, losses

GENERATOR = np.random.default_rng(2)
WEIGHTS = GENERATOR.normal(size=(6, 4))
INPUTS = GENERATOR.normal(size=(5, 6))
LABELS = np.array([0, 1, 2, 3, 1])
SLOPES = GENERATOR.normal(size=(5, 6))


def linear(x):
    return jnp.sum(x * SLOPES, -1)


@pytest.mark.parametrize(("norm", "dual"), [("l_inf", 1), ("l_2", 2)])
def test_a_linear_objective_is_maximised_at_the_dual_norm(norm, dual):
    radius = np.linspace(0, 2, 5)
    found = jax.jit(
        lambda key: attacks.projected_gradient_ascent(
            linear, INPUTS, key, radius=radius, step_size=0.5, steps=60, norm=norm, restarts=2
        )
    )(jax.random.key(0))
    gained = linear(found) - linear(INPUTS)
    np.testing.assert_allclose(gained, radius * np.linalg.norm(SLOPES, dual, -1), rtol=1e-9, atol=1e-12)
    order = np.inf if norm == "l_inf" else 2
    assert np.all(np.linalg.norm(found - INPUTS, order, -1) <= radius * (1 + 1e-12))


def test_the_distance_of_linear_scores_reaches_the_spectral_norm():
    """The worst change of score differences in an l_2 ball, from a start where its gradient vanishes."""

    def distance(x):
        change = (x - INPUTS) @ WEIGHTS
        own = jnp.take_along_axis(change, LABELS[:, None], -1)
        return jnp.sum(jnp.square(own - change), -1)

    def attack(random_start):
        return jax.jit(
            lambda key: attacks.projected_gradient_ascent(
                distance, INPUTS, key, radius=0.3, step_size=1.0, steps=200, norm="l_2",
                random_start=random_start,
            )
        )(jax.random.key(1))  # fmt: skip

    singular = [np.linalg.norm(WEIGHTS[:, [y]] - WEIGHTS, 2) for y in LABELS]
    np.testing.assert_allclose(np.sqrt(distance(attack(True))), 0.3 * np.array(singular), rtol=1e-6)
    np.testing.assert_array_equal(attack(False), INPUTS)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
def test_the_box_and_the_ball_hold_both(norm):
    inputs = np.clip(GENERATOR.normal(size=(5, 6)), -1, 1).astype(np.float32)
    slopes = SLOPES.astype(np.float32)
    for keep_best in (True, False):
        found = attacks.projected_gradient_ascent(
            lambda x: jnp.sum(x * slopes, -1), inputs, jax.random.key(0), radius=0.7, step_size=0.3,
            steps=8, norm=norm, restarts=3,            lower=-1.0, upper=np.ones(6), keep_best=keep_best,
        )  # fmt: skip
        assert found.dtype == np.float32
        assert np.all(np.abs(found) <= 1)
        order = np.inf if norm == "l_inf" else 2
        assert np.all(np.linalg.norm(found - inputs, order, -1) <= 0.7 * (1 + 1e-5))


def test_one_step_from_the_centre_is_the_fast_gradient_sign_method():
    found = attacks.fast_gradient_sign(lambda x: losses.comp_sum(x @ WEIGHTS, LABELS), INPUTS, radius=0.1)
    gradient = jax.grad(lambda x: losses.comp_sum(x @ WEIGHTS, LABELS).sum())(INPUTS)
    np.testing.assert_allclose(found, INPUTS + 0.1 * np.sign(gradient), rtol=1e-12)


def test_the_best_point_on_the_way_is_never_worse_than_the_given_one_or_the_end():
    def wavy(x):
        return jnp.sum(jnp.cos(7 * x) * SLOPES, -1)

    def attack(**kwargs):
        return attacks.projected_gradient_ascent(
            wavy, INPUTS, jax.random.key(3), radius=1.0, step_size=0.9, steps=6, restarts=4, **kwargs
        )

    best = wavy(attack(keep_best=True))
    assert np.all(best >= wavy(attack()))
    assert np.all(best >= wavy(INPUTS))


def test_more_restarts_find_what_one_misses():
    def double_well(x):
        return jnp.where(x[:, 0] > 0, 2 * x[:, 0], -x[:, 0])

    x = jnp.full((64, 1), -0.2)
    values = [
        double_well(
            attacks.projected_gradient_ascent(
                double_well, x, jax.random.key(0), radius=1.0, step_size=0.1, steps=20, restarts=restarts
            )
        )
        for restarts in (1, 16)
    ]
    assert jnp.mean(values[0] > 1.5) < 0.7
    np.testing.assert_allclose(values[1], 1.6, rtol=1e-6)


def test_it_is_constant_for_differentiation_and_runs_under_vmap_and_jit():
    def attacked(scale, key):
        return attacks.projected_gradient_ascent(
            lambda x: scale * linear(x), INPUTS, key, radius=0.5, step_size=0.1, steps=3
        )

    assert jax.grad(lambda scale: attacked(scale, jax.random.key(0)).sum())(2.0) == 0
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(attacked))(jnp.arange(1.0, 4.0), keys)
    for n in range(3):
        np.testing.assert_allclose(together[n], attacked(n + 1.0, keys[n]), rtol=1e-12)


def test_a_gradient_or_value_that_is_not_a_number_does_not_spoil_the_search():
    def broken(x):
        return jnp.where(x[:, 0] > 0.2, jnp.nan, jnp.sqrt(jnp.maximum(x[:, 0], 0)) + x[:, 1])

    found = attacks.projected_gradient_ascent(
        broken, jnp.zeros((3, 2)), jax.random.key(0), radius=0.5, step_size=0.1, steps=20, keep_best=True
    )
    assert np.all(np.isfinite(found))
    assert np.all(broken(found) >= 0)
    assert np.any(broken(found) > 0.4)


def test_margins_are_positive_exactly_at_mistakes_and_targets():
    scores = jnp.asarray(GENERATOR.normal(size=(50, 4)))
    labels = jnp.arange(50) % 4
    predicted = jnp.argmax(scores, -1)
    np.testing.assert_array_equal(attacks.score_margin(scores, labels) > 0, predicted != labels)
    np.testing.assert_array_equal(attacks.targeted_margin(scores, labels) > 0, predicted == labels)
    assert np.isnan(attacks.score_margin(scores[:1], jnp.array([4]))[0])
    with pytest.raises(ValueError, match="2 classes"):
        attacks.score_margin(scores[:, :1], labels)


def test_a_targeted_attack_makes_the_target_the_prediction():
    targets = (LABELS + 1) % 4
    found = attacks.projected_gradient_ascent(
        lambda x: attacks.targeted_margin(x @ WEIGHTS, targets), INPUTS, jax.random.key(0), radius=3.0,
        step_size=0.2, steps=60, norm="l_inf", keep_best=True,
    )  # fmt: skip
    np.testing.assert_array_equal(jnp.argmax(found @ WEIGHTS, -1), targets)


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        ({"norm": "l1"}, ValueError, "norm"),
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": 2.0}, ValueError, "steps"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"radius": -1.0}, ValueError, "radius"),
        ({"step_size": np.ones(3)}, ValueError, "step_size"),
        ({"radius": 1j}, TypeError, "radius"),
        ({"lower": np.zeros(5)}, ValueError, "lower"),
        ({"objective": lambda x: x.sum()}, ValueError, "objective"),
        ({"x": np.zeros((5, 6), int)}, TypeError, "x"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, name):
    arguments = {
        "objective": linear,
        "x": INPUTS,
        "key": jax.random.key(0),
        "radius": 1.0,
        "step_size": 0.1,
        "steps": 2,
    }
    with pytest.raises(error, match=name):
        attacks.projected_gradient_ascent(**arguments | change)


def test_a_traced_negative_radius_gives_nan_for_its_example_only():
    radius = jnp.array([1.0, -1.0, 0.0, 1.0, 1.0])
    found = attacks.projected_gradient_ascent(
        linear, INPUTS, jax.random.key(0), radius=radius, step_size=0.1, steps=2
    )
    assert np.array_equal(np.isnan(found).all(-1), [False, True, False, False, False])
    np.testing.assert_array_equal(found[2], INPUTS[2])


def test_starts_are_uniform_in_the_ball():
    x = jnp.zeros((20_000, 3))

    @jax.jit
    def starts(key):
        return [
            attacks.projected_gradient_ascent(
                lambda x: 0 * jnp.sum(x, -1), x, key, radius=2.0, step_size=0.0, steps=1, norm=norm
            )
            for norm in ("l_inf", "l_2")
        ]

    box, ball = (np.asarray(found) / 2 for found in starts(jax.random.key(0)))
    for sample in (
        box.ravel(),
        np.linalg.norm(ball, axis=-1) ** 3 * 2 - 1,
        ball[:, 0] / np.linalg.norm(ball, axis=-1),
    ):
        assert stats.kstest(sample, "uniform", (-1, 2)).pvalue > 1e-3
    assert np.abs(np.corrcoef(box.T) - np.eye(3)).max() < 0.03
    assert np.abs(np.corrcoef(ball.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("radius", [1e-30, 1e-20, 1e25, 1e37])
def test_the_ball_may_be_of_any_size_that_the_dtype_holds(radius):
    x, slope = jnp.zeros([2, 2], jnp.float32), jnp.array([3.0, -4.0], jnp.float32)
    found = attacks.projected_gradient_ascent(
        lambda x: (x / np.float32(radius)) @ slope,
        x,
        jax.random.key(0),
        radius=radius,
        step_size=radius / 2,
        steps=30,
        norm="l_2",
    )
    np.testing.assert_allclose(found / np.float32(radius), [[0.6, -0.8]] * 2, rtol=1e-4)
