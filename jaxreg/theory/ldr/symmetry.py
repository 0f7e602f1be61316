"""Bounded scores and infinite temperature: minimisers in a box or ball, and what symmetry excludes."""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.consistency import centred, order_slack
from jaxreg.theory.ldr.value import PAPER
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.risk import conditional_risk, sum_over_labels


def bounded_bayes_scores(probabilities: np.ndarray, *, temperature: float, bound: float) -> np.ndarray:
    """The scores in ``[-bound, bound]`` that minimise the conditional risk of ``ldr_kl`` without a margin.

    ``clip(temperature log q + t, -bound, bound)``, where ``t`` solves ``temperature logsumexp(f /
    temperature) = t`` (found by bisection); ``probabilities [K]``, scores ``[K]``.

    Example:
      >>> from scipy import special
      >>> scores = bounded_bayes_scores(np.array([0.1, 0.3, 0.6]), temperature=1.0, bound=0.25)
      >>> print(scores[0], scores[2], special.softmax(scores)[1].round(12))   # inside the box it is q
      -0.25 0.25 0.3
    """
    tempered = temperature * np.log(probabilities)

    def excess(shift: float) -> float:
        clipped = np.clip(tempered + shift, -bound, bound)
        return temperature * float(np.logaddexp.reduce(clipped / temperature)) - shift

    low, high = -bound - tempered.max() - 1, bound - tempered.min() + temperature * np.log(tempered.size) + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return np.clip(tempered + (low + high) / 2, -bound, bound)


# Bounded scores


def bounded_minimiser_is_clipped(probabilities: np.ndarray, temperature: float, bound: float) -> Check:
    """In a box the minimiser is the clipped logarithm."""
    risk = functools.partial(conditional_risk, losses.ldr_kl, temperature=temperature)
    found, _ = oracles.minimise_all(risk, probabilities, bound=bound)
    clipped = [bounded_bayes_scores(q, temperature=temperature, bound=bound) for q in probabilities]
    return Check(
        "bounded-minimiser-is-clipped",
        PAPER,
        "|f| <= B: L-BFGS-B on the risk ends at clip(lam log q + t, -B, B)",
        # Where q fits into the box every shift of it is a minimiser.
        centred(found),
        "==",
        centred(np.array(clipped)),
        tolerance=1e-5,  # L-BFGS-B stops at changes of the risk near rounding, sqrt(1e-16) in the scores
        tolerance_float32=2e-2,
    )


def bounded_minimiser_keeps_the_order(probabilities: np.ndarray, temperature: float, bound: float) -> Check:
    """Classes tie only where the box cuts them off at the same end, which a wide box does to none."""
    found = np.array([bounded_bayes_scores(q, temperature=temperature, bound=bound) for q in probabilities])
    ranks = np.argsort(probabilities, axis=-1)
    ordered = np.take_along_axis(found, ranks, axis=-1)
    logs = np.log(np.take_along_axis(probabilities, ranks, axis=-1))
    cut = np.abs(ordered) == bound
    together = cut[:, 1:] & cut[:, :-1] & (np.diff(ordered, axis=-1) == 0)
    fits = temperature * np.ptp(logs, axis=-1, keepdims=True) <= 2 * bound
    # Strictly in order apart from those; and at the distance of the logarithms where all fit.
    steps = np.where(together & ~fits, 1.0, np.sign(np.diff(ordered, axis=-1)))
    spread = np.where(fits, np.ptp(ordered, axis=-1, keepdims=True), 2 * bound)
    return Check(
        "bounded-minimiser-keeps-the-order",
        PAPER,
        "|f| <= B: classes are in the order of q but for those cut off at one end; none is where "
        "lam log(q_max/q_min) <= 2B",
        np.concatenate([steps, spread], axis=-1),
        "==",
        np.concatenate(
            [np.ones(steps.shape), np.minimum(2 * bound, temperature * np.ptp(logs, axis=-1, keepdims=True))],
            axis=-1,
        ),
        tolerance_float32=1e-5,
    )


