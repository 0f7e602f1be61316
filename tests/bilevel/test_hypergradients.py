"""Implicit and unrolled hypergradients against closed forms, finite differences and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from jaxreg import bilevel

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(12, 4)), RNG.normal(size=12)
X_VALID, T_VALID = RNG.normal(size=(8, 4)), RNG.normal(size=8)
LOG_PENALTIES = np.array([-1.0, 0.5, 0.0, 1.5])


@pytest.fixture(scope="module", autouse=True)
def numerics():
    with jax.enable_x64(True):  # optax's optimisers need standard promotion
        yield


def inner(params, hyper):
    """Ridge regression with a penalty for each weight and an intercept; parameters and hypers are trees."""
    residual = X @ params["w"] + params["b"] - T
    return 0.5 * jnp.sum(residual**2) + 0.5 * jnp.sum(jnp.exp(hyper["log_penalties"]) * params["w"] ** 2)


def outer(params, hyper):
    """With a direct term in both hyper-parameters; the gain enters nothing else."""
    residual = hyper["gain"] * (X_VALID @ params["w"] + params["b"]) - T_VALID
    return jnp.mean(residual**2) + 0.1 * jnp.sum(hyper["log_penalties"] ** 2)


def minimiser(log_penalties):
    """The solution of the normal equations, bias last."""
    design = jnp.concatenate([X, jnp.ones((12, 1))], axis=1)
    penalty = jnp.diag(jnp.concatenate([jnp.exp(log_penalties), jnp.zeros(1)]))
    solution = jnp.linalg.solve(design.T @ design + penalty, design.T @ T)
    return {"w": solution[:4], "b": solution[4]}


def hyper():
    return {"log_penalties": jnp.asarray(LOG_PENALTIES), "gain": jnp.asarray(0.7)}


def through_the_solution(hyper):
    return outer(minimiser(hyper["log_penalties"]), hyper)


def close(found, wanted, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), found, wanted)


def test_implicit_is_the_derivative_of_the_solved_problem_direct_term_included():
    value, wanted = jax.value_and_grad(through_the_solution)(hyper())
    found = jax.jit(lambda p, h: bilevel.implicit_hypergradient(inner, outer, p, h))(
        minimiser(LOG_PENALTIES), hyper()
    )
    close(found.gradient, wanted)
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    assert isinstance(found, bilevel.Hypergradient)
    assert found.stationarity < 1e-12 and found.residual < 1e-11
    assert abs(wanted["gain"]) > 0.01  # all of it direct


def test_another_solver_may_be_passed():
    def dense(product, right):
        flat, restore = jax.flatten_util.ravel_pytree(right)
        matrix = jax.vmap(lambda row: jax.flatten_util.ravel_pytree(product(restore(row)))[0])(
            jnp.eye(flat.size)
        )
        return restore(jnp.linalg.solve(matrix, flat))

    arguments = inner, outer, minimiser(LOG_PENALTIES), hyper()
    found = bilevel.implicit_hypergradient(*arguments, solve=dense)
    close(found.gradient, jax.grad(through_the_solution)(hyper()), rtol=1e-12)
    lazy = bilevel.implicit_hypergradient(
        *arguments, solve=lambda a, b: jax.scipy.sparse.linalg.cg(a, b, maxiter=1)[0]
    )
    assert lazy.residual > 1e-3  # a solver that stopped early is seen


@pytest.mark.parametrize(
    ("optimizer", "steps", "segments"),
    [(optax.sgd(0.04), 1500, 1), (optax.sgd(0.02, momentum=0.9, nesterov=True), 400, 20)],
    ids=["sgd", "momentum in segments"],
)
def test_unrolled_converges_to_the_same(optimizer, steps, segments):
    start = jax.tree.map(jnp.zeros_like, minimiser(LOG_PENALTIES))
    found = jax.jit(
        lambda p, h: bilevel.unrolled_hypergradient(
            inner, outer, p, h, optimizer=optimizer, steps=steps, segments=segments
        )
    )(start, hyper())
    close(found.params, minimiser(LOG_PENALTIES))
    close(found.gradient, jax.grad(through_the_solution)(hyper()))


def test_segments_change_memory_and_nothing_else():
    start = jax.tree.map(jnp.ones_like, minimiser(LOG_PENALTIES))
    adam = optax.adam(0.1, eps_root=1e-8)

    def program(segments):
        def run(p, h):
            return bilevel.unrolled_hypergradient(
                inner, outer, p, h, optimizer=adam, steps=144, segments=segments
            )

        return jax.jit(run).lower(start, hyper()).compile()

    whole, cut = program(1), program(12)
    close(cut(start, hyper()).gradient, whole(start, hyper()).gradient, rtol=1e-11)
    kept = [one.memory_analysis().temp_size_in_bytes for one in (whole, cut)]
    assert kept[1] < 0.5 * kept[0]
    # A few steps of an adaptive method: the derivative of what they reach, by central differences.
    gradient = whole(start, hyper()).gradient["gain"]
    step = 1e-5
    ends = [whole(start, {**hyper(), "gain": hyper()["gain"] + sign * step}).value for sign in (1, -1)]
    np.testing.assert_allclose(gradient, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


def test_logistic_regression_agrees_with_finite_differences_of_its_minimum():
    labels = np.sign(T)

    def fit(params, log_penalties):
        return jnp.sum(jax.nn.softplus(-labels * (X @ params))) + 0.5 * jnp.sum(
            jnp.exp(log_penalties) * params**2
        )

    def validation(params, log_penalties):
        del log_penalties
        return jnp.mean(jax.nn.softplus(-np.sign(T_VALID) * (X_VALID @ params)))

    slope, curvature = jax.jit(jax.grad(fit)), jax.jit(jax.hessian(fit))

    def solved(log_penalties):
        return optimize.root(
            lambda w: np.asarray(slope(w, log_penalties)),
            np.zeros(4),
            jac=lambda w: np.asarray(curvature(w, log_penalties)),
            tol=1e-14,
        ).x

    differences = []
    for unit in 1e-3 * np.eye(4):
        along = [float(validation(solved(LOG_PENALTIES + k * unit), None)) for k in (-2, -1, 1, 2)]
        differences.append(np.dot([1, -8, 8, -1], along) / 12e-3)
    found = bilevel.implicit_hypergradient(
        fit, validation, jnp.asarray(solved(LOG_PENALTIES)), jnp.asarray(LOG_PENALTIES)
    )
    np.testing.assert_allclose(found.gradient, differences, rtol=1e-8, atol=1e-11)


def test_the_error_at_parameters_that_have_not_converged_is_of_the_order_of_the_residual():
    wanted = jax.grad(through_the_solution)(hyper())["log_penalties"]

    solve = jax.jit(lambda params: bilevel.implicit_hypergradient(inner, outer, params, hyper()))

    def error(size):
        found = solve(jax.tree.map(lambda leaf: leaf + size, minimiser(LOG_PENALTIES)))
        return float(np.linalg.norm(found.gradient["log_penalties"] - wanted)), float(found.stationarity)

    (large, off), (small, less_off) = error(1e-2), error(1e-3)
    assert 0.05 * off > large > 0 and off / less_off == pytest.approx(10, rel=1e-6)
    assert large / small == pytest.approx(10, rel=0.1)


def test_problems_vectorise_and_half_precision_comes_back_as_it_went():
    penalties = jnp.stack([LOG_PENALTIES, LOG_PENALTIES + 1])
    batch = jax.jit(jax.vmap(minimiser))(penalties)
    hypers = {"log_penalties": penalties, "gain": jnp.array([0.7, 0.7])}
    found = jax.jit(jax.vmap(lambda p, h: bilevel.implicit_hypergradient(inner, outer, p, h)))(batch, hypers)
    close(found.gradient, jax.jit(jax.vmap(jax.grad(through_the_solution)))(hypers))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (minimiser(LOG_PENALTIES), hyper()))
    single = jax.eval_shape(lambda p, h: bilevel.implicit_hypergradient(inner, outer, p, h), *half)
    assert single.gradient["gain"].dtype == jnp.bfloat16
    assert single.params["w"].dtype == jnp.bfloat16


def test_an_outer_loss_that_ignores_the_parameters_leaves_the_direct_term():
    found = bilevel.implicit_hypergradient(
        inner, lambda params, hyper: 2 * hyper["gain"], minimiser(LOG_PENALTIES), hyper()
    )
    assert found.gradient["gain"] == 2 and found.residual == 0
    np.testing.assert_array_equal(found.gradient["log_penalties"], np.zeros(4))


@pytest.mark.parametrize("changes", [{"steps": 0}, {"steps": 2.5}, {"segments": 3}, {"segments": 0}])
def test_counts_that_cannot_be_right_are_refused_by_name(changes):
    arguments = {"optimizer": optax.sgd(0.1), "steps": 10, **changes}
    with pytest.raises(ValueError, match=next(iter(changes))):
        bilevel.unrolled_hypergradient(inner, outer, minimiser(LOG_PENALTIES), hyper(), **arguments)


def test_what_is_no_scalar_or_not_floating_is_refused_by_name():
    params = minimiser(LOG_PENALTIES)
    with pytest.raises(TypeError, match="outer_loss"):
        bilevel.implicit_hypergradient(inner, lambda p, h: p["w"], params, hyper())
    with pytest.raises(TypeError, match="inner_loss"):
        bilevel.implicit_hypergradient(lambda p, h: 1j * p["b"], outer, params, hyper())
    with pytest.raises(TypeError, match="hyper"):
        bilevel.implicit_hypergradient(inner, outer, params, {**hyper(), "gain": jnp.array(1)})


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_the_outer_loss_may_have_any_unit_in_single_precision(unit):
    single, wanted = np.float32, jax.grad(through_the_solution)(hyper())
    params, numbers = (jax.tree.map(single, tree) for tree in (minimiser(LOG_PENALTIES), hyper()))

    def scaled(params, hyper):
        return single(unit) * outer(params, hyper).astype(single)

    def penalised(params, hyper):
        return inner(params, hyper).astype(single)

    found = bilevel.implicit_hypergradient(penalised, scaled, params, numbers)
    close(jax.tree.map(lambda leaf: leaf / unit, found.gradient), wanted, 1e-4)
    assert found.residual < 1e-4
