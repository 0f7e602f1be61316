"""The noise-robust losses: limits, ranges, and gradients as functions of the label's probability."""

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
from jaxreg.theory.noise_robust.definitions import ENGLESSON, ZHANG, ZHOU
from jaxreg.theory.oracles import quick_jit

# Limits


def loss_and_cross_entropy(logits: jax.Array, labels: jax.Array, *, log_q: jax.Array) -> Check:
    """GCE lies below the cross-entropy, at most q CE^2 / 2 below: the limit q -> 0 with its rate."""
    q = jnp.exp(log_q)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    loss = losses.generalized_cross_entropy(logits, labels, q=q)
    return Check(
        "gce-tends-to-cross-entropy",
        ZHANG,
        "0 <= CE - GCE <= q CE^2 / 2, so that q -> 0 gives the cross-entropy",
        jnp.stack([loss, entropy - loss]),
        "<=",
        jnp.stack([entropy, q * entropy**2 / 2]),
        scale=1 + entropy,
        tolerance_float32=1e-5,
    )


def end_points_are_one_probability(logits: jax.Array, labels: jax.Array) -> Check:
    """At exponent one GCE, AUL and AGCE are all the label's missing probability, half the mean absolute
    error.
    """
    missing = 1 - jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
    every = [
        losses.generalized_cross_entropy(logits, labels, q=1.0),
        losses.asymmetric_unhinged(logits, labels, a=1.7, q=1.0),
        losses.asymmetric_generalized_cross_entropy(logits, labels, a=0.7, q=1.0),
        losses.mean_absolute_error(logits, labels) / 2,
        losses.reverse_cross_entropy(logits, labels, log_zero=-3.0) / 3,
    ]
    return Check(
        "exponent-one-is-linear",
        "derived",
        "q = 1: GCE = AUL = AGCE = 1 - s_y = MAE / 2 = RCE / -A",
        jnp.stack(every),
        "==",
        missing,
        tolerance_float32=1e-5,
    )


