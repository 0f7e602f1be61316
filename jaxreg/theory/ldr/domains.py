"""Other sets of distributions over labels: capped weights, boxes, and a quadratic penalty."""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.value import PAPER, gap_size, label_gaps, penalised_gap
from jaxreg.theory.oracles import quick_jit

LAPIN = "Lapin et al., top-k multiclass SVM"


# Weights capped at 1/k


def top_k_mean_is_the_linear_program(scores: np.ndarray, labels: np.ndarray, k: int, margin: float) -> Check:
    """Capped weights without penalty give the mean of the k largest gaps, as a linear program finds it."""
    loss = functools.partial(losses.ldr_top_k, k=k, margin=margin)
    return Check(
        "capped-linear-program",
        PAPER,
        "ldr_top_k at lam = 0 is the linear program max p.z over the simplex with p <= 1/k",
        quick_jit(loss)(jnp.asarray(scores), jnp.asarray(labels)),
        "==",
        _programs(scores, labels, margin, cap=1 / k),
        scale=1 + np.abs(scores).max(-1),
        tolerance_float32=1e-5,
    )


def top_k_hinges_are_linear_programs(scores: np.ndarray, labels: np.ndarray, k: int, margin: float) -> Check:
    """The two top-k hinge losses maximise over sub-distributions, capped absolutely or by a share."""
    domains = ("subdistribution", "scaled_distribution")
    top_k = functools.partial(losses.ldr_top_k, k=k, margin=margin)
    loss = quick_jit(lambda f, y: jnp.stack([top_k(f, y, domain=domain) for domain in domains]))
    programs = [
        _programs(scores, labels, margin, cap=1 / k, total=(0.0, 1.0)),
        _programs(scores, labels, margin, cap=None, total=(0.0, 1.0), share_cap=1 / k),
    ]
    return Check(
        "top-k-hinges-are-linear-programs",
        LAPIN,
        "the two top-k hinges are max p.z over sum p <= 1 with p <= 1/k, or with p <= (1/k) sum p",
        loss(jnp.asarray(scores), jnp.asarray(labels)),
        "==",
        np.array(programs),
        scale=1 + np.abs(scores).max(-1),
        tolerance_float32=1e-5,
    )


