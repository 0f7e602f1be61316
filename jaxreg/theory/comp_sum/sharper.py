"""Beyond the paper's H-consistency bounds: sharper transforms for tau > 1, and the effect of bounded scores.

A negative result is a Check too: it exhibits a violation, and says how large one at least exists.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum.risks import bayes_risk, bayes_risk_bounded, bayes_risk_predicting, phi
from jaxreg.theory.comp_sum.transforms import bounded_transform, sharper_transform, transform
from jaxreg.theory.risk import conditional_risk


def sharper_transform_holds(log_p: jax.Array, which: jax.Array) -> Check:
    """Ten classes, the last one predicted."""
    tau, p = jnp.array([1.1, 1.25, 1.4, 1.5, 2.0, 2.5, 3.0])[which], jax.nn.softmax(log_p)
    regret = bayes_risk_predicting(p, p.shape[-1] - 1, tau) - bayes_risk(p, tau)
    return Check(
        "sharper-transform-holds",
        "derived",
        "ADDITION: for 1 < tau <= 3/2 the factor n^(tau-1) may be 2^(tau-1); a larger line for tau >= 2",
        regret,
        ">=",
        sharper_transform(jnp.max(p) - p[-1], tau, p.shape[-1]),
        tolerance=1e-10,
        tolerance_float32=1e-5,
    )


def sharper_transform_is_attained() -> Check:
    """By two classes, and for tau >= 2 by m equally likely ones."""
    n, beta = 10, 0.7
    two = np.zeros(n)
    two[0], two[-1] = (1 + beta) / 2, (1 - beta) / 2
    cases = [(two, beta, tau) for tau in (1.1, 1.3, 1.5)]
    m = np.arange(1, n)
    for tau in (2.0, 2.5, 3.0):
        best = int(m[np.argmin(1 - m * (m + 1.0) ** (1 - tau))])
        cases.append((np.r_[np.full(best, 1 / best), np.zeros(n - best)], 1 / best, tau))
    found = [bayes_risk_predicting(p, n - 1, tau) - bayes_risk(p, tau) for p, _, tau in cases]
    return Check(
        "sharper-transform-is-attained",
        "derived",
        "ADDITION: equality at two classes (tau <= 3/2), at m equally likely classes (tau >= 2)",
        jnp.stack(found),
        "==",
        jnp.stack([sharper_transform(gap, tau, n) for _, gap, tau in cases]),
        tolerance_float32=1e-5,
    )


def paper_transform_is_not_tight() -> Check:
    """Ten classes, tau = 3/2: two of them alone reach sqrt(5) times the paper's transform, and none less."""
    n, beta = 10, np.linspace(0.1, 1, 10)
    p = np.zeros((10, n))
    p[:, 0], p[:, -1] = (1 + beta) / 2, (1 - beta) / 2
    regret = bayes_risk_predicting(p, np.full(10, n - 1), 1.5) - bayes_risk(p, 1.5)
    return Check(
        "transform-is-not-tight-beyond-one",
        "derived",
        "NEGATIVE: tau = 3/2, n = 10: the exact transform is 5^(1/2) = 2.2 times T, so T is not tight",
        jnp.stack([regret, sharper_transform(beta, 1.5, n)]),
        "==",
        np.sqrt(5) * transform(beta, 1.5, n),
        tolerance_float32=1e-5,
    )


def two_class_form_fails_near_two() -> Check:
    """At tau = 1.9 with three classes T with n = 2 is no lower bound."""
    p = np.array([0.5, 0.5, 0.0])
    regret = bayes_risk_predicting(p, 2, 1.9) - bayes_risk(p, 1.9)
    return Check(
        "two-class-form-fails-near-two",
        "derived",
        "NEGATIVE: tau = 1.9: T with n = 2 exceeds the least regret at p = (1/2, 1/2, 0), k = 3",
        transform(0.5, 1.9, 2) - regret,
        ">=",
        0.05,
        tolerance_float32=0.0,
    )


def bounded_scores_break_the_bound() -> Check:
    """Two classes, scores at most 1/2 in size."""
    beta, taus = np.linspace(0.9, 1, 6), np.array([0.0, 0.5, 1.0, 1.5])[:, None]
    p = np.stack([(1 + beta) / 2, (1 - beta) / 2], -1)
    regret = phi(np.ones_like(beta), taus) - bayes_risk_bounded(p, taus, 0.5)
    return Check(
        "bounded-scores-break-the-bound",
        "derived",
        "NEGATIVE: with |h| <= 1/2 tied scores have a regret below T by at least 0.01: no completeness",
        transform(beta, taus, 2) - regret,
        ">=",
        0.01,
        tolerance_float32=0.0,
    )


def bounded_transform_is_exact(probabilities: jax.Array) -> Check:
    """Two classes: the regret of tied scores in the box."""
    taus, bounds = np.array([0.0, 0.5, 1.0, 1.5, 1.8])[:, None, None], np.array([0.3, 1.0, 3.0])[:, None]
    p = jnp.stack([probabilities, 1 - probabilities], -1)
    regret = phi(jnp.ones_like(probabilities), taus) - bayes_risk_bounded(p, taus, bounds)
    return Check(
        "bounded-transform-is-exact",
        "derived",
        "n = 2, |h| <= Lambda: the least regret of a wrong prediction is T_Lambda, by the search of CS-6",
        regret,
        "==",
        bounded_transform(jnp.abs(2 * probabilities - 1), taus, bounds),
        tolerance=1e-10,
        tolerance_float32=1e-4,
    )


def bounded_transform_needs_two_classes() -> Check:
    """Three classes: two tied at the upper end, one at the lower."""
    p, bound = np.array([0.8, 0.2, 0.0]), 0.3
    scores = jnp.array([bound, bound, -bound])
    regret = conditional_risk(losses.comp_sum, scores, jnp.asarray(p), tau=0.0) - bayes_risk_bounded(
        p, 0.0, bound
    )
    return Check(
        "bounded-transform-needs-two-classes",
        "derived",
        "NEGATIVE: n = 3, |h| <= 0.3, tau = 0: T_Lambda(0.6) exceeds the regret of tied scores by 0.08",
        bounded_transform(0.6, 0.0, bound) - regret,
        ">=",
        0.08,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module, on random inputs."""
    rng = np.random.default_rng(seed)
    starts = 2 * rng.standard_normal((700, 10)), np.arange(700) % 7
    yield falsify.search(sharper_transform_holds, starts, steps=60).check
    yield oracles.whole(sharper_transform_is_attained)
    yield oracles.whole(paper_transform_is_not_tight)
    yield oracles.whole(two_class_form_fails_near_two)
    yield oracles.whole(bounded_scores_break_the_bound)
    yield oracles.whole(bounded_transform_is_exact, rng.uniform(0.01, 0.99, 30))
    yield oracles.whole(bounded_transform_needs_two_classes)
