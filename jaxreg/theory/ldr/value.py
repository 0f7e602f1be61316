"""The loss with a Kullback-Leibler penalty at a fixed temperature: value, maximiser, and derivatives in the
scores.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit

PAPER = "Zhu et al. (2023)"


def label_gaps(logits: jax.Array, labels: jax.Array, margin: ArrayLike = 0.0) -> jax.Array:
    """The gaps ``z_k = f_k - f_y + margin [k != y]``, shape of ``logits``; classes last.

    Example:
      >>> print(label_gaps(jnp.array([1.0, 3.0]), jnp.array(1), margin=0.5))
      [-1.5  0. ]
    """
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    wrong = 1 - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return logits - own + jnp.asarray(margin, logits.dtype)[..., None] * wrong


def kl_to_uniform(probabilities: jax.Array) -> jax.Array:
    """``sum_k p_k log(K p_k)``, the divergence from the uniform distribution, in [0, log K]; classes last.

    Example:
      >>> print(kl_to_uniform(jnp.array([0.5, 0.5])))
      0.0
    """
    return math.log(probabilities.shape[-1]) - jnp.sum(jax.scipy.special.entr(probabilities), axis=-1)


def penalised_gap(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    temperature: ArrayLike,
    margin: ArrayLike = 0.0,
) -> jax.Array:
    """What the distribution ``weights`` over labels attains: ``p.z - temperature KL(p, uniform)``, "
    "shape of ``labels``.

    Example:
      >>> uniform = jnp.full(3, 1 / 3)
      >>> print(penalised_gap(jnp.array([0.0, 3.0, 3.0]), jnp.array(0), uniform, temperature=1.0).round(4))
      2.0
    """
    gaps = label_gaps(logits, labels, margin)
    return jnp.sum(weights * gaps, axis=-1) - temperature * kl_to_uniform(weights)


def gap_size(logits: jax.Array, labels: jax.Array, margin: ArrayLike = 0.0) -> jax.Array:
    """The size of what is added up: one plus the largest gap."""
    return 1 + jnp.abs(label_gaps(logits, labels, margin)).max(-1)


def draw(seed: int, cases: int, num_classes: int) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Random scores, labels, and per-example temperatures in [0.2, 10] and margins in [0, 2], half of them
    0.
    """
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(oracles.draw_scores(rng, cases, num_classes, largest_scale=5.0))
    labels = jnp.asarray(oracles.draw_labels(rng, cases, num_classes))
    temperature = jnp.asarray(10 ** rng.uniform(-0.7, 1, cases))
    margin = jnp.asarray(rng.uniform(0, 2, cases) * rng.integers(2, size=cases))
    return logits, labels, {"temperature": temperature, "margin": margin}


def no_distribution_does_better(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    temperature: ArrayLike,
    margin: ArrayLike = 0.0,
) -> Check:
    """The closed form bounds the penalised gap of every distribution over labels."""
    return Check(
        "closed-form-is-an-upper-bound",
        PAPER,
        "no distribution over labels attains more than lam log mean exp(z / lam)",
        penalised_gap(logits, labels, weights, temperature=temperature, margin=margin),
        "<=",
        losses.ldr_kl(logits, labels, temperature=temperature, margin=margin),
        scale=gap_size(logits, labels, margin),
    )