def hot_risk_is_linear(logits: jax.Array, probabilities: jax.Array, *, margin: float) -> Check:
    """At infinite temperature the risk is linear in the scores."""
    num_classes = logits.shape[-1]
    constant = margin * (num_classes - 1) / num_classes
    return Check(
        "hot-risk-is-linear",
        "derived",
        "lam = inf: risk(f) = c (K-1)/K - (q - u).f",
        conditional_risk(losses.ldr_kl, logits, probabilities, temperature=jnp.inf, margin=margin),
        "==",
        constant - ((probabilities - 1 / num_classes) * logits).sum(-1),
        scale=1 + jnp.abs(logits).max(-1),
        tolerance_float32=1e-5,
    )


def hot_minimisers(free: jax.Array, log_probabilities: jax.Array) -> Check:
    """At infinite temperature no bounded scores beat sign(q - u) in the box, (q - u) / ||q - u|| in the
    ball.
    """
    probabilities = jax.nn.softmax(log_probabilities)
    above = probabilities - 1 / probabilities.size
    norm = jnp.sqrt((above**2).sum())
    in_box, in_ball = jnp.tanh(free), free / jnp.sqrt(1 + (free**2).sum())
    on_simplex = jax.nn.softmax(free)
    best_on_simplex = jax.nn.one_hot(jnp.argmax(probabilities), free.size, dtype=free.dtype)
    risk = functools.partial(conditional_risk, losses.ldr_kl, temperature=jnp.inf)
    scores = jnp.stack([jnp.sign(above), above / norm, best_on_simplex, in_box, in_ball, on_simplex])
    risks = risk(scores, jnp.broadcast_to(probabilities, scores.shape))
    return Check(
        "hot-minimisers",
        PAPER,
        "lam = inf: least risk at B sign(q - u) in the box, (q - u)/||q - u|| in the ball, e_argmax on "
        "the simplex",
        risks[:3],
        "<=",
        risks[3:],
        tolerance_float32=1e-5,
    )


# Symmetry


def hot_loss_is_symmetric(logits: jax.Array, *, margin: float) -> Check:
    """At infinite temperature the losses of all labels sum to a constant."""
    num_classes = logits.shape[-1]
    return Check(
        "hot-loss-is-symmetric",
        PAPER,
        "lam = inf: sum_y loss(f, y) = c (K-1) for every f",
        sum_over_labels(losses.ldr_kl, logits, temperature=jnp.inf, margin=margin),
        "==",
        margin * (num_classes - 1),
        scale=num_classes * (1 + jnp.abs(logits).max(-1)),
        tolerance_float32=1e-5,
    )


def tempered_loss_is_not_symmetric(logits: jax.Array, *, temperature: jax.Array) -> Check:
    """At finite temperatures the sum over labels varies with the scores, being K times a divergence-like
    mean.
    """
    sums = sum_over_labels(losses.ldr_kl, logits, temperature=temperature)
    return Check(
        "tempered-loss-is-not-symmetric",
        "derived",
        "lam < inf, c = 0: sum_y loss(f, y) = lam K KL(u, softmax(f / lam)), which varies with f",
        sums,
        "==",
        -temperature
        * (jax.nn.log_softmax(logits / temperature[..., None], -1) + math.log(logits.shape[-1])).sum(-1),
        scale=logits.shape[-1] * (1 + jnp.abs(logits).max(-1) + temperature),
        tolerance_float32=1e-5,
    )


def normalised_linear_loss(logits: jax.Array, labels: jax.Array, **_: object) -> jax.Array:
    """``mean(g) - g_y`` with ``g = f / max(1, ||f||)``: symmetric, bounded, consistent for all k; "
    "classes last.

    Example:
      >>> print(normalised_linear_loss(jnp.array([3.0, -3.0]), jnp.array(0)).round(4))
      -0.7071
    """
    norm = jnp.sqrt((logits**2).sum(-1, keepdims=True))
    shrunk = logits / jnp.maximum(1, norm)
    return shrunk.mean(-1) - jnp.take_along_axis(shrunk, labels[..., None], axis=-1)[..., 0]


