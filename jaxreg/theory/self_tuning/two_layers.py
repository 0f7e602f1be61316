"""A linear network of two layers: a best response by gated hidden units, one of many."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.self_tuning.ridge import draw, gates, spectrum

PAPER = "MacKay et al. (2019)"


def two_layers(
    outer: jax.Array, inner: jax.Array, features: jax.Array, targets: jax.Array, log_penalty
) -> jax.Array:
    """Squared error of ``s'Qx`` plus ``exp(lambda)`` times the output's squared gradient ``|Q's|^2``."""
    residual = features @ inner.T @ outer - targets
    return jnp.sum(residual**2) + jnp.exp(log_penalty) * jnp.sum((inner.T @ outer) ** 2)


def two_layer_response(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """Hidden units gated by sigmoids of the log-penalty are stationary."""
    problem = spectrum(features, targets)
    inner = gates(problem.log_squares, log_penalty)[:, None] * problem.directions
    slopes = jax.grad(two_layers, argnums=(0, 1))(problem.solution, inner, features, targets, log_penalty)
    return Check(
        "two-layer-response",
        PAPER,
        "Q = diag(s(log d^2 - lambda)) V', s = s_0 is stationary for |t - XQ's|^2 + e^lambda |Q's|^2",
        jnp.concatenate([slope.ravel() for slope in slopes]),
        "==",
        0.0,
        scale=1 + jnp.sum(targets**2) + jnp.sum(features**2),
        tolerance_float32=1e-4,
    )


def two_layer_minimum(
    features: np.ndarray, targets: np.ndarray, log_penalty: float, starts: np.ndarray
) -> Check:
    """BFGS over both layers from random starts ``[N, D^2 + D]`` finds no less."""
    width = features.shape[1]
    x, t = jnp.asarray(features), jnp.asarray(targets)

    def loss(flat):
        return two_layers(flat[:width], flat[width:].reshape(width, width), x, t, log_penalty)

    slope = quick_jit(jax.value_and_grad(loss))

    def fun(flat):
        value, gradient = slope(jnp.asarray(flat))
        return float(value), np.asarray(gradient, np.float64)

    found = [
        optimize.minimize(fun, start, jac=True, method="BFGS", options={"gtol": 1e-10}).fun
        for start in starts
    ]
    problem = spectrum(x, t)
    inner = gates(problem.log_squares, jnp.asarray(log_penalty))[:, None] * problem.directions
    return Check(
        "two-layer-minimum",
        "derived",
        "BFGS over Q and s from random starts reaches the value of the gated network",
        np.array(found),
        "==",
        two_layers(problem.solution, inner, x, t, log_penalty),
        scale=np.sum(targets**2),
        tolerance=1e-10,
        tolerance_float32=1e-4,
    )


def flat_directions(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """The minimum is a manifold: the Hessian is singular, so the implicit function theorem does not apply."""
    width = features.shape[1]
    problem = spectrum(features, targets)
    inner = gates(problem.log_squares, log_penalty)[:, None] * problem.directions

    def loss(flat):
        return two_layers(flat[:width], flat[width:].reshape(width, width), features, targets, log_penalty)

    values = jnp.linalg.eigvalsh(
        quick_jit(jax.hessian(loss))(jnp.concatenate([problem.solution, inner.ravel()]))
    )
    threshold = jnp.finfo(values.dtype).eps ** 0.75 * values[-1]
    return Check(
        "flat-directions",
        "derived",
        "the Hessian in (Q, s) has D^2 eigenvalues 0 and D positive ones: 9 of 12 for D = 3",
        jnp.stack([jnp.sum(jnp.abs(values) < threshold), jnp.sum(values > threshold)]).astype(values.dtype),
        "==",
        jnp.array([width**2, width], values.dtype),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """Two layers."""
    rng = np.random.default_rng(seed + 10)
    problems = (*draw(rng, 20, 9, 3)[:2], jnp.asarray(rng.uniform(-2, 2, 20)))
    yield falsify.evaluate(two_layer_response, problems)
    features, targets, log_penalties = (np.asarray(leaf) for leaf in problems)
    yield two_layer_minimum(features[0], targets[0], float(log_penalties[0]), rng.normal(size=(5, 12)))
    yield flat_directions(*(leaf[0] for leaf in problems))
