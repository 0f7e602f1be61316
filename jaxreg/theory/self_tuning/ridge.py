"""The exact best response of ridge regression: sigmoid gates, and their linearisation by a layer."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.bilevel import BestResponse, best_response_dense
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit

PAPER = "MacKay et al. (2019)"
CURVATURE = 1 / (12 * math.sqrt(3))
"""Half the largest second derivative of a sigmoid: the error of a linearised gate over the squared step."""


class Objective(NamedTuple):
    """A normalisation of ridge regression, with penalty ``exp(lambda)``."""

    loss: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
    """``(beta, features, targets, log_penalty) -> scalar``, as it is written."""
    factor: Callable[[int], float]
    """``c`` for n rows: the minimiser is that of ``X'X + c exp(lambda) I``."""


def _objective(error: Callable[[int], float], penalty: float) -> Objective:
    def loss(beta: jax.Array, features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> jax.Array:
        residual = features @ beta - targets
        weight = error(features.shape[0])
        return weight * jnp.sum(residual**2) + penalty * jnp.exp(log_penalty) * jnp.sum(beta**2)

    return Objective(loss, lambda rows: penalty / error(rows))


OBJECTIVES: dict[str, Objective] = {
    "|r|^2 + e^l |b|^2": _objective(lambda n: 1.0, 1.0),
    "|r|^2 / n + e^l |b|^2": _objective(lambda n: 1 / n, 1.0),
    "|r|^2 / 2 + e^l |b|^2": _objective(lambda n: 0.5, 1.0),
    "|r|^2 / 2 + e^l |b|^2 / 2": _objective(lambda n: 0.5, 0.5),
    "|r|^2 / 2n + e^l |b|^2": _objective(lambda n: 0.5 / n, 1.0),
    "|r|^2 / 2n + e^l |b|^2 / 2": _objective(lambda n: 0.5 / n, 0.5),
}
"""The six normalisations in use, with ``r`` the residuals, ``b`` the weights and ``l`` the log-penalty."""


class Spectrum(NamedTuple):
    """A ridge problem in its principal directions."""

    directions: jax.Array
    """Right singular vectors in rows, ``V'``, shape ``[r, D]``."""
    log_squares: jax.Array
    """``log d_i^2``, shape ``[r]``; -inf where the data do not reach."""
    solution: jax.Array
    """``s_0``, the minimum-norm least squares solution in these directions, shape ``[r]``."""


def spectrum(features: jax.Array, targets: jax.Array) -> Spectrum:
    """The thin singular value decomposition of ``features [n, D]``, and the least squares solution in it.

    Example:
      >>> found = spectrum(jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([6.0, 1.0]))
      >>> print(jnp.abs(found.solution), found.log_squares.round(3))
      [3. 0.] [1.386  -inf]
    """
    left, values, directions = jnp.linalg.svd(features, full_matrices=False)
    rounding = jnp.finfo(features.dtype).eps * max(features.shape) * values[0]
    present = values > rounding
    solution = jnp.where(present, left.T @ targets / jnp.where(present, values, 1), 0)
    return Spectrum(
        directions, jnp.where(present, 2 * jnp.log(jnp.where(present, values, 1)), -jnp.inf), solution
    )


def gates(log_squares: jax.Array, log_penalty: jax.Array, factor: float = 1.0) -> jax.Array:
    r"""What a penalty leaves of each principal direction.

    .. math:: g_i = \sigma(\log d_i^2 - \log c - \lambda) = \frac{d_i^2}{d_i^2 + c e^\lambda}

    Example:
      >>> print(gates(jnp.log(jnp.array([4.0, 1.0, 0.0])), jnp.array(0.0)))
      [0.8 0.5 0. ]
    """
    return jax.nn.sigmoid(log_squares - math.log(factor) - log_penalty)


def best_response(problem: Spectrum, log_penalty: jax.Array, factor: float = 1.0) -> jax.Array:
    """The ridge solution ``V (g * s_0)``, shape ``[D]``.

    Example:
      >>> problem = spectrum(jnp.eye(2), jnp.array([3.0, 1.0]))
      >>> print(best_response(problem, jnp.log(0.5)).round(4))
      [2.     0.6667]
    """
    return (gates(problem.log_squares, log_penalty, factor) * problem.solution) @ problem.directions


def sigmoid_gates(problems: list[tuple[jax.Array, jax.Array, jax.Array]]) -> Check:
    """The gates against Newton's step on each objective as it is written.

    Args:
      problems: of one shape each: features ``[N, n, D]``, targets ``[N, n]``, log-penalties ``[N]``.
    """

    def case(features, targets, log_penalty):
        zero, found, wanted = jnp.zeros(features.shape[1], features.dtype), [], []
        for objective in OBJECTIVES.values():
            arguments = (zero, features, targets, log_penalty)
            found.append(
                best_response(spectrum(features, targets), log_penalty, objective.factor(features.shape[0]))
            )
            wanted.append(
                -jnp.linalg.solve(
                    jax.hessian(objective.loss)(*arguments), jax.grad(objective.loss)(*arguments)
                )
            )
        return (
            jnp.stack(found),
            jnp.stack(wanted),
            1 + jnp.linalg.norm(jnp.stack(wanted), axis=-1, keepdims=True),
        )

    parts = [quick_jit(jax.vmap(case))(*problem) for problem in problems]
    found, wanted, size = (
        jnp.concatenate([jnp.broadcast_to(part[k], part[0].shape).ravel() for part in parts])
        for k in range(3)
    )
    return Check(
        "sigmoid-gates",
        f"{PAPER}, constants derived",
        "ridge: b = V (s(log d^2 - log c - lambda) * s_0) for six normalisations, n < D and d = 0 included",
        found,
        "==",
        wanted,
        scale=size,
        tolerance=1e-10,  # of a linear system of condition up to 1e6
        tolerance_float32=2e-2,
    )


def gates_at_the_ends(features: np.ndarray, targets: np.ndarray) -> Check:
    """No penalty gives the minimum-norm least squares solution, an infinite one nothing."""
    problem = spectrum(jnp.asarray(features), jnp.asarray(targets))
    found = [best_response(problem, jnp.asarray(end)) for end in (-80.0, 80.0)]
    least = np.linalg.lstsq(features, targets, rcond=1e-6)[0]
    return Check(
        "gates-at-the-ends",
        "derived",
        "lambda -> -inf: minimum-norm least squares; lambda -> inf: 0; gate 0 in directions without data",
        jnp.stack(found),
        "==",
        np.stack([least, 0 * least]),
        scale=np.abs(least).max(),
        tolerance_float32=1e-4,
    )


def intercept_by_centring(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """A free intercept: gates of the centred data, and what the means leave."""

    def loss(weights):
        residual = features @ weights[:-1] + weights[-1] - targets
        return jnp.sum(residual**2) + jnp.exp(log_penalty) * jnp.sum(weights[:-1] ** 2)

    zero = jnp.zeros(features.shape[1] + 1, features.dtype)
    wanted = -jnp.linalg.solve(jax.hessian(loss)(zero), jax.grad(loss)(zero))
    centred = spectrum(features - features.mean(0), targets - targets.mean())
    beta = best_response(centred, log_penalty)
    return Check(
        "intercept-by-centring",
        "derived",
        "unpenalised intercept: gates of the centred data, b_0 = mean t - mean x.b",
        jnp.append(beta, targets.mean() - features.mean(0) @ beta),
        "==",
        wanted,
        scale=1 + jnp.abs(wanted).max(),
        tolerance=1e-11,
        tolerance_float32=2e-3,
    )


def linearised_gate(logit: jax.Array, step: jax.Array) -> Check:
    """How far a gate is from its tangent after a step of the log-penalty."""
    # No shorter: the remainder would be rounding.
    size = jnp.where(step < 0, -1, 1) * (0.05 + jnp.abs(step))
    gate = jax.nn.sigmoid(logit)
    remainder = jax.nn.sigmoid(logit - size) - gate + gate * (1 - gate) * size
    return Check(
        "linearised-gate",
        "derived",
        "|g(l + d) - g(l) + g (1 - g) d| <= d^2 / (12 sqrt 3)",
        jnp.abs(remainder),
        "<=",
        CURVATURE * size**2,
        scale=size**2,
        tolerance_float32=1e-3,
    )


def tangent_layer(problem: Spectrum, log_penalty: jax.Array) -> BestResponse:
    """The best-response layer whose hidden units are the linearised gates at ``log_penalty``."""
    gate = gates(problem.log_squares, log_penalty)
    slope = -gate * (1 - gate)
    elementary = (gate - log_penalty * slope)[:, None] * problem.directions
    return BestResponse.from_parts(elementary.T, problem.directions.T, slope[None])


def structured_layer_is_the_tangent(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """Value and derivative of the structured layer at a penalty are those of the exact response."""
    problem = spectrum(features, targets)
    layer, width = tangent_layer(problem, log_penalty), features.shape[1]

    def learned(number):
        return jnp.stack(
            [
                best_response_dense(layer, row, number[None]) @ problem.solution
                for row in jnp.eye(width, dtype=features.dtype)
            ]
        )

    def exact(number):
        gram = features.T @ features + jnp.exp(number) * jnp.eye(width, dtype=features.dtype)
        return jnp.linalg.solve(gram, features.T @ targets)

    one = (jnp.ones_like(log_penalty),)
    found, wanted = (jnp.stack(jax.jvp(f, (log_penalty,), one)) for f in (learned, exact))
    return Check(
        "structured-layer-is-the-tangent",
        f"{PAPER}, derived",
        "W_elem = diag(s(k + l v) - l s' v) Q_0, V = s' v, W_hyper = Q_0: value and Jacobian of the response",
        found,
        "==",
        wanted,
        scale=1 + jnp.abs(wanted).max(),
        tolerance=1e-10,
        tolerance_float32=1e-2,
    )


def error_is_of_second_order(features: jax.Array, targets: jax.Array, log_penalty: jax.Array) -> Check:
    """Halving the step divides the error of the linearised response by four."""
    problem = spectrum(features, targets)

    def error(step):
        layer, number = tangent_layer(problem, log_penalty), log_penalty + step
        units = best_response_dense(layer, jnp.eye(features.shape[1], dtype=features.dtype), number[None])
        return jnp.linalg.norm(units @ problem.solution - best_response(problem, number))

    def slope(step):  # of both signs, so that the third order drops out
        return (error(step) + error(-step)) / (error(step / 2) + error(-step / 2))

    return Check(
        "error-is-of-second-order",
        f"{PAPER}, derived",
        "|w_lin(l + d) - w*(l + d)| ~ d^2: slope 2.00",
        jnp.log2(slope(jnp.asarray(0.05, features.dtype))),
        "==",
        2.0,
        tolerance=0.01,  # the next order at this step
        tolerance_float32=0.3,
    )


def draw(rng: np.random.Generator, cases: int, rows: int, width: int, *, rank: int | None = None) -> tuple:
    """Random problems: features ``[N, n, D]``, targets ``[N, n]``, log-penalties ``[N]`` in [-6, 6]."""
    features = rng.normal(size=(cases, rows, width)) * 10 ** rng.uniform(-0.5, 0.5, (cases, 1, width))
    if rank is not None:
        features[..., rank:] = features[..., :1] * np.arange(width - rank)
    return tuple(
        jnp.asarray(x) for x in (features, rng.normal(size=(cases, rows)), rng.uniform(-6, 6, cases))
    )


def statements(seed: int) -> Iterator[Check]:
    """The exact response and its linearisation."""
    rng = np.random.default_rng(seed)
    shapes = ((11, 6, None), (4, 6, None), (7, 3, 2))
    yield sigmoid_gates([draw(rng, 17, rows, width, rank=rank) for rows, width, rank in shapes])
    features, targets, _ = draw(rng, 1, 9, 5, rank=3)
    yield gates_at_the_ends(np.asarray(features[0]), np.asarray(targets[0]))
    mild = (*draw(rng, 20, 9, 3)[:2], jnp.asarray(rng.uniform(-2, 2, 20)))
    shifted = mild[0] + 3, mild[1] - 2, mild[2]
    yield falsify.evaluate(intercept_by_centring, shifted)
    yield falsify.search(linearised_gate, (rng.normal(0, 2, 200), rng.normal(0, 1, 200))).check
    yield falsify.evaluate(structured_layer_is_the_tangent, mild)
    yield falsify.evaluate(error_is_of_second_order, mild)