def top_k_ends(logits: jax.Array, labels: jax.Array, *, temperature: float, margin: jax.Array) -> Check:
    """One label allowed: the uncapped loss; all K forced: the mean gap; both with and without penalty."""
    num_classes = logits.shape[-1]
    gaps = label_gaps(logits, labels, margin)
    loss = functools.partial(losses.ldr_top_k, logits, labels, margin=margin)
    return Check(
        "capped-ends",
        PAPER,
        "k = 1 removes the cap (max z, or the KL form); k = K leaves only mean z, at every temperature",
        jnp.stack(
            [
                loss(k=1),
                loss(k=1, temperature=temperature),
                loss(k=num_classes),
                loss(k=num_classes, temperature=temperature),
            ]
        ),
        "==",
        jnp.stack(
            [
                gaps.max(-1),
                losses.ldr_kl(logits, labels, temperature=temperature, margin=margin),
                gaps.mean(-1),
                gaps.mean(-1),
            ]
        ),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def capped_softmax_by_bisection(
    scores: np.ndarray, labels: np.ndarray, k: int, temperature: float, margin: float
) -> Check:
    """Value and gradient with the KL penalty equal those of the capped softmax, found by bisection."""
    loss = functools.partial(losses.ldr_top_k, k=k, temperature=temperature, margin=margin)
    value, gradient = quick_jit(jax.vmap(jax.value_and_grad(loss)))(jnp.asarray(scores), jnp.asarray(labels))
    expected = []
    for row, label in zip(scores, labels, strict=True):
        gaps = oracles.gaps(row, label, margin)
        both = (
            oracles.capped_softmax(gaps / temperature, 1 / k),
            oracles.capped_softmax_by_sorting(gaps / temperature, k),
        )
        attained = [w @ gaps - temperature * oracles.kl_to_uniform(w) for w in both]
        expected.append(
            [np.append(w - np.eye(row.size)[label], a) for w, a in zip(both, attained, strict=True)]
        )
    return Check(
        "capped-softmax-by-bisection",
        PAPER,
        "ldr_top_k at lam > 0: weights min(1/k, C exp(z / lam)), by bisection for C and by the sorted rule",
        jnp.concatenate([gradient, value[:, None]], axis=-1)[:, None],
        "==",
        np.array(expected),
        scale=1 + np.abs(scores).max(-1)[:, None, None],
        tolerance_float32=2e-5,
    )


def no_capped_distribution_does_better(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, *, k: int, temperature: float
) -> Check:
    """The value bounds what any capped distribution attains."""
    return Check(
        "capped-upper-bound",
        PAPER,
        "no distribution with weights <= 1/k attains more than ldr_top_k",
        penalised_gap(logits, labels, weights, temperature=temperature),
        "<=",
        losses.ldr_top_k(logits, labels, k=k, temperature=temperature),
        scale=gap_size(logits, labels),
        tolerance_float32=1e-5,
    )


def top_k_decreases_in_k(logits: jax.Array, labels: jax.Array, *, temperature: float) -> Check:
    """A tighter cap leaves fewer distributions and a smaller loss."""
    ladder = [losses.ldr_top_k(logits, labels, k=k, temperature=temperature) for k in (1, 2, 4, 7)]
    return Check(
        "capped-decreasing-in-k",
        "derived",
        "ldr_top_k is nonincreasing in k",
        jnp.stack(ladder[:-1]),
        ">=",
        jnp.stack(ladder[1:]),
        scale=gap_size(logits, labels),
        tolerance_float32=1e-5,
    )


def truncated_entropy_is_not_convex() -> Check:
    """Dropping the largest competitors from the cross-entropy leaves no loss of this family."""

    def truncated(scores: np.ndarray, k: int = 2) -> float:
        competitors = np.sort(scores[1:])[: scores.size - k]
        return math.log1p(np.exp(competitors - scores[0]).sum())

    ends = np.array([0.0, 2.0, 0.0]), np.array([0.0, 0.0, 2.0])
    return Check(
        "truncated-top-k-entropy-is-not-convex",
        f"derived, of a loss of {LAPIN}",
        "log(1 + sum of exp(f_j - f_y) without the k-1 largest) exceeds its chord by 0.6: it is no maximum "
        "over distributions",
        np.float64(truncated((ends[0] + ends[1]) / 2) - sum(map(truncated, ends)) / 2),
        ">=",
        0.6,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def _capped(free: jax.Array, k: int) -> jax.Array:
    """A distribution with weights at most 1/k from a free vector.

    A distribution p mixed with the uniform one, just enough to obey the cap: (1 - t) p + t / K.
    """
    weights = jax.nn.softmax(free)
    uniform, largest = 1 / free.shape[-1], weights.max()
    excess = jnp.maximum(largest - 1 / k, 0)
    share = excess / jnp.maximum(largest - uniform, jnp.finfo(free.dtype).tiny)
    return weights + share * (uniform - weights)


def _programs(scores: np.ndarray, labels: np.ndarray, margin: float, **domain: object) -> np.ndarray:
    """The linear program of each row."""
    rows = zip(scores, labels, strict=True)
    return np.array([oracles.linear_maximum(oracles.gaps(row, y, margin), **domain) for row, y in rows])  # pyright: ignore[reportArgumentType]


# Quadratic penalty, and the box


def quadratic_is_sparsemax(logits: jax.Array, labels: jax.Array, *, temperature: float) -> Check:
    """Without a margin the quadratic penalty gives the sparsemax loss less a constant."""
    num_classes = logits.shape[-1]
    sparsemax = optax.losses.multiclass_sparsemax_loss(logits / temperature, labels)
    return Check(
        "quadratic-is-sparsemax",
        "derived; Martins, Astudillo (2016)",
        "c = 0: the quadratic penalty gives lam sparsemax_loss(f / lam) - lam (K-1) / (2K)",
        losses.ldr_quadratic(logits, labels, temperature=temperature),
        "==",
        temperature * (sparsemax - (num_classes - 1) / (2 * num_classes)),
        # The sparsemax loss squares its scores.
        scale=gap_size(logits, labels) + (logits**2).max(-1) / temperature,
        tolerance_float32=1e-5,
    )


def quadratic_is_the_solved_maximum(scores: np.ndarray, labels: np.ndarray, temperature: float) -> Check:
    """The projection gives the maximum that a general solver finds."""
    solved = [
        oracles.maximum_over_simplex(
            lambda p, z=gaps: p @ z - temperature / 2 * ((p - 1 / p.size) ** 2).sum(), gaps.size
        )
        for gaps in (oracles.gaps(row, y, 0.3) for row, y in zip(scores, labels, strict=True))
    ]
    loss = functools.partial(losses.ldr_quadratic, temperature=temperature, margin=0.3)
    return Check(
        "quadratic-is-the-supremum",
        PAPER,
        "the projection of z / lam on the simplex attains max p.z - (lam/2) ||p - u||^2, found by SLSQP",
        quick_jit(loss)(jnp.asarray(scores), jnp.asarray(labels)),
        "==",
        np.array(solved),
        scale=1 + np.abs(scores).max(-1),
        tolerance=1e-7,  # SLSQP
        tolerance_float32=1e-5,
    )


def quadratic_weights_are_the_projection(scores: np.ndarray, labels: np.ndarray, temperature: float) -> Check:
    """The gradient is the projection on the simplex, found by bisection, less the label."""
    margin = 0.3
    loss = functools.partial(losses.ldr_quadratic, temperature=temperature, margin=margin)
    gradient = quick_jit(jax.vmap(jax.grad(loss)))(jnp.asarray(scores), jnp.asarray(labels))
    rows = zip(scores, labels, strict=True)
    weights = [oracles.simplex_projection(oracles.gaps(row, y, margin) / temperature) for row, y in rows]
    return Check(
        "quadratic-weights-are-the-projection",
        PAPER,
        "the gradient in f is p - e_y, p the Euclidean projection of z / lam on the simplex, by bisection",
        gradient,
        "==",
        np.array(weights) - np.eye(scores.shape[-1])[labels],
        scale=1 + np.abs(scores).max(-1, keepdims=True) / temperature,
        tolerance_float32=1e-5,
    )


def maxima_are_convex_and_invariant(
    logits: jax.Array, others: jax.Array, labels: jax.Array, shift: jax.Array
) -> Check:
    """Maxima over distributions: convex in the scores and blind to a constant added to all of them."""

    def loss(scores: jax.Array) -> jax.Array:
        capped = losses.ldr_top_k(scores, labels, k=3, temperature=0.7, margin=0.5)
        return jnp.stack([capped, losses.ldr_quadratic(scores, labels, temperature=0.7, margin=0.5)])

    first, second, middle, shifted = map(loss, (logits, others, (logits + others) / 2, logits + shift))
    return Check(
        "maxima-are-convex-and-invariant",
        PAPER,
        "ldr_top_k, ldr_quadratic: loss(f + constant) <= loss(f); half-way at most the mean of two losses",
        jnp.stack([middle, shifted]),
        "<=",
        jnp.stack([(first + second) / 2, first]),
        scale=gap_size(logits, labels) + gap_size(others, labels) + jnp.abs(shift),
        tolerance_float32=1e-5,
    )


def box_is_weston_watkins(scores: np.ndarray, labels: np.ndarray, margin: float) -> Check:
    """The box of weights, without penalty, gives Weston and Watkins' sum of hinges."""
    value = quick_jit(functools.partial(losses.weston_watkins, margin=margin))(
        jnp.asarray(scores), jnp.asarray(labels)
    )
    return Check(
        "box-is-weston-watkins",
        PAPER,
        "Weston and Watkins' sum of hinges is the linear program max p.z over 0 <= p <= 1",
        value,
        "==",
        _programs(scores, labels, margin, total=(0.0, float(scores.shape[-1]))),
        scale=scores.shape[-1] * (1 + np.abs(scores).max(-1)),
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 10)
    scores, labels = oracles.draw_scores(rng, 20, 7), oracles.draw_labels(rng, 20, 7)
    many = jnp.asarray(oracles.draw_scores(rng, 256, 7)), jnp.asarray(oracles.draw_labels(rng, 256, 7))
    margin = jnp.asarray(rng.uniform(0, 2, 256))
    yield top_k_mean_is_the_linear_program(scores, labels, 3, 0.5)
    yield top_k_hinges_are_linear_programs(scores, labels, 3, 0.5)
    yield quick_jit(functools.partial(top_k_ends, temperature=0.7))(*many, margin=margin)
    yield capped_softmax_by_bisection(scores, labels, 3, 0.7, 0.5)
    cases = rng.normal(0, 3, (128, 6)), rng.normal(0, 1, (128, 6)), oracles.draw_labels(rng, 128, 6)
    yield falsify.search(
        lambda f, free, y: no_capped_distribution_does_better(f, y, _capped(free, 3), k=3, temperature=0.8),
        cases,
    ).check
    cases = rng.normal(0, 3, (128, 7)), oracles.draw_labels(rng, 128, 7)
    yield falsify.search(functools.partial(top_k_decreases_in_k, temperature=0.7), cases, steps=60).check
    yield truncated_entropy_is_not_convex()
    yield quick_jit(functools.partial(quadratic_is_sparsemax, temperature=0.7))(*many)
    yield quadratic_is_the_solved_maximum(scores, labels, 2.0)
    yield quadratic_weights_are_the_projection(scores, labels, 2.0)
    pairs = rng.normal(0, 3, (2, 96, 6))
    cases = (*pairs, oracles.draw_labels(rng, 96, 6), rng.normal(0, 10, 96))
    yield falsify.search(maxima_are_convex_and_invariant, cases, steps=60).check
    yield box_is_weston_watkins(scores, labels, 1.0)
