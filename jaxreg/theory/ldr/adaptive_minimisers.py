"""The loss with an adaptive temperature: what minimises its risk, its range, limits and degenerate cases."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.stationary import adaptive_bayes_scores, curve, global_maximum, temperature_penalty
from jaxreg.theory.ldr.value import PAPER, gap_size, kl_to_uniform, label_gaps
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.risk import conditional_risk

# Consistency


def adaptive_minimiser(probabilities: np.ndarray, *, temperature: float, alpha: float) -> Check:
    """BFGS on the conditional risk ends at a temperature of its own times log q, with risk -W(q)."""
    hyper = {"temperature": temperature, "alpha": alpha}
    risk = functools.partial(conditional_risk, losses.aldr_kl, **hyper)
    found, values = oracles.minimise_all(risk, probabilities)
    q = jnp.asarray(probabilities)
    return Check(
        "adaptive-minimiser",
        "derived",
        "alpha above the threshold: BFGS on the risk ends at f* = lam(q) log q, with risk -W(q)",
        np.concatenate([found - found.mean(-1, keepdims=True), values[:, None]], axis=-1),
        "==",
        jnp.append(adaptive_bayes_scores(q, **hyper), -temperature_penalty(q, **hyper)[:, None], axis=-1),
        scale=temperature,
        tolerance=2e-6,  # BFGS
        tolerance_float32=3e-2,
    )


def noisier_labels_are_hotter(free: jax.Array, others: jax.Array) -> Check:
    """The temperature at the minimiser falls with the divergence of q from uniform."""
    first, second = jax.nn.softmax(free), jax.nn.softmax(others)
    label = jnp.zeros((), jnp.int32)
    at = [
        losses.aldr_temperature(adaptive_bayes_scores(q, alpha=2.0), label, alpha=2.0)
        for q in (first, second)
    ]
    strength = 2 * math.log(free.size)
    divergences = [kl_to_uniform(first), kl_to_uniform(second)]
    return Check(
        "noisier-labels-are-hotter",
        PAPER,
        "at the minimiser the temperature is lam_0 - KL(q, uniform)/A: larger for noisier labels",
        jnp.stack(at),
        "==",
        1 - jnp.stack(divergences) / strength,
        scale=1 + jnp.maximum(jnp.abs(free).max(), jnp.abs(others).max()),
        tolerance_float32=1e-5,
    )


def consistent_below_the_threshold(probabilities: np.ndarray, alphas: np.ndarray) -> Check:
    """Also where W is not convex the minimiser has the order of q."""
    risk = quick_jit(
        jax.value_and_grad(lambda f, q, a: conditional_risk(losses.aldr_kl, f, q, alpha=a, margin=0.2))
    )
    found = [
        oracles.minimise(
            lambda f: f,
            np.zeros(q.size),
            compiled=lambda f, q=q, a=a: risk(f, jnp.asarray(q), jnp.asarray(a)),
        )[0]
        for q, a in zip(probabilities, alphas, strict=True)
    ]
    ranks = np.argsort(-probabilities, axis=-1)
    ordered = np.take_along_axis(np.array(found), ranks, axis=-1)
    return Check(
        "adaptive-consistent-below-the-threshold",
        "derived",
        "K = 3, alpha in (1.005, 1.3), below the threshold 1.365: the minimiser orders all classes as q does",
        -np.diff(ordered, axis=-1).max(-1),
        ">=",
        0.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def small_alpha_ties() -> Check:
    """For alpha <= 1 the temperature can reach 0, and the minimiser can tie two classes of different
    probability.
    """
    q, alpha = np.array([0.5, 0.45, 0.05]), 0.3
    temperatures = np.append(0.0, np.linspace(1e-3, 1, 1500))

    def risk(x: np.ndarray) -> float:
        scores = np.array([x[0], 0.0, x[1]])
        tempered = curve(scores, temperatures[1:], temperature=1.0, alpha=alpha).value
        cold = scores.max() - alpha * math.log(3) / 2
        return max(tempered.max(), cold) - q @ scores

    starts = ([0.5, -1.0], [-0.5, -2.0], [0.0, -0.5])
    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 2000}
    ends = [optimize.minimize(risk, start, method="Nelder-Mead", options=options) for start in starts]
    best = min(ends, key=lambda end: end.fun)
    return Check(
        "small-alpha-ties",
        "derived",
        "alpha = 0.3 <= 1, K = 3, q = (.5, .45, .05): the minimiser has f_1 = f_2, so that alpha <= 1 is "
        "refused",
        best.x[0],
        "==",
        0.0,
        tolerance=1e-6,  # Nelder-Mead at a kink
        tolerance_float32=1e-6,
    )


# Range, limits, and degenerate cases


def between_fixed_temperatures(
    logits: jax.Array, labels: jax.Array, *, log_alpha: jax.Array, margin: float
) -> Check:
    """The adaptive loss lies between simple functions of the loss at fixed temperatures."""
    alpha = 1.05 + jnp.exp(log_alpha)
    gaps = label_gaps(logits, labels, margin)
    hot = losses.ldr_kl(logits, labels, temperature=1.0, margin=margin)
    divergence = kl_to_uniform(jax.nn.softmax(gaps))
    cold = losses.ldr_kl(logits, labels, temperature=1 - 1 / alpha, margin=margin)
    value = losses.aldr_kl(logits, labels, alpha=alpha, margin=margin)
    return Check(
        "adaptive-between-fixed-temperatures",
        "derived",
        "F(lam_0) + KL(p_lam_0)^2/(2A) <= aldr_kl <= F(lam_0 (1 - 1/alpha)) <= max z",
        jnp.stack([hot + divergence**2 / (2 * alpha * math.log(logits.shape[-1])), value, cold]),
        "<=",
        jnp.stack([value, cold, gaps.max(-1)]),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def adaptive_infimum(num_classes: int, alpha: jax.Array) -> Check:
    """The least value of the adaptive loss without a margin."""
    scores = oracles.FAR * jnp.broadcast_to(jnp.arange(num_classes) == 0, (*alpha.shape, num_classes)).astype(
        alpha.dtype
    )
    return Check(
        "adaptive-infimum",
        "derived",
        "c = 0: the infimum over f is -lam_0 log K (1 - 1/(2 alpha))",
        losses.aldr_kl(scores, jnp.zeros(alpha.shape, jnp.int32), alpha=alpha),
        "==",
        -math.log(num_classes) * (1 - 1 / (2 * alpha)),
        tolerance_float32=1e-4,  # rounding of scores of 700
    )


def decreasing_in_alpha(logits: jax.Array, labels: jax.Array, log_alphas: jax.Array) -> Check:
    """A stronger pull towards lam_0 gives a smaller loss, never below the loss at lam_0."""
    low, high = (1.05 + jnp.exp(reduce(log_alphas, axis=-1)) for reduce in (jnp.min, jnp.max))
    middle = losses.aldr_kl(logits, labels, alpha=high)
    return Check(
        "adaptive-decreasing-in-alpha",
        "derived",
        "alpha <= alpha' implies aldr_kl(alpha) >= aldr_kl(alpha') >= ldr_kl",
        jnp.stack([losses.aldr_kl(logits, labels, alpha=low), middle]),
        ">=",
        jnp.stack([middle, losses.ldr_kl(logits, labels)]),
        scale=gap_size(logits, labels),
        tolerance_float32=1e-5,
    )


def strong_pull_expansion(logits: jax.Array, labels: jax.Array) -> Check:
    """For large alpha the adaptive loss is that at lam_0 plus a small term."""
    alpha = 1e5
    strength = alpha * math.log(logits.shape[-1])
    divergence = kl_to_uniform(jax.nn.softmax(label_gaps(logits, labels)))
    return Check(
        "adaptive-strong-pull",
        "derived",
        "aldr_kl = ldr_kl + KL^2/(2A) + O(1/A^2), here at alpha = 1e5, times A",
        strength * (losses.aldr_kl(logits, labels, alpha=alpha) - losses.ldr_kl(logits, labels)),
        "==",
        divergence**2 / 2,
        scale=gap_size(logits, labels) ** 4,
        tolerance=1e-5,  # 1/A, and A times rounding
        tolerance_float32=1e0,
    )


def temperature_and_label(logits: jax.Array) -> tuple[Check, Check]:
    """Without a margin the temperature does not depend on the label; with one it does."""
    every = jnp.arange(logits.shape[-1], dtype=jnp.int32)

    def of_every_label(margin: float) -> jax.Array:
        return jax.vmap(
            lambda y: losses.aldr_temperature(logits, jnp.full(logits.shape[:-1], y), margin=margin)
        )(every)

    plain = of_every_label(0.0)
    same = Check(
        "adaptive-temperature-ignores-the-label",
        "derived",
        "c = 0: lam* is the same for all labels",
        plain,
        "==",
        plain[0],
        tolerance_float32=1e-5,
    )
    other = Check(
        "adaptive-temperature-with-a-margin",
        "derived",
        "c = 1: lam* differs from label to label, by 0.01 lam_0 or more for some scores",
        jnp.ptp(of_every_label(1.0), axis=0).max(),
        ">=",
        0.01,
        tolerance=0.0,
        tolerance_float32=0.0,
    )
    return same, other


def degenerate_cases() -> Check:
    """One class, equal scores, scores of minus infinity, removed classes; all of these at once."""
    hyper: dict[str, Any] = {"temperature": 1.3, "alpha": 2.0}
    labels = jnp.array([0, 0, 1, 0], jnp.int32)
    keep = jnp.ones((4, 4), bool).at[3, 1].set(False)

    def evaluate(plain: jax.Array) -> jax.Array:
        low = plain.at[1].set(-jnp.inf)
        rows = jnp.stack([jnp.full_like(plain, 2.5), low, low, plain])
        single = plain[None, :1]
        # All scores minus infinity, and all classes removed: nothing to say.
        nothing, few = jnp.stack([jnp.full_like(plain, -jnp.inf), plain]), jnp.array([[True], [False]])
        values = [
            losses.aldr_kl(rows, labels, where=keep, **hyper),
            losses.aldr_temperature(rows[:1], labels[:1], **hyper),
            losses.aldr_kl(single, labels[:1], **hyper),
            losses.aldr_temperature(single, labels[:1], **hyper),
            jnp.isnan(losses.aldr_kl(nothing, labels[:2], where=keep[:2] & few, **hyper)).astype(plain.dtype),
        ]
        return jnp.concatenate(values)

    of_limit = global_maximum(np.array([0.3, -1e4, 2.0, 0.5]), **hyper)[1] - 0.3
    of_three = global_maximum(np.array([0.3, 2.0, 0.5]), **hyper)[1] - 0.3
    return Check(
        "adaptive-degenerate-cases",
        "derived",
        "K = 1: 0; equal scores: 0, lam* = lam_0; a score of -inf: the limit (inf for the label); all scores "
        "-inf, or no class kept: NaN",
        quick_jit(evaluate)(jnp.array([0.3, -1.0, 2.0, 0.5])),
        "==",
        np.array([0.0, of_limit, np.inf, of_three, 1.3, 0.0, 1.3, 1.0, 1.0]),
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 31)
    yield from _consistency(rng)
    yield from _range(rng)


def _consistency(rng: np.random.Generator) -> Iterator[Check]:
    q = oracles.separated_probabilities(rng, 12, 5)
    yield adaptive_minimiser(q, temperature=1.3, alpha=2.0)
    free = jnp.asarray(rng.normal(0, 1.5, (64, 5))), jnp.asarray(rng.normal(0, 1.5, (64, 5)))
    yield falsify.evaluate(noisier_labels_are_hotter, free)
    yield consistent_below_the_threshold(
        oracles.separated_probabilities(rng, 12, 3), np.linspace(1.006, 1.3, 12)
    )
    yield small_alpha_ties()


def _range(rng: np.random.Generator) -> Iterator[Check]:
    cases = rng.normal(0, 3, (96, 6)), oracles.draw_labels(rng, 96, 6), rng.normal(0, 1, 96)
    yield falsify.search(
        lambda f, y, a: between_fixed_temperatures(f, y, log_alpha=a, margin=0.5), cases, steps=60
    ).check
    yield quick_jit(functools.partial(adaptive_infimum, 6))(jnp.linspace(1.1, 5, 20))
    logits = jnp.asarray(oracles.draw_scores(rng, 64, 6, largest_scale=4.0))
    labels = jnp.asarray(oracles.draw_labels(rng, 64, 6))
    yield quick_jit(decreasing_in_alpha)(logits, labels, jnp.asarray(rng.normal(0, 1, (64, 2))))
    yield quick_jit(strong_pull_expansion)(logits, labels)
    yield from quick_jit(temperature_and_label)(logits)
    yield degenerate_cases()