def softmax_attains_the_value(
    logits: jax.Array, labels: jax.Array, *, temperature: ArrayLike, margin: ArrayLike = 0.0
) -> Check:
    """The distribution softmax(z / temperature) attains the closed form."""
    gaps = label_gaps(logits, labels, margin)
    weights = jax.nn.softmax(gaps / jnp.asarray(temperature, gaps.dtype)[..., None], axis=-1)
    return Check(
        "softmax-attains-the-supremum",
        PAPER,
        "p = softmax(z / lam) attains lam log mean exp(z / lam)",
        penalised_gap(logits, labels, weights, temperature=temperature, margin=margin),
        "==",
        losses.ldr_kl(logits, labels, temperature=temperature, margin=margin),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def value_is_the_solved_maximum(
    scores: np.ndarray, labels: np.ndarray, temperature: float, margin: float
) -> Check:
    """The value is the maximum over the simplex that a general solver finds."""
    all_gaps = [oracles.gaps(row, label, margin) for row, label in zip(scores, labels, strict=True)]
    solved = [
        oracles.maximum_over_simplex(
            lambda p, z=gaps: p @ z - temperature * oracles.kl_to_uniform(p), scores.shape[-1]
        )
        for gaps in all_gaps
    ]
    loss = functools.partial(losses.ldr_kl, temperature=temperature, margin=margin)
    value = quick_jit(loss)(jnp.asarray(scores), jnp.asarray(labels))
    return Check(
        "closed-form-is-the-supremum",
        PAPER,
        "lam log mean exp(z / lam) = max over the simplex of p.z - lam KL(p, uniform), found by SLSQP",
        value,
        "==",
        np.array(solved),
        scale=1 + np.abs(scores).max(-1),
        tolerance=1e-6,  # SLSQP stops near 1e-8 where weights meet the bound 0
        tolerance_float32=1e-5,
    )


def loss_is_scaled_cross_entropy(logits: jax.Array, labels: jax.Array, *, temperature: jax.Array) -> Check:
    """Without a margin the loss is a tempered cross-entropy less a constant."""
    tempered = optax.softmax_cross_entropy_with_integer_labels(logits / temperature[..., None], labels)
    return Check(
        "tempered-cross-entropy",
        PAPER,
        "c = 0: the loss is lam CE(f / lam) - lam log K",
        losses.ldr_kl(logits, labels, temperature=temperature),
        "==",
        temperature * (tempered - math.log(logits.shape[-1])),
        scale=gap_size(logits, labels) + temperature,
        tolerance_float32=1e-5,
    )


def gradient_is_weights_less_label(
    logits: jax.Array, labels: jax.Array, *, temperature: jax.Array, margin: jax.Array
) -> Check:
    """The gradient with respect to the scores is the maximising distribution less the label."""
    gradient = jax.grad(lambda f: losses.ldr_kl(f, labels, temperature=temperature, margin=margin).sum())(
        logits
    )
    softmax = jax.nn.softmax(label_gaps(logits, labels, margin) / temperature[..., None], axis=-1)
    offered = losses.ldr_weights(logits, labels, temperature=temperature, margin=margin)
    label = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return Check(
        "gradient-is-weights-less-label",
        PAPER,
        "the gradient in f is p - e_y with p = softmax(z / lam), which ldr_weights returns",
        jnp.stack([gradient, offered - label]),
        "==",
        jnp.stack([softmax - label] * 2),
        tolerance_float32=1e-5,
    )


def gradient_is_bounded(
    logits: jax.Array, labels: jax.Array, *, temperature: ArrayLike, margin: ArrayLike
) -> Check:
    """The loss is Lipschitz: the absolute gradient sums to at most 2."""
    gradient = jax.grad(lambda f: losses.ldr_kl(f, labels, temperature=temperature, margin=margin).sum())(
        logits
    )
    return Check(
        "gradient-is-bounded",
        "derived",
        "the gradient in f has l1 norm at most 2",
        jnp.abs(gradient).sum(-1),
        "<=",
        2.0,
        tolerance_float32=1e-6,
    )


def hessian_is_softmax_covariance(logits: jax.Array, labels: jax.Array, *, temperature: jax.Array) -> Check:
    """The Hessian is the covariance of the weights over the temperature."""

    def one(f: jax.Array, y: jax.Array, lam: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = jax.nn.softmax(f / lam)
        hessian = jax.hessian(lambda g: losses.ldr_kl(g, y, temperature=lam))(f)
        return lam * hessian, jnp.diag(weights) - jnp.outer(weights, weights)

    hessian, covariance = jax.vmap(one)(logits, labels, temperature)
    return Check(
        "hessian-is-softmax-covariance",
        "derived",
        "lam times the Hessian in f is diag p - p p^T",
        hessian,
        "==",
        covariance,
        tolerance_float32=1e-5,
    )


def curvature_is_bounded(
    logits: jax.Array, labels: jax.Array, direction: jax.Array, *, temperature: ArrayLike
) -> Check:
    """The curvature along any unit direction is at most half the inverse temperature."""
    unit = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)

    def slope(f: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda g: losses.ldr_kl(g, labels, temperature=temperature).sum())(f)
        return (gradient * unit).sum(-1)

    _, curvature = jax.jvp(slope, (logits,), (unit,))
    return Check(
        "curvature-is-bounded",
        "derived",
        "lam u.Hessian.u <= 1/2 for unit vectors u",
        temperature * curvature,
        "<=",
        0.5,
        tolerance_float32=1e-6,
    )


def invariant_to_a_shift(
    logits: jax.Array, labels: jax.Array, shift: jax.Array, *, temperature: jax.Array
) -> Check:
    """Adding a constant to all scores changes nothing."""
    return Check(
        "invariant-to-a-shift",
        "derived",
        "adding one constant to all scores leaves the loss unchanged",
        losses.ldr_kl(logits + shift[..., None], labels, temperature=temperature),
        "==",
        losses.ldr_kl(logits, labels, temperature=temperature),
        scale=gap_size(logits, labels) + jnp.abs(shift),
        tolerance_float32=1e-5,
    )


def convex_in_the_scores(
    logits: jax.Array, others: jax.Array, labels: jax.Array, *, temperature: ArrayLike, margin: ArrayLike
) -> Check:
    """Between two score vectors the loss stays below the chord."""
    loss = functools.partial(losses.ldr_kl, labels=labels, temperature=temperature, margin=margin)
    return Check(
        "convex-in-the-scores",
        PAPER,
        "the loss half-way between two score vectors is at most the mean of their losses",
        loss((logits + others) / 2),
        "<=",
        (loss(logits) + loss(others)) / 2,
        scale=gap_size(logits, labels, margin) + gap_size(others, labels, margin),
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The closed form, the maximising distribution, and the derivatives in the scores."""
    logits, labels, both = draw(seed, 256, 7)
    temperature = {"temperature": both["temperature"]}
    rng = np.random.default_rng(seed + 1)
    yield value_is_the_solved_maximum(
        oracles.draw_scores(rng, 30, 5), oracles.draw_labels(rng, 30, 5), temperature=0.7, margin=0.4
    )
    yield quick_jit(softmax_attains_the_value)(logits, labels, **both)

    # Where the searches start: scores, free vectors (made a distribution by softmax), labels.
    cases = (rng.normal(0, 3, (256, 7)), rng.normal(0, 1, (256, 7)), oracles.draw_labels(rng, 256, 7))
    yield falsify.search(
        lambda f, free, y: no_distribution_does_better(
            f, y, jax.nn.softmax(free), temperature=0.8, margin=0.5
        ),
        cases,
    ).check
    yield quick_jit(loss_is_scaled_cross_entropy)(logits, labels, **temperature)
    yield quick_jit(gradient_is_weights_less_label)(logits, labels, **both)
    yield falsify.search(
        lambda f, free, y: gradient_is_bounded(f, y, temperature=jnp.exp(free[0]), margin=0.5),
        cases,
        steps=60,
    ).check
    yield quick_jit(hessian_is_softmax_covariance)(logits, labels, **temperature)
    yield falsify.search(
        lambda f, direction, y: curvature_is_bounded(f, y, direction, temperature=0.8), cases
    ).check
    yield quick_jit(invariant_to_a_shift)(logits, labels, jnp.asarray(rng.normal(0, 10, 256)), **temperature)
    yield falsify.search(
        lambda f, g, y: convex_in_the_scores(f, g, y, temperature=0.5, margin=0.5), cases
    ).check
