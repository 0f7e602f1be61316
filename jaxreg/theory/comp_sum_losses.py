"""The comp-sum losses themselves: equivalent forms, accuracy, slopes, order; least conditional risks."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum_risks import bayes_risk, bayes_risk_bounded, bayes_risk_predicting, phi
from jaxreg.theory.risk import conditional_risk

MAO = "Mao, Mohri, Zhong (2023)"
TAUS = (0.0, 0.3, 0.5, 0.9, 1.0, 1.3, 1.5, 1.7, 1.9, 2.0, 2.5, 3.0)


def odds(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``sum_{k != y} exp(h_k - h_y)`` by NumPy, shape ``[N]``."""
    gaps = logits - np.take_along_axis(logits, labels[:, None], -1)
    return np.where(np.arange(logits.shape[-1]) == labels[:, None], 0, np.exp(gaps)).sum(-1)


def power(u: np.ndarray, tau: float) -> np.ndarray:
    """The definition by NumPy, without its cancellation near u = 0 and tau = 1."""
    logarithm, exponent = np.log1p(u), 1 - float(tau)
    return logarithm if exponent == 0 else np.expm1(exponent * logarithm) / exponent


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


def forms_agree(logits: np.ndarray, labels: np.ndarray) -> Check:
    """The definition in u, and the one in the label's probability, for many tau."""
    u = odds(logits, labels)
    s = special.softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    in_s = [-np.log(s) if tau == 1 else (s ** (tau - 1) - 1) / (1 - tau) for tau in TAUS]
    found = oracles.whole(lambda h: jnp.stack([losses.comp_sum(h, labels, tau=tau) for tau in TAUS]), logits)
    found = np.repeat(found, 2, axis=0)
    plain = np.stack(
        [form for pair in zip((power(u, tau) for tau in TAUS), in_s, strict=True) for form in pair]
    )
    return Check(
        "forms-agree",
        MAO,
        "comp_sum = ((1 + u)^(1 - tau) - 1)/(1 - tau) = (s_y^(tau - 1) - 1)/(1 - tau)",
        found,
        "==",
        plain,
        scale=1 + np.abs(plain),
        tolerance_float32=1e-4,
    )


def members(logits: np.ndarray, labels: np.ndarray) -> Check:
    """The named members of the family."""
    s = special.softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    expected = np.stack([odds(logits, labels), *2 * [(1 - s**0.7) / 0.7], *2 * [1 - s]])

    def members_of(h: jax.Array) -> jax.Array:
        others = [
            losses.generalized_cross_entropy(h, labels, q=0.7),
            losses.mean_absolute_error(h, labels) / 2,
        ]
        of_tau = [losses.comp_sum(h, labels, tau=tau) for tau in (0.0, 1.7, 2.0)]
        return jnp.stack([of_tau[0], of_tau[1], others[0], of_tau[2], others[1]])

    found = oracles.whole(members_of, logits)
    return Check(
        "members",
        MAO,
        "tau = 0: sum-exponential; 1 + q: generalized cross-entropy (1 - s_y^q) / q; 2: half MAE, 1 - s_y",
        found,
        "==",
        expected,
        scale=1 + np.abs(expected),
        tolerance_float32=1e-5,
    )


