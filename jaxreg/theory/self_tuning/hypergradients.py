"""One hypergradient by four routes: best response, implicit formula, unrolled descent, differences."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg.bilevel import implicit_hypergradient, unrolled_hypergradient
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.self_tuning.ridge import best_response, draw, gates, spectrum
from jaxreg.theory.self_tuning.two_layers import two_layers

PAPER = "MacKay et al. (2019)"


def penalised(beta: jax.Array, features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> jax.Array:
    """``|X b - t|^2 / 2 + e^l |b|^2 / 2``, whose minimiser is that of ``X'X + e^l I``."""
    return 0.5 * jnp.sum((features @ beta - targets) ** 2) + 0.5 * jnp.exp(log_penalty) * jnp.sum(beta**2)


def derivative_of_the_response(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """How the minimiser moves: by autodiff through the solve, and in gates."""
    width = features.shape[1]

    def solved(number):
        gram = features.T @ features + jnp.exp(number) * jnp.eye(width, dtype=features.dtype)
        return jnp.linalg.solve(gram, features.T @ targets)

    problem = spectrum(features, targets)
    gate = gates(problem.log_squares, log_penalty)
    gram = features.T @ features + jnp.exp(log_penalty) * jnp.eye(width, dtype=features.dtype)
    through = jax.jacfwd(solved)(log_penalty)
    explicit = -jnp.exp(log_penalty) * jnp.linalg.solve(gram, solved(log_penalty))
    gated = -(gate * (1 - gate) * problem.solution) @ problem.directions
    return Check(
        "derivative-of-the-response",
        "derived",
        "ridge: db/dl = -kappa (X'X + kappa I)^-1 b = -V (g (1 - g) * s_0)",
        jnp.stack([explicit, gated]),
        "==",
        through,
        scale=1 + jnp.abs(through).max(),
        tolerance_float32=1e-3,
    )


def four_routes(problem: tuple, valid: tuple, *, steps: int = 400) -> Check:
    """The hypergradient of a validation error with a direct term, by every route.

    Args:
      problem: features ``[N, n, D]``, targets ``[N, n]``, log-penalties ``[N]``.
      valid: features and targets to validate on, likewise.
      steps: of gradient descent with momentum in the unrolled route.
    """

    def case(features, targets, log_penalty, valid_features, valid_targets):
        def inner(beta, number):
            return penalised(beta, features, targets, number)

        def outer(beta, number):  # keeps the penalty, as a regulariser left on while validating does
            return penalised(beta, valid_features, valid_targets, number)

        width = features.shape[1]
        gram = features.T @ features
        curvature = gram + jnp.exp(log_penalty) * jnp.eye(width, dtype=features.dtype)

        def solved(number):
            shift = jnp.exp(number) * jnp.eye(width, dtype=features.dtype)
            return jnp.linalg.solve(gram + shift, features.T @ targets)

        def gated(number):
            return best_response(spectrum_of, number)

        spectrum_of = spectrum(features, targets)
        # The fastest descent with momentum for these curvatures.
        low, high = jnp.sqrt(jnp.linalg.eigvalsh(curvature)[jnp.array([0, -1])])
        descent = optax.sgd(4 / (low + high) ** 2, momentum=((high - low) / (high + low)) ** 2)
        start = jnp.zeros(width, features.dtype)
        unrolled = unrolled_hypergradient(inner, outer, start, log_penalty, optimizer=descent, steps=steps)
        implicit = implicit_hypergradient(inner, outer, solved(log_penalty), log_penalty)
        routes = [
            jax.grad(lambda number: outer(gated(number), number))(log_penalty),
            implicit.gradient,
            unrolled.gradient,
        ]
        return jnp.stack(routes), jax.grad(lambda number: outer(solved(number), number))(log_penalty)

    found, wanted = quick_jit(jax.vmap(case))(*problem, *valid)
    return Check(
        "four-routes",
        PAPER,
        "best response, implicit formula, unrolled descent and the solve: one dL_V/dl, direct term included",
        found,
        "==",
        wanted[:, None],
        scale=1 + jnp.abs(wanted)[:, None],
        tolerance=1e-9,  # of conjugate gradients and of descent
        tolerance_float32=1e-3,
    )


def implicit_logistic(seed: int, cases: int = 5) -> Check:
    """Logistic regression with a log-penalty for each feature, against differences of its solved minimum."""
    rng = np.random.default_rng(seed)
    x, t, x_valid = (rng.normal(size=shape) for shape in ((cases, 20, 3), (cases, 20), (cases, 10, 3)))
    signs, numbers = np.sign(t + x[..., 0]), rng.normal(size=(cases, 3))

    def fit(weights, number, x, signs):
        losses = jax.nn.softplus(-signs * (x @ weights))
        return jnp.sum(losses) + 0.5 * jnp.sum(jnp.exp(number) * weights**2)

    def validation(weights, number, x):
        del number
        return jnp.mean(jax.nn.softplus(-(x @ weights)))

    def case(weights, number, x, signs, x_valid):
        found = implicit_hypergradient(
            functools.partial(fit, x=x, signs=signs),
            functools.partial(validation, x=x_valid),
            weights,
            number,
        )
        return found.gradient

    solved = np.array([_newton(*one) for one in zip(x, signs, numbers, strict=True)])
    found = quick_jit(jax.vmap(case))(*(jnp.asarray(part) for part in (solved, numbers, x, signs, x_valid)))

    def reached(k: int) -> Callable[[np.ndarray], float]:
        return lambda number: float(np.mean(np.logaddexp(0, -(x_valid[k] @ _newton(x[k], signs[k], number)))))

    wanted = [[_difference(reached(k), numbers[k], unit) for unit in np.eye(3)] for k in range(cases)]
    return Check(
        "implicit-logistic",
        "derived",
        "logistic regression, a penalty each feature: implicit gradient = 5-point difference of the minimum",
        found,
        "==",
        np.array(wanted),
        tolerance=1e-10,
        tolerance_float32=1e-5,
    )


def _newton(x: np.ndarray, signs: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The minimiser of the penalised logistic loss, in float64."""
    weights, penalty = np.zeros(x.shape[1]), np.exp(number)
    for _ in range(50):
        slopes = 1 / (1 + np.exp(signs * (x @ weights)))
        gradient = -x.T @ (signs * slopes) + penalty * weights
        hessian = (x.T * (slopes * (1 - slopes))) @ x + np.diag(penalty)
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights


def _difference(
    function: Callable[[np.ndarray], float], point: np.ndarray, unit: np.ndarray, step: float = 2e-3
) -> float:
    """The derivative along ``unit`` from five points, with error of the fourth order."""
    values = [function(point + k * step * unit) for k in (-2, -1, 1, 2)]
    return float(np.dot([1, -8, 8, -1], values)) / (12 * step)


def singular_hessian(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """Two linear layers: conjugate gradients on the singular Hessian find the hypergradient of the product.

    The outer loss depends on the product ``Q's`` alone, so its gradient has no part in the flat directions.
    """
    width = features.shape[1]
    problem = spectrum(features, targets)
    inner_layer = gates(problem.log_squares, log_penalty)[:, None] * problem.directions
    found = implicit_hypergradient(
        lambda layers, number: two_layers(layers[0], layers[1], features, targets, number),
        lambda layers, number: jnp.sum((layers[1].T @ layers[0] - jnp.arange(width)) ** 2),
        (problem.solution, inner_layer),
        log_penalty,
    )
    wanted = jax.grad(lambda number: jnp.sum((best_response(problem, number) - jnp.arange(width)) ** 2))(
        log_penalty
    )
    return Check(
        "singular-hessian",
        "derived",
        "y = s'Qx: the Hessian in (Q, s) is singular, its pseudo-inverse gives the derivative through Q's",
        found.gradient,
        "==",
        wanted,
        scale=1 + jnp.abs(wanted),
        tolerance=1e-8,
        tolerance_float32=1e-2,
    )


def error_of_an_early_stop(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """Parameters off the minimum by a tenth as much: a tenth of the error, and of the inner gradient."""
    exact = best_response(spectrum(features, targets), log_penalty)

    def gradient(beta):
        found = implicit_hypergradient(
            lambda beta, number: penalised(beta, features, targets, number),
            lambda beta, number: 0.5 * jnp.sum((beta - 1) ** 2),
            beta,
            log_penalty,
        )
        return found.gradient, found.stationarity

    offset = jnp.ones_like(exact)
    reference, _ = gradient(exact)
    (far, far_slope), (near, near_slope) = (gradient(exact + size * offset) for size in (1e-2, 1e-3))
    return Check(
        "error-of-an-early-stop",
        "derived",
        "an unconverged w leaves an error of the order of the inner gradient",
        jnp.stack([(far - reference) / far_slope, (near - reference) / near_slope]),
        "==",
        (near - reference) / near_slope,
        # The next order at an offset of 1e-2.
        scale=1 + jnp.abs((near - reference) / near_slope),
        tolerance=0.1,
        tolerance_float32=0.2,
    )


def statements(seed: int) -> Iterator[Check]:
    """The hypergradient."""
    rng = np.random.default_rng(seed + 20)
    features, targets, _ = draw(rng, 12, 12, 3)
    problem = features, targets, jnp.asarray(rng.uniform(-1, 3, 12))
    valid = draw(rng, 12, 8, 3)[:2]
    yield quick_jit(jax.vmap(lambda *case: derivative_of_the_response(*case).broadcast()))(*problem)
    yield four_routes(problem, valid)
    yield implicit_logistic(seed)
    yield quick_jit(jax.vmap(lambda *case: singular_hessian(*case).broadcast()))(*problem)
    yield quick_jit(jax.vmap(lambda *case: error_of_an_early_stop(*case).broadcast()))(*problem)
