"""The loss with an adaptive temperature: its value and derivatives.

The temperature lam maximises ``F(lam) - (A/2) (lam - lam_0)^2``, with ``A = alpha log K / lam_0``
(``stationary``).
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.stationary import (
    draw_hard_scores,
    global_maximum,
    temperature_penalty,
)
from jaxreg.theory.ldr.value import PAPER, gap_size, kl_to_uniform, label_gaps
from jaxreg.theory.oracles import quick_jit

# The maximum


def finds_the_global_maximum(rng: np.random.Generator) -> Check:
    """Value of the loss against dense grid and bisection, on hard score vectors."""
    values, truth, scale = [], [], []
    for num_classes in (2, 10, 1000):
        scores = draw_hard_scores(rng, num_classes, 10)
        labels = oracles.draw_labels(rng, scores.shape[0], num_classes)
        alphas = rng.choice([1.05, 1.2, 2.0, 3.0], scores.shape[0])
        loss = quick_jit(lambda f, y, a: losses.aldr_kl(f, y, temperature=1.0, alpha=a))
        values.append(loss(jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(alphas)))
        for row, label, alpha in zip(scores, labels, alphas, strict=True):
            truth.append(global_maximum(oracles.gaps(row, label), temperature=1.0, alpha=alpha)[1])
        scale.append(1 + np.ptp(scores, axis=-1))
    return Check(
        "adaptive-global-maximum",
        PAPER,
        "aldr_kl = max over lam by dense grid and bisection: K = 2 ... 1000, alpha = 1.05 ... 3, four "
        "kinds of scores",
        jnp.concatenate(values),
        "==",
        np.array(truth),
        scale=np.concatenate(scale),
        tolerance_float32=1e-5,
    )


def float32_of_the_maximum(rng: np.random.Generator) -> Check:
    """The same in float32, against float64 truth."""
    values, truth, scale = [], [], []
    for num_classes in (2, 10, 1000):
        scores = draw_hard_scores(rng, num_classes, 4).astype(np.float32)
        labels = np.zeros(scores.shape[0], np.int32)
        loss = jax.jit(functools.partial(losses.aldr_kl, temperature=1.0, alpha=2.0))
        values.append(np.asarray(loss(scores, labels), np.float64))
        exact = scores.astype(np.float64)
        truth += [global_maximum(oracles.gaps(row, 0), temperature=1.0, alpha=2.0)[1] for row in exact]
        scale.append(1 + np.ptp(exact, axis=-1))
    return Check(
        "adaptive-maximum-in-float32",
        "derived",
        "aldr_kl in float32 for K = 2 ... 1000, alpha = 2, in units of the temperature plus the range of "
        "scores",
        np.concatenate(values),
        "==",
        np.array(truth),
        scale=np.concatenate(scale),
        tolerance=1e-6,
        tolerance_float32=1e-6,
    )


def is_a_penalised_maximum(
    scores: np.ndarray, labels: np.ndarray, *, temperature: float, alpha: float
) -> Check:
    """The temperature can be maximised out: a maximum over distributions of p.z - W(p), by a solver from
    many starts.
    """
    num_classes = scores.shape[-1]
    strength = alpha * math.log(num_classes) / temperature
    rng = np.random.default_rng(0)

    def attained(free: np.ndarray, gaps: np.ndarray) -> float:
        p = special.softmax(free)
        divergence = oracles.kl_to_uniform(p)
        inner = temperature * divergence - divergence**2 / (2 * strength)
        return p @ gaps - (inner if divergence <= strength * temperature else strength * temperature**2 / 2)

    solved = []
    for row, label in zip(scores, labels, strict=True):
        gaps = oracles.gaps(row, label)
        starts = [np.zeros(num_classes), *rng.normal(0, 2, (4, num_classes))]
        ends = [optimize.minimize(lambda x, z=gaps: -attained(x, z), start).fun for start in starts]
        solved.append(-min(ends))
    value = quick_jit(functools.partial(losses.aldr_kl, temperature=temperature, alpha=alpha))
    return Check(
        "adaptive-is-a-penalised-maximum",
        "derived",
        "aldr_kl = max over p of p.z - W(p), W = lam_0 KL - KL^2/(2A) where KL <= A lam_0 (multistart "
        "search)",
        value(jnp.asarray(scores), jnp.asarray(labels)),
        "==",
        np.array(solved),
        scale=1 + np.abs(scores).max(-1),
        tolerance=1e-6,  # quasi-Newton with numerical gradients
        tolerance_float32=1e-5,
    )


def no_distribution_beats_it(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, *, alpha: float
) -> Check:
    """No distribution attains more than the adaptive loss."""
    attained = (weights * label_gaps(logits, labels)).sum(-1) - temperature_penalty(weights, alpha=alpha)
    return Check(
        "adaptive-upper-bound",
        "derived",
        "p.z - W(p) <= aldr_kl for every distribution p",
        attained,
        "<=",
        losses.aldr_kl(logits, labels, alpha=alpha),
        scale=gap_size(logits, labels),
        tolerance_float32=1e-5,
    )


def adaptive_convex_in_the_scores(
    logits: jax.Array, others: jax.Array, labels: jax.Array, *, alpha: float
) -> Check:
    """Convex in the scores, also where the maximum over the temperature has several local maxima."""
    loss = functools.partial(losses.aldr_kl, labels=labels, alpha=alpha)
    return Check(
        "adaptive-convex-in-the-scores",
        PAPER,
        "aldr_kl half-way between two score vectors is at most the mean of their losses (alpha = 1.05)",
        loss((logits + others) / 2),
        "<=",
        (loss(logits) + loss(others)) / 2,
        scale=gap_size(logits, labels) + gap_size(others, labels),
        tolerance_float32=1e-5,
    )


def scales_with_the_temperature(
    logits: jax.Array, labels: jax.Array, *, temperature: jax.Array, margin: jax.Array
) -> Check:
    """Scores, margin and temperature scale together."""
    unit = losses.aldr_kl(
        logits / temperature[..., None], labels, temperature=1.0, margin=margin / temperature
    )
    return Check(
        "adaptive-scales",
        "derived",
        "aldr_kl(f; lam_0, alpha, c) = lam_0 aldr_kl(f / lam_0; 1, alpha, c / lam_0)",
        losses.aldr_kl(logits, labels, temperature=temperature, margin=margin),
        "==",
        temperature * unit,
        scale=gap_size(logits, labels, margin) + temperature,
        tolerance_float32=1e-5,
    )


def temperature_is_stationary(
    logits: jax.Array, labels: jax.Array, *, margin: jax.Array, alpha: float
) -> Check:
    """At the returned temperature the divergence of the weights balances the pull towards lam_0."""
    best = losses.aldr_temperature(logits, labels, alpha=alpha, margin=margin)
    weights = jax.nn.softmax(label_gaps(logits, labels, margin) / best[..., None], axis=-1)
    strength = alpha * math.log(logits.shape[-1])
    return Check(
        "adaptive-temperature-is-stationary",
        PAPER,
        "at lam* = aldr_temperature: KL(p, uniform) = A (lam_0 - lam*)",
        kl_to_uniform(weights) / strength,
        "==",
        1 - best,
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


# Derivatives


def gradient_by_differences(scores: np.ndarray, labels: np.ndarray, *, alpha: float) -> Check:
    """Gradients in scores, temperature and alpha, against central differences of the exact maximum."""

    def loss(f: jax.Array, lam: jax.Array, a: jax.Array, y: jax.Array) -> jax.Array:
        return losses.aldr_kl(f, y, temperature=lam, alpha=a, margin=0.3)

    def exact(x: np.ndarray, label: int) -> float:
        gaps = oracles.gaps(x[:-2], label, 0.3)
        return global_maximum(gaps, temperature=x[-2], alpha=x[-1], cells=200)[1]

    cases = scores.shape[0]
    hyper = jnp.full(cases, 1.2), jnp.full(cases, alpha)
    gradients = quick_jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2))))(
        jnp.asarray(scores), *hyper, jnp.asarray(labels)
    )
    step, differences = 1e-4, []
    for row, label in zip(scores, labels, strict=True):
        point = np.append(row, [1.2, alpha])
        shifts = step * np.eye(point.size)
        differences.append([(exact(point + h, label) - exact(point - h, label)) / (2 * step) for h in shifts])
    return Check(
        "adaptive-gradient",
        PAPER,
        "gradient of aldr_kl in f, lam_0 and alpha, against central differences of the maximum by dense grid",
        jnp.concatenate([gradients[0], gradients[1][:, None], gradients[2][:, None]], axis=-1),
        "==",
        np.array(differences),
        scale=1 + np.abs(scores).max(-1, keepdims=True),
        tolerance=1e-6,  # differences: third derivatives times the step squared
        tolerance_float32=1e-4,
    )


def hessian_has_the_implicit_term(logits: jax.Array, labels: jax.Array, *, alpha: float) -> Check:
    """The Hessian has a rank-one term from the motion of the temperature."""
    strength = alpha * math.log(logits.shape[-1])

    def one(f: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        hessian = jax.hessian(lambda g: losses.aldr_kl(g, y, alpha=alpha))(f)
        lam = losses.aldr_temperature(f, y, alpha=alpha)
        scaled = f / lam
        p = jax.nn.softmax(scaled)
        centred = scaled - p @ scaled
        moved = -p * centred / lam
        fixed = (jnp.diag(p) - jnp.outer(p, p)) / lam
        return hessian, fixed + jnp.outer(moved, moved) / (strength - p @ centred**2 / lam)

    hessian, claimed = jax.vmap(one)(logits, labels)
    return Check(
        "adaptive-hessian",
        "derived",
        "Hessian = (diag p - p p^T)/lam* + w w^T/(A - Var_p(z/lam*)/lam*), w = -p (z - E z)/lam*^2",
        hessian,
        "==",
        claimed,
        scale=1 + jnp.abs(claimed).max((-2, -1), keepdims=True),
        tolerance=1e-9,  # the temperature's rounding is magnified near a double stationary point
        tolerance_float32=1e-3,
    )


def hessian_by_differences(scores: np.ndarray, *, alpha: float) -> Check:
    """Hessian and gradient of the temperature, against differences of the exact maximiser and weights."""

    def gradient(row: np.ndarray) -> np.ndarray:
        best, _ = global_maximum(row, temperature=1.0, alpha=alpha, cells=200)
        return np.append(special.softmax(row / best), best)

    step, differences = 1e-4, []
    for row in scores:
        columns = [(gradient(row + h) - gradient(row - h)) / (2 * step) for h in step * np.eye(row.size)]
        differences.append(np.stack(columns, axis=-1))
    label = jnp.zeros((), jnp.int32)

    @quick_jit
    @jax.vmap
    def derivatives(f: jax.Array) -> jax.Array:
        slope = jax.grad(lambda f: losses.aldr_temperature(f, label, alpha=alpha))(f)
        return jnp.vstack([jax.hessian(lambda f: losses.aldr_kl(f, label, alpha=alpha))(f), slope])

    return Check(
        "adaptive-hessian-by-differences",
        "derived",
        "Hessian of aldr_kl and gradient of aldr_temperature in f, against central differences of "
        "softmax(f / lam*) and lam* by dense grid",
        derivatives(jnp.asarray(scores)),
        "==",
        np.array(differences),
        tolerance=1e-6,  # differences
        tolerance_float32=1e-3,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 30)
    yield from _maximum(rng)
    yield from _derivatives(rng)


def _maximum(rng: np.random.Generator) -> Iterator[Check]:
    yield finds_the_global_maximum(rng)
    yield float32_of_the_maximum(rng)
    scores, labels = oracles.draw_scores(rng, 8, 4, largest_scale=4.0), oracles.draw_labels(rng, 8, 4)
    yield is_a_penalised_maximum(scores, labels, temperature=1.3, alpha=1.2)
    cases = rng.normal(0, 3, (96, 6)), rng.normal(0, 1, (96, 6)), oracles.draw_labels(rng, 96, 6)
    yield falsify.search(
        lambda f, free, y: no_distribution_beats_it(f, y, jax.nn.softmax(free), alpha=1.5), cases, steps=100
    ).check
    yield falsify.search(functools.partial(adaptive_convex_in_the_scores, alpha=1.05), cases, steps=60).check
    logits, others = (jnp.asarray(oracles.draw_scores(rng, 256, 6)) for _ in range(2))
    labels = jnp.asarray(oracles.draw_labels(rng, 256, 6))
    temperature, margin = jnp.asarray(10 ** rng.uniform(-0.5, 1, 256)), jnp.asarray(rng.uniform(0, 2, 256))
    yield quick_jit(scales_with_the_temperature)(logits, labels, temperature=temperature, margin=margin)
    yield quick_jit(functools.partial(temperature_is_stationary, alpha=2.0))(others, labels, margin=margin)


def _derivatives(rng: np.random.Generator) -> Iterator[Check]:
    scores, labels = oracles.draw_scores(rng, 6, 5, largest_scale=4.0), oracles.draw_labels(rng, 6, 5)
    yield gradient_by_differences(scores, labels, alpha=2.0)
    many = jnp.asarray(oracles.draw_scores(rng, 64, 5, largest_scale=4.0))
    yield quick_jit(functools.partial(hessian_has_the_implicit_term, alpha=2.0))(
        many, jnp.asarray(oracles.draw_labels(rng, 64, 5))
    )
    yield hessian_by_differences(scores, alpha=2.0)