def single_precision_is_accurate(rng: np.random.Generator) -> Check:
    """In float32, however confident the prediction and near tau to 1; climbed without a gradient."""
    labels = oracles.draw_labels(rng, 1024, 6)
    logits = rng.standard_normal((1024, 6))
    logits[np.arange(1024), labels] += rng.uniform(-75, 28, 1024)
    logits += rng.uniform(-100, 100, (1024, 1)) * (rng.uniform(size=(1024, 1)) < 0.5)
    taus = np.resize(np.float32([*TAUS, 0.013, 0.1, 1 - 1e-6, 1 + 1e-7]), 1024)
    compiled = jax.jit(lambda h: losses.comp_sum(h, labels, tau=jnp.asarray(taus)))

    def errors(logits: np.ndarray) -> np.ndarray:
        single = logits.astype(np.float32)
        exact = np.array(
            [power(*pair) for pair in zip(odds(single.astype(float), labels), taus, strict=True)]
        )
        counts = (exact > 1e-12) & (exact < 1e33)  # what single precision can hold, with scores that differ
        found = np.asarray(compiled(single), float)
        return np.where(counts, np.abs(found / np.where(counts, exact, 1) - 1), 0)

    worst = errors(logits)
    for size in np.logspace(0, -2, 40):
        proposal = logits + size * rng.standard_normal(logits.shape)
        found = errors(proposal)
        logits = np.where((found >= worst)[:, None], proposal, logits)
        worst = np.maximum(worst, found)
    return Check(
        "single-precision-is-accurate",
        "derived",
        "float32: relative error at most 1e-6, losses of 1e-12 to 1e33, through tau = 1; drawn and climbed",
        worst,
        "<=",
        1e-6,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def gradient_is_weighted_residual(logits: np.ndarray, labels: np.ndarray) -> Check:
    """``s_y^(tau - 1) (s - e_y)``."""
    s = special.softmax(logits, axis=-1)
    own = s[np.arange(len(labels)), labels]
    residual = s - np.eye(logits.shape[-1])[labels]
    gradient = oracles.quick_jit(jax.grad(lambda h, tau: losses.comp_sum(h, labels, tau=tau).sum()))
    found = np.stack([gradient(jnp.asarray(logits), jnp.asarray(tau)) for tau in TAUS])
    expected = np.stack([own[:, None] ** (tau - 1) * residual for tau in TAUS])
    return Check(
        "gradient-is-weighted-residual",
        MAO,
        "gradient = s_y^(tau - 1) (s - e_y)",
        found,
        "==",
        expected,
        scale=1 + np.abs(expected).max(-1, keepdims=True),
        tolerance_float32=1e-4,
    )


def decreases_in_tau(log_u: jax.Array, tau: jax.Array, more: jax.Array) -> Check:
    """For a fixed u, tau to ``|tau| + |more|``."""
    u = jnp.exp(log_u)
    low = jnp.abs(tau)
    return Check(
        "decreases-in-tau",
        MAO,
        "Phi^tau(u) does not increase with tau",
        phi(u, low + jnp.abs(more)),
        "<=",
        phi(u, low),
        scale=1 + u,
        tolerance_float32=1e-5,
    )


def is_concave_and_lipschitz(log_u: jax.Array, log_v: jax.Array, tau: jax.Array) -> Check:
    """Slope between 0 and 1, and at most the chord's above it."""
    u, v, tau = jnp.exp(log_u), jnp.exp(log_v), jnp.abs(tau)
    low, high = phi(u, tau), phi(u + v, tau)
    middle = phi(u + v / 2, tau)
    sides = jnp.stack([low, high, (low + high) / 2]), jnp.stack([high, low + v, middle])
    return Check(
        "is-increasing-concave-and-lipschitz",
        MAO,
        "Phi^tau increases, with slope at most 1, and is concave",
        sides[0],
        "<=",
        sides[1],
        scale=1 + u + v,
        tolerance_float32=1e-5,
    )


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
    """At softmax scores proportional to p^a, which order the classes as p does."""
    taus = [tau for tau in TAUS if tau < 2]

    def sides(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = [jnp.log(p) / (2 - tau) for tau in taus]
        risks = [
            conditional_risk(losses.comp_sum, h, p, tau=tau) for h, tau in zip(scores, taus, strict=True)
        ]
        return jnp.stack(risks), jnp.stack([bayes_risk(p, tau) for tau in taus])

    attained, claimed = oracles.whole(sides, jnp.asarray(probabilities))
    return Check(
        "bayes-risk-is-attained",
        MAO,
        "tau < 2: the risk of h = a log p, which orders all classes as p does, is the least one",
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
    """SLSQP over the scores with h_k >= h_j, k drawn at random."""
    n = probabilities.shape[-1]
    taus = (0.0, 0.5, 1.0, 1.5, 1.8)
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
    claimed = oracles.whole(
        lambda p: jnp.stack([bayes_risk_predicting(p, chosen, tau) for tau in taus], -1).ravel(),
        probabilities,
    )
    return Check(
        "predicting-risk-is-the-minimum",
        "derived",
        "SLSQP over scores that predict k ends at the value of k pooled with the likeliest classes",
        np.array(found),
        "==",
        claimed,
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
    logits, labels = oracles.draw_scores(rng, 60, 5, largest_scale=3.0), oracles.draw_labels(rng, 60, 5)
    yield forms_agree(logits, labels)
    yield members(logits, labels)
    yield single_precision_is_accurate(rng)
    yield gradient_is_weighted_residual(logits, labels)
    lines = [rng.uniform(-5, 5, 300) for _ in range(2)]
    yield falsify.search(
        decreases_in_tau, (lines[0], rng.uniform(0, 3, 300), rng.uniform(0, 2, 300)), steps=50
    ).check
    yield falsify.search(is_concave_and_lipschitz, (*lines, rng.uniform(0, 3, 300)), steps=50).check
    yield bayes_risk_is_the_minimum(oracles.draw_probabilities(rng, 4, 4))
    yield bayes_risk_is_attained(oracles.draw_probabilities(rng, 20, 6))
    free = 3 * rng.standard_normal((300, 4)), rng.standard_normal((300, 4))
    yield falsify.search(bayes_risk_beyond_two, (*free, rng.integers(3, size=300)), steps=50).check
    yield predicting_risk_is_the_minimum(oracles.draw_probabilities(rng, 5, 4), rng)
    yield falsify.search(
        predicting_risk_is_a_bound, (*free, rng.integers(len(TAUS), size=300)), steps=50
    ).check
    yield bounded_risk_is_the_minimum(oracles.draw_probabilities(rng, 4, 4), 0.7)
