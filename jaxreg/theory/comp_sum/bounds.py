"""H-consistency bounds of the comp-sum losses: the bound, where it is tight, and statements that are false.

A negative result is a Check too: it exhibits a violation, and says how large one at least exists.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum.losses import MAO
from jaxreg.theory.comp_sum.risks import bayes_risk, bayes_risk_predicting, phi
from jaxreg.theory.comp_sum.transforms import inverse_transform, simple_bound, transform
from jaxreg.theory.risk import conditional_risk

TAUS = (0.0, 0.3, 0.6, 0.9, 1.0, 1.2, 1.5, 1.8, 2.0, 3.0)


def regret_exceeds_transform(log_p: jax.Array, which: jax.Array) -> Check:
    """The exact least regret of predicting the last class, at a point, for every tau."""
    tau, p = jnp.array(TAUS)[which], jax.nn.softmax(log_p)
    n = p.shape[-1]
    regret = bayes_risk_predicting(p, n - 1, tau) - bayes_risk(p, tau)
    return Check(
        "regret-exceeds-transform",
        MAO,
        "predicting k costs at least T(max p - p_k): thousands of p, drawn and climbed, for ten tau",
        regret,
        ">=",
        transform(jnp.max(p) - p[-1], tau, n),
        tolerance=1e-10,
        tolerance_float32=1e-5,
    )


def bound_of_distributions(
    log_weights: jax.Array, log_p: jax.Array, scores: jax.Array, which: jax.Array
) -> Check:
    """The bound itself for a distribution on finitely many points and all functions as hypotheses.

    Args:
      log_weights: of the points, shape ``[X]``.
      log_p: of the classes at each, shape ``[X, n]``.
      scores: of the hypothesis at each, shape ``[X, n]``.
      which: index into ``TAUS``.
    """
    tau, p, weights = jnp.array(TAUS)[which], jax.nn.softmax(log_p), jax.nn.softmax(log_weights)
    n = p.shape[-1]
    predicted = jnp.take_along_axis(p, jnp.argmax(scores, -1)[:, None], -1)[:, 0]
    mistakes = jnp.sum(weights * (jnp.max(p, -1) - predicted))
    regret = conditional_risk(losses.comp_sum, scores, p, tau=tau) - bayes_risk(p, tau)
    surrogate = jnp.maximum(jnp.sum(weights * regret), 0)
    return Check(
        "h-consistency-bound",
        MAO,
        "R01(h) - R01* <= Gamma(R(h) - R*): random and climbed distributions and hypotheses, ten tau",
        mistakes,
        "<=",
        inverse_transform(surrogate, tau, n),
        tolerance=1e-7,  # a root of rounding errors at regrets near 0
        tolerance_float32=5e-3,
    )


def simple_bound_holds(free_beta: jax.Array, tau: jax.Array) -> Check:
    """Five classes; the form with 2 - tau under the root too, where it holds. A tau beyond 4 counts as 4."""
    n, beta, tau = 5, jax.nn.sigmoid(free_beta), jnp.minimum(jnp.abs(tau), 4)
    narrow = 1 + jnp.minimum(tau, 1) / 3
    return Check(
        "simple-bound-holds",
        MAO,
        "Gamma <= sqrt(2^tau (2 - tau) t), sqrt(2 n^(tau-1) t), (tau - 1) n^(tau-1) t; 2 - tau up to 4/3",
        jnp.stack([beta, beta**2]),
        "<=",
        jnp.stack(
            [
                simple_bound(transform(beta, tau, n), tau, n),
                2 * n ** (narrow - 1) * (2 - narrow) * transform(beta, narrow, n),
            ]
        ),
        scale=jnp.stack([beta, beta**2]),
        tolerance=1e-10,
        tolerance_float32=1e-2,
    )


def false_simple_bound(log_p: jax.Array, tau: float = 1.7) -> Check:
    """The form with 2 - tau under the root, for tied scores of two classes: FALSE above tau = 4/3."""
    p = jax.nn.softmax(log_p)
    regret = phi(jnp.ones((), p.dtype), tau) - bayes_risk(p, tau)
    return Check(
        "false-simple-bound",
        "derived",
        "max p - min p <= sqrt(2 n^(tau-1) (2 - tau) regret) for tied scores",
        jnp.max(p) - jnp.min(p),
        "<=",
        jnp.sqrt(2 * 2 ** (tau - 1) * (2 - tau) * jnp.maximum(regret, 1e-30)),
    )


def false_simple_bound_is_violated(rng: np.random.Generator, tau: float = 1.7) -> Check:
    """The search finds the counterexample p = (1, 0)."""
    found = falsify.search(lambda p: false_simple_bound(p, tau), (rng.standard_normal((32, 2)),), steps=300)
    limit = 1 - float(jnp.sqrt(2 * 2 ** (tau - 1) * (2 - tau) * phi(1.0, tau)))
    return Check(
        "false-simple-bound-is-violated",
        "derived",
        f"NEGATIVE: with a factor 2 - tau the simple bound fails at tau = {tau}, n = 2, by up to {limit:.2f}",
        found.violation,
        ">=",
        0.9 * limit,
        tolerance_float32=0.0,
    )


def false_simple_bound_has_a_threshold() -> Check:
    """Where T < b^2 / (2 n^(tau-1) (2 - tau)) for some b: for all tau above 4/3."""
    beta, tau = np.linspace(1e-2, 1, 1000)[:, None], np.linspace(1.34, 1.99, 66)
    least = jnp.min(transform(beta, tau, 2) * 2 * 2 ** (tau - 1) * (2 - tau) / beta**2, axis=0)
    return Check(
        "false-simple-bound-has-a-threshold",
        "derived",
        "NEGATIVE: the form with 2 - tau bounds Gamma for no tau from 1.34 to 1.99",
        1 - least,
        ">=",
        1e-9,
        tolerance=0.0,
        tolerance_float32=1e-3,
    )


def tight_up_to_one() -> Check:
    """For tau <= 1 and any number of classes: two classes tied, the others out of reach."""
    beta = np.linspace(0.05, 0.95, 10)
    n, taus = 6, [tau for tau in TAUS if tau <= 1]
    p = np.zeros((10, n))
    p[:, 0], p[:, 1] = (1 + beta) / 2, (1 - beta) / 2
    scores = jnp.where(jnp.arange(n) < 2, 0.0, -40.0)
    regret = [
        conditional_risk(losses.comp_sum, scores, jnp.asarray(p), tau=tau) - bayes_risk(p, tau)
        for tau in taus
    ]
    return Check(
        "tight-up-to-one",
        MAO,
        "tau <= 1: equality at p = ((1 + b)/2, (1 - b)/2, 0, ...) as the score gap grows, here 40",
        jnp.stack(regret),
        "==",
        jnp.stack([transform(beta, tau, n) for tau in taus]),
        tolerance_float32=1e-5,
    )


def tightness_improves_with_the_gap(free_beta: jax.Array, gap: jax.Array, free_tau: jax.Array) -> Check:
    """The residual of that family at any gap of the scores: the other classes add (n - 2) e^-gap to u."""
    n, beta, tau, gap = 6, jax.nn.sigmoid(free_beta), jax.nn.sigmoid(free_tau), jnp.abs(gap)
    p = jnp.zeros(n, beta.dtype).at[0].set((1 + beta) / 2).at[1].set((1 - beta) / 2)
    scores = jnp.where(jnp.arange(n) < 2, 0, -gap)
    regret = conditional_risk(losses.comp_sum, scores, p, tau=tau) - bayes_risk(p, tau)
    above = regret - transform(beta, tau, n)
    return Check(
        "tightness-improves-with-the-gap",
        MAO,
        "tau <= 1, that family: 0 <= regret - T <= (n - 2) exp(-gap)",
        jnp.stack([jnp.zeros_like(above), above]),
        "<=",
        jnp.stack([above, (n - 2) * jnp.exp(-gap)]),
        tolerance_float32=1e-5,
    )


def tight_for_two_classes() -> Check:
    """Two classes for every tau up to 2; tau = 2, n > 2 for small b."""
    beta = np.linspace(0, 1, 21)
    p = np.stack([(1 + beta) / 2, (1 - beta) / 2], -1)
    taus = [tau for tau in TAUS if tau <= 2]
    found = [bayes_risk_predicting(p, np.ones(21, int), tau) - bayes_risk(p, tau) for tau in taus]
    expected = [transform(beta, tau, 2) for tau in taus]
    n, small = 5, np.linspace(0, 1 / 4, 21)
    head = (1 + small) / n
    many = np.concatenate([np.repeat(head[:, None], n - 1, 1), (head - small)[:, None]], -1)
    found.append(bayes_risk_predicting(many, np.full(21, n - 1), 2.0) - bayes_risk(many, 2.0))
    expected.append(transform(small, 2.0, n))
    return Check(
        "tight-for-two-classes",
        "derived",
        "T is the exact least regret for n = 2, tau <= 2, and for tau = 2, n = 5, b <= 1/4",
        jnp.stack(found),
        "==",
        jnp.stack(expected),
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module, on random inputs."""
    rng = np.random.default_rng(seed)
    count = 1000 * len(TAUS)
    which = np.arange(count) % len(TAUS)
    yield falsify.search(
        regret_exceeds_transform, (2 * rng.standard_normal((count, 4)), which), steps=40
    ).check
    sizes = rng.choice([0.3, 1.0, 3.0], (3, count, 1, 1))
    log_weights = sizes[0, :, 0] * rng.standard_normal((count, 3))
    log_p, scores = sizes[1:] * rng.standard_normal((2, count, 3, 4))
    yield falsify.search(bound_of_distributions, (log_weights, log_p, scores, which), steps=40).check
    free = 4 * rng.standard_normal(800), rng.uniform(0, 4, 800)
    yield falsify.search(simple_bound_holds, free, steps=60).check
    yield false_simple_bound_is_violated(rng)
    yield oracles.whole(false_simple_bound_has_a_threshold)
    yield oracles.whole(tight_up_to_one)
    free = 3 * rng.standard_normal(400), rng.uniform(0, 20, 400), 3 * rng.standard_normal(400)
    yield falsify.search(tightness_improves_with_the_gap, free, steps=60).check
    yield oracles.whole(tight_for_two_classes)
