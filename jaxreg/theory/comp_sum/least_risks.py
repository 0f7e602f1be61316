"""Least conditional risks of the comp-sum losses: over all scores, those that predict a class, a box."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum.losses import MAO, TAUS
from jaxreg.theory.comp_sum.risks import bayes_risk, bayes_risk_bounded, bayes_risk_predicting
from jaxreg.theory.risk import conditional_risk


def bayes_risk_is_the_minimum(probabilities: np.ndarray) -> Check:
    """BFGS over the scores, eight tau below 2."""
    taus = [tau for tau in TAUS if tau < 2]
    found = _least_risks(probabilities, tuple(taus))
    claimed = oracles.whole(lambda p: jnp.concatenate([bayes_risk(p, tau) for tau in taus]), probabilities)
    return Check(
        "bayes-risk-is-the-minimum",
        MAO,
        "BFGS ends at ((sum p^a)^(2 - tau) - 1) / (1 - tau), a = 1/(2 - tau)",
        found,
        "==",
        claimed,
        tolerance=1e-7,
        tolerance_float32=1e-4,
    )


def bayes_risk_is_attained(probabilities: np.ndarray) -> Check:
    """At softmax scores proportional to p^a, which order the classes as p does; a limit from tau = 2 on."""
    taus, beyond = [tau for tau in TAUS if tau < 2], [tau for tau in TAUS if tau >= 2]

    def sides(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = [jnp.log(p) / (2 - tau) for tau in taus]
        scores += len(beyond) * [jnp.where(p == p.max(-1, keepdims=True), 40, jnp.zeros_like(p))]
        risks = [
            conditional_risk(losses.comp_sum, h, p, tau=tau)
            for h, tau in zip(scores, taus + beyond, strict=True)
        ]
        return jnp.stack(risks), jnp.stack([bayes_risk(p, tau) for tau in taus + beyond])

    attained, claimed = oracles.whole(sides, jnp.asarray(probabilities))
    return Check(
        "bayes-risk-is-attained",
        MAO,
        "tau < 2: the risk of h = a log p, in the order of p, is least; tau >= 2: the top class 40 ahead",
        attained,
        "==",
        claimed,
        scale=1 + claimed,
        tolerance_float32=1e-5,
    )


def bayes_risk_beyond_two(scores: jax.Array, log_p: jax.Array, which: jax.Array) -> Check:
    """An infimum for tau >= 2, which no scores reach."""
    tau, p = jnp.array([2.0, 2.5, 4.0])[which], jax.nn.softmax(log_p)
    return Check(
        "bayes-risk-beyond-two",
        "derived",
        "tau >= 2: no risk is below (1 - max p) / (tau - 1)",
        conditional_risk(losses.comp_sum, scores, p, tau=tau),
        ">=",
        bayes_risk(p, tau),
        tolerance_float32=1e-5,
    )


def predicting_risk_is_the_minimum(probabilities: np.ndarray, rng: np.random.Generator) -> Check:
    """SLSQP over the scores with h_k >= h_j, k drawn at random; beyond tau = 2 all sets of classes on top."""
    n = probabilities.shape[-1]
    taus, beyond = (0.0, 0.5, 1.0, 1.5, 1.8), (2.0, 2.5, 4.0)
    found, chosen = [], rng.integers(n, size=len(probabilities))
    for row, k in zip(probabilities, chosen, strict=True):
        others = np.delete(np.arange(n), k)
        matrix = np.eye(n)[[k] * (n - 1)] - np.eye(n)[others]
        for tau in taus:

            def fun(h: np.ndarray, row: np.ndarray = row, tau: float = tau) -> tuple[float, np.ndarray]:
                value, slope = _risk()(jnp.asarray(h), jnp.asarray(row), jnp.asarray(tau))
                return float(value), np.asarray(slope, np.float64)

            constraint = {"type": "ineq", "fun": lambda h, m=matrix: m @ h, "jac": lambda h, m=matrix: m}
            result = optimize.minimize(
                fun,
                np.zeros(n),
                jac=True,
                method="SLSQP",
                constraints=constraint,
                options={"ftol": 1e-15, "maxiter": 300},
            )
            found.append(result.fun)
    on_top = np.arange(2**n)[:, None] >> np.arange(n) & 1

    def of_sets(p: jax.Array) -> jax.Array:
        risks = [
            conditional_risk(losses.comp_sum, jnp.asarray(40.0 * on_top), p[:, None], tau=tau)
            for tau in beyond
        ]
        return jnp.min(jnp.where(on_top[:, chosen].T == 1, jnp.stack(risks), jnp.inf), -1).ravel()

    def claim(p: jax.Array) -> tuple[jax.Array, ...]:
        by_row = [bayes_risk_predicting(p, chosen, tau) for tau in taus]
        by_tau = [bayes_risk_predicting(p, chosen, tau) for tau in beyond]
        return jnp.stack(by_row, -1).ravel(), jnp.concatenate(by_tau), of_sets(p)

    *claimed, of_all_sets = oracles.whole(claim, jnp.asarray(probabilities))
    return Check(
        "predicting-risk-is-the-minimum",
        "derived",
        "scores that predict k, by SLSQP (tau < 2), by ties (tau >= 2): the value of k pooled with the top",
        np.concatenate([found, of_all_sets]),
        "==",
        np.concatenate(claimed),
        tolerance=1e-7,
        tolerance_float32=1e-3,
    )


def predicting_risk_is_a_bound(scores: jax.Array, log_p: jax.Array, which: jax.Array) -> Check:
    """Any scores, whatever they predict, for every tau."""
    tau, p = jnp.array(TAUS)[which], jax.nn.softmax(log_p)
    return Check(
        "predicting-risk-is-a-bound",
        "derived",
        "scores that predict k have at least the risk of k's pool",
        conditional_risk(losses.comp_sum, scores, p, tau=tau),
        ">=",
        bayes_risk_predicting(p, jnp.argmax(scores), tau),
        scale=1 + jnp.exp(jnp.ptp(scores)),
        tolerance_float32=1e-5,
    )


def bounded_risk_is_the_minimum(probabilities: np.ndarray, bound: float) -> Check:
    """L-BFGS-B in the box for tau < 2; all its corners beyond, where the risk is concave in the softmax."""
    taus = (0.0, 0.5, 1.0, 1.5, 1.8)
    n = probabilities.shape[-1]
    corners = bound * (2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1)

    def at_corners(p: jax.Array, tau: float) -> jax.Array:
        return conditional_risk(losses.comp_sum, jnp.asarray(corners), p[:, None], tau=tau).min(-1)

    beyond = oracles.whole(
        lambda p: jnp.concatenate([at_corners(p, tau) for tau in (2.0, 3.0)]), jnp.asarray(probabilities)
    )
    claimed = oracles.whole(
        lambda p: jnp.concatenate([bayes_risk_bounded(p, tau, bound) for tau in (*taus, 2.0, 3.0)]),
        probabilities,
    )
    return Check(
        "bounded-risk-is-the-minimum",
        "derived",
        "|h| <= Lambda: clipped powers of p for tau < 2 (by L-BFGS-B), two levels beyond (by all corners)",
        np.concatenate([_least_risks(probabilities, taus, bound), beyond]),
        "==",
        claimed,
        tolerance=1e-6,
        tolerance_float32=1e-4,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module, on random inputs."""
    rng = np.random.default_rng(seed)
    yield bayes_risk_is_the_minimum(oracles.draw_probabilities(rng, 4, 4))
    yield bayes_risk_is_attained(oracles.draw_probabilities(rng, 20, 6))
    free = 3 * rng.standard_normal((300, 4)), rng.standard_normal((300, 4))
    yield falsify.search(bayes_risk_beyond_two, (*free, rng.integers(3, size=300)), steps=50).check
    yield predicting_risk_is_the_minimum(oracles.draw_probabilities(rng, 5, 4), rng)
    yield falsify.search(
        predicting_risk_is_a_bound, (*free, rng.integers(len(TAUS), size=300)), steps=50
    ).check
    certain = np.eye(4)[:1]
    yield bounded_risk_is_the_minimum(np.r_[oracles.draw_probabilities(rng, 4, 4), certain], 0.7)


@functools.cache
def _risk() -> Callable:
    """The conditional risk of scores, with its gradient, as a function of scores, probabilities and tau."""
    return oracles.quick_jit(
        jax.value_and_grad(lambda h, p, tau: conditional_risk(losses.comp_sum, h, p, tau=tau))
    )


def _least_risks(
    probabilities: np.ndarray, taus: tuple[float, ...], bound: float | None = None
) -> np.ndarray:
    """Least risks by BFGS, in the box by L-BFGS-B, of every tau and then every row."""
    found = []
    for tau in taus:
        for row in jnp.asarray(probabilities):

            def value_and_slope(h: jax.Array, row: jax.Array = row, tau: float = tau) -> Any:
                return _risk()(h, row, jnp.asarray(tau, row.dtype))

            start = np.zeros(row.size)
            found.append(oracles.minimise(value_and_slope, start, bound=bound, compiled=value_and_slope)[1])
    return np.array(found)