def functions_of_one_probability(logits: jax.Array, labels: jax.Array) -> Check:
    """Two classes at the same odds have the loss of all K: nothing but the label's probability counts."""
    others = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    odds = jax.nn.logsumexp(others, -1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    two, first = jnp.stack([jnp.zeros_like(odds), odds], -1), jnp.zeros_like(labels)
    every = [
        (losses.comp_sum, {}),
        (losses.symmetric_cross_entropy, {}),
        (losses.generalized_cross_entropy, {}),
        (losses.truncated_generalized_cross_entropy, {}),
        (losses.jensen_shannon, {"label_weight": 0.3}),
        (losses.reverse_cross_entropy, {}),
        (losses.asymmetric_unhinged, {}),
        (losses.asymmetric_generalized_cross_entropy, {}),
        (losses.mean_absolute_error, {}),
    ]
    return Check(
        "functions-of-one-probability",
        "derived",
        "CE, SCE, GCE, truncated GCE, JS, RCE, AUL, AGCE, MAE: two classes at the same s_y have that loss",
        jnp.stack([loss(logits, labels, **hyper) for loss, hyper in every]),
        "==",
        jnp.stack([loss(two, first, **hyper) for loss, hyper in every]),
        scale=1 + jnp.abs(odds),
        tolerance_float32=1e-5,
    )


def curvature_in_the_probability(free: jax.Array, log_powers: jax.Array) -> Check:
    """AUL up to exponent one and AGCE from there on are concave in the label's probability."""
    probability = jax.nn.sigmoid(free)
    middle = probability.mean()
    low, high = jax.nn.sigmoid(log_powers[0]), 1 + jnp.exp(log_powers[0])
    offset = 0.1 + jnp.exp(log_powers[1])

    def both(s: jax.Array) -> jax.Array:
        scores = jnp.stack([jnp.log(s), jnp.log1p(-s)])
        label = jnp.zeros((), jnp.int32)
        return jnp.stack(
            [
                losses.asymmetric_unhinged(scores, label, a=1 + offset, q=low),
                losses.asymmetric_generalized_cross_entropy(scores, label, a=offset, q=high),
            ]
        )

    chord = (both(probability[0]) + both(probability[1])) / 2
    return Check(
        "asymmetric-losses-are-concave",
        ZHOU,
        "AUL with q <= 1 and AGCE with q >= 1 are concave in s_y: at least the chord half-way",
        both(middle),
        ">=",
        chord,
        scale=1 + chord,
        tolerance_float32=1e-5,
    )


def jensen_shannon_tends_to_cross_entropy(logits: jax.Array, labels: jax.Array) -> Check:
    """A vanishing label weight gives the cross-entropy."""
    weight = 1e-7
    return Check(
        "jensen-shannon-small-weight",
        ENGLESSON,
        "the weight of the label -> 0 gives the cross-entropy (here 1e-7)",
        losses.jensen_shannon(logits, labels, label_weight=jnp.full(labels.shape, weight)),
        "==",
        optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        # The first term left out is the weight times 1 / s_y.
        scale=1 + jnp.exp(optax.softmax_cross_entropy_with_integer_labels(logits, labels)),
        tolerance=1e-6,
        tolerance_float32=1e-4,
    )


def jensen_shannon_tends_to_absolute_error(free: jax.Array, log_rest: jax.Array) -> Check:
    """A label weight near one gives half the mean absolute error, but only at a logarithmic rate."""
    label = jnp.zeros((), jnp.int32)
    # Taken from the weight as it rounds, and well away from a weight of 1.
    weight = 1 - jnp.maximum(jnp.exp(-jnp.abs(log_rest)), 16 * jnp.finfo(log_rest.dtype).eps)
    rest = 1 - weight
    error = losses.jensen_shannon(free, label, label_weight=weight)
    return Check(
        "jensen-shannon-large-weight",
        "derived",
        "|JS - (1 - s_y)| <= 1 / log(1 / (1 - w)), so that a weight w -> 1 gives MAE / 2, slowly",
        jnp.abs(error - losses.mean_absolute_error(free, label) / 2),
        "<=",
        -1 / jnp.log(rest),
        tolerance_float32=1e-5,
    )


def truncation_is_an_optimal_weight(logits: jax.Array, labels: jax.Array) -> Check:
    """The truncated loss keeps an example iff its loss is below the ceiling; the others have no gradient."""
    q, threshold = 0.7, 0.4
    ceiling = (1 - threshold**q) / q
    full = losses.generalized_cross_entropy(logits, labels, q=q)
    loss = functools.partial(losses.truncated_generalized_cross_entropy, q=q, threshold=threshold)
    gradient = jnp.abs(jax.grad(lambda f: loss(f, labels).sum())(logits)).sum(-1)
    untruncated = jnp.abs(
        jax.grad(lambda f: losses.generalized_cross_entropy(f, labels, q=q).sum())(logits)
    ).sum(-1)
    return Check(
        "truncation-is-an-optimal-weight",
        ZHANG,
        "truncated GCE = min over w in [0, 1] of w GCE + (1 - w) (1-k^q)/q; zero gradient where s_y < k",
        jnp.stack([loss(logits, labels), gradient]),
        "==",
        jnp.stack([jnp.minimum(full, ceiling), jnp.where(full < ceiling, untruncated, 0)]),
        tolerance_float32=1e-5,
    )


def both_forms_of_symmetric_cross_entropy(logits: jax.Array, labels: jax.Array) -> Check:
    """One balance weight and a positive constant say the same as two weights."""
    balance, constant = 0.3, 4.0
    own = jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return Check(
        "symmetric-cross-entropy-one-balance",
        "derived",
        "(1-b) CE + b A (1 - s_y) is the two-weight form with weights 1-b, b and log 0 = -A",
        losses.symmetric_cross_entropy(
            logits, labels, ce_weight=1 - balance, rce_weight=balance, log_zero=-constant
        ),
        "==",
        (1 - balance) * entropy + balance * constant * (1 - own),
        scale=1 + entropy,
        tolerance_float32=1e-5,
    )


# Ranges and gradients


def _largest(num_classes: int) -> dict[str, tuple[dict[str, float], float]]:
    """Hyper-parameters of each bounded loss, and its supremum."""
    w = 0.3
    heaviest = -w * math.log(w) - (1 - w) * math.log(1 - w)
    return {
        "mean_absolute_error": ({}, 2.0),
        "brier": ({}, 2.0),
        "generalized_cross_entropy": ({"q": 0.7}, 1 / 0.7),
        "truncated_generalized_cross_entropy": ({"q": 0.7, "threshold": 0.5}, (1 - 0.5**0.7) / 0.7),
        "reverse_cross_entropy": ({"log_zero": -4.0}, 4.0),
        "normalized_cross_entropy": ({}, 1.0),
        "asymmetric_unhinged": ({"a": 1.5, "q": 0.9}, (1.5**0.9 - 0.5**0.9) / 0.9),
        "asymmetric_generalized_cross_entropy": ({"a": 1.0, "q": 2.0}, 1.5),
        "jensen_shannon": ({"label_weight": w}, heaviest / -((1 - w) * math.log(1 - w))),
        "robust_log_loss": (
            {"a": 0.5},
            math.log(1.5 / 0.5) - math.log(0.5) + math.log(0.5 + 1 / (num_classes - 1)),
        ),
    }


def within_its_range(logits: jax.Array) -> Check:
    """Every bounded loss of one score vector lies between 0 and its supremum."""
    label = jnp.zeros((), jnp.int32)
    table = _largest(logits.shape[-1])
    values = jnp.stack([getattr(losses, name)(logits, label, **hyper) for name, (hyper, _) in table.items()])
    suprema = jnp.asarray([supremum for _, supremum in table.values()], values.dtype)
    return Check(
        "bounded-losses-stay-in-range",
        "derived",
        f"0 <= loss <= its supremum, for {len(table)} bounded losses",
        jnp.stack([jnp.zeros_like(values), values]),
        "<=",
        jnp.stack([values, suprema]),
        tolerance_float32=1e-5,
    )


def reaches_its_range(num_classes: int) -> Check:
    """Extreme scores reach both ends: 300 ahead gives 0, 300 behind, the others equal or one ahead, the
    supremum.
    """
    table = _largest(num_classes)
    spread = jnp.where(jnp.arange(num_classes) == 0, -300.0, 0.0)
    one_ahead = jnp.where(jnp.arange(num_classes) == 1, 300.0, 0.0)
    # The Brier score needs one wrong class ahead, the robust log loss all wrong ones equal; the others do not
    # mind. Normalised cross-entropy misses 1 by about log(K - 1) / 300 at such scores: it takes larger ones.
    worst = {"brier": one_ahead, "normalized_cross_entropy": 1e15 * spread}
    scores = jnp.stack([jnp.stack([-spread, worst.get(name, spread)]) for name in table])

    def at_both_ends(scores: jax.Array) -> jax.Array:
        labels = jnp.zeros(2, jnp.int32)
        pairs = zip(table.items(), scores, strict=True)
        return jnp.stack([getattr(losses, name)(ends, labels, **hyper) for (name, (hyper, _)), ends in pairs])

    reached = quick_jit(at_both_ends)(scores)
    expected = [[0.0, supremum] for _, supremum in table.values()]
    return Check(
        "bounded-losses-reach-their-range",
        "derived",
        f"both ends of the range are reached by extreme scores, for {len(table)} bounded losses",
        reached,
        "==",
        np.array(expected),
        tolerance_float32=1e-5,
    )


def largest_jensen_shannon() -> Check:
    """The supremum at three weights of the label, as the theory page prints it."""
    weights = jnp.array([0.1, 0.5, 0.9])
    scores = jnp.broadcast_to(jnp.array([-300.0, 0.0, 1.0]), (3, 3))
    return Check(
        "largest-jensen-shannon",
        ENGLESSON,
        "s_y -> 0: JS tends to 3.428, 2 and 1.412 for a weight of the label of 0.1, 0.5 and 0.9",
        losses.jensen_shannon(scores, jnp.zeros(3, jnp.int32), label_weight=weights),
        "==",
        np.array([3.428, 2.0, 1.412]),
        tolerance=6e-4,  # as many digits as are claimed
        tolerance_float32=6e-4,
    )


def gradient_by_probability(logits: jax.Array, labels: jax.Array) -> Check:
    """A loss of s_y alone has gradient (s - e_y) times a factor that vanishes with s_y for the bounded
    ones.
    """
    s = jax.nn.softmax(logits)
    own = jnp.take_along_axis(s, labels[..., None], axis=-1)[..., 0]
    w, a, q = 0.3, 1.5, 0.7
    mixed = w + (1 - w) * own
    factors = {
        "mean_absolute_error": ({}, 2 * own),
        "generalized_cross_entropy": ({"q": q}, own**q),
        "reverse_cross_entropy": ({"log_zero": -4.0}, 4 * own),
        "asymmetric_unhinged": ({"a": a, "q": q}, own * (a - own) ** (q - 1)),
        "asymmetric_generalized_cross_entropy": ({"a": a, "q": q}, own * (a + own) ** (q - 1)),
        "jensen_shannon": (
            {"label_weight": w},
            own * (jnp.log(mixed) - jnp.log(own) - math.log(1 - w)) / -math.log(1 - w),
        ),
        "symmetric_cross_entropy": ({"ce_weight": 0.1, "rce_weight": 1.0}, 0.1 + 4 * own),
    }
    direction = s - jax.nn.one_hot(labels, logits.shape[-1], dtype=s.dtype)
    gradients = [
        jax.grad(lambda f, name=name, hyper=hyper: getattr(losses, name)(f, labels, **hyper).sum())(logits)
        for name, (hyper, _) in factors.items()
    ]
    return Check(
        "gradient-fades-with-the-probability",
        "derived",
        "gradient = factor (s - e_y); e.g. s_y^q for GCE, 2 s_y for MAE: it fades for confidently wrong "
        "examples",
        jnp.stack(gradients),
        "==",
        jnp.stack([factor[..., None] * direction for _, factor in factors.values()]),
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 41)
    logits = jnp.asarray(oracles.draw_scores(rng, 256, 6, largest_scale=5.0))
    labels = jnp.asarray(oracles.draw_labels(rng, 256, 6))
    starts = rng.normal(0, 2, (128, 6)), oracles.draw_labels(rng, 128, 6), rng.uniform(-6, 0, 128)
    yield falsify.evaluate(lambda f, y, log_q: loss_and_cross_entropy(f, y, log_q=log_q), starts)
    claims = (
        end_points_are_one_probability,
        functions_of_one_probability,
        jensen_shannon_tends_to_cross_entropy,
        truncation_is_an_optimal_weight,
        both_forms_of_symmetric_cross_entropy,
        gradient_by_probability,
    )
    for claim in claims:
        yield quick_jit(claim)(logits, labels)
    cases = rng.normal(0, 2, (128, 2)), rng.normal(0, 1, (128, 2))
    yield falsify.search(curvature_in_the_probability, cases, steps=60).check
    weights = jnp.asarray(rng.normal(0, 3, (128, 6))), jnp.asarray(rng.uniform(-20, -1, 128))
    yield falsify.evaluate(jensen_shannon_tends_to_absolute_error, weights)
    yield falsify.evaluate(within_its_range, (oracles.draw_scores(rng, 512, 6, largest_scale=300.0),))
    yield reaches_its_range(6)
    yield quick_jit(largest_jensen_shannon)()