def symmetric_and_consistent_sum(logits: jax.Array) -> Check:
    """The counterexample is symmetric."""
    return Check(
        "counterexample-is-symmetric",
        "derived",
        "mean(g) - g_y with g = f / max(1, ||f||) sums to 0 over the labels for every f",
        sum_over_labels(normalised_linear_loss, logits),
        "==",
        0.0,
        tolerance_float32=1e-5,
    )


def counterexample_is_bounded(logits: jax.Array, labels: jax.Array) -> Check:
    """The counterexample is defined at all scores and bounded there."""
    num_classes = logits.shape[-1]
    value = normalised_linear_loss(logits, labels)
    return Check(
        "counterexample-is-bounded",
        "derived",
        "|mean(g) - g_y| <= sqrt(1 - 1/K) at all scores, so that a constant makes it non-negative",
        jnp.abs(value),
        "<=",
        math.sqrt(1 - 1 / num_classes),
        tolerance_float32=1e-6,
    )


def symmetric_and_consistent(probabilities: np.ndarray, rng: np.random.Generator) -> Iterator[Check]:
    """The counterexample's minimisers, found from random starts, order all classes as q does.

    Zhu et al. state that a symmetric top-1 consistent loss cannot be consistent for all k. Without a further
    hypothesis (such as: the loss vectors fill a simplex, as those of the mean absolute error do) this is
    refuted here.
    """
    risk = quick_jit(jax.value_and_grad(functools.partial(conditional_risk, normalised_linear_loss)))
    ends = [
        oracles.minimise(
            lambda f: f, rng.normal(0, 0.1, q.size), compiled=lambda f, q=q: risk(f, jnp.asarray(q))
        )
        for q in probabilities
    ]
    found, least = np.array([scores for scores, _ in ends]), np.array([value for _, value in ends])
    above = probabilities - 1 / probabilities.shape[-1]
    norm = np.linalg.norm(above, axis=-1, keepdims=True)
    yield Check(
        "counterexample-minimisers",
        "derived",
        "BFGS on its risk ends at t (q - u)/||q - u|| with t >= 1, and at the risk -||q - u||",
        np.concatenate(
            [found / np.maximum(1, np.linalg.norm(found, axis=-1, keepdims=True)), least[:, None]], -1
        ),
        "==",
        np.concatenate([above / norm, -norm], axis=-1),
        tolerance=1e-5,  # BFGS: the risk is flat where scores are long
        tolerance_float32=2e-2,
    )
    yield Check(
        "symmetric-yet-consistent",
        "derived, against a claim of Zhu et al. (2023)",
        "its minimisers order all classes as q does: symmetry does not exclude consistency for all k",
        order_slack(centred(found), probabilities),
        ">=",
        0.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 21)
    few = oracles.separated_probabilities(rng, 12, 5)
    logits = jnp.asarray(oracles.draw_scores(rng, 256, 6))
    probabilities = jnp.asarray(oracles.draw_probabilities(rng, 256, 6))
    temperature = jnp.asarray(10 ** rng.uniform(-0.5, 1, 256))
    yield bounded_minimiser_is_clipped(few[:6], 0.7, 0.6)
    yield bounded_minimiser_keeps_the_order(oracles.draw_probabilities(rng, 60, 4), 0.7, 0.6)
    yield quick_jit(functools.partial(hot_risk_is_linear, margin=0.5))(logits, probabilities)
    yield falsify.search(hot_minimisers, (rng.normal(size=(128, 6)), rng.normal(size=(128, 6)))).check
    yield quick_jit(functools.partial(hot_loss_is_symmetric, margin=0.5))(logits)
    yield quick_jit(tempered_loss_is_not_symmetric)(logits, temperature=temperature)
    yield quick_jit(symmetric_and_consistent_sum)(logits)
    yield quick_jit(counterexample_is_bounded)(logits, jnp.asarray(oracles.draw_labels(rng, 256, 6)))
    yield from symmetric_and_consistent(few, rng)
