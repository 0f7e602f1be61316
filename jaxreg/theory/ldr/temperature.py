"""The loss with a Kullback-Leibler penalty as a function of its temperature: slope, limits, expansions,
accuracy.
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
from jaxreg.theory.ldr.value import PAPER, draw, gap_size, kl_to_uniform, label_gaps
from jaxreg.theory.oracles import quick_jit


def slope_in_the_temperature(
    logits: jax.Array, labels: jax.Array, *, temperature: jax.Array, margin: jax.Array
) -> Check:
    """The derivative in the temperature is minus the divergence of the weights."""
    slope = jax.grad(lambda lam: losses.ldr_kl(logits, labels, temperature=lam, margin=margin).sum())(
        temperature
    )
    weights = jax.nn.softmax(label_gaps(logits, labels, margin) / temperature[..., None], axis=-1)
    return Check(
        "slope-in-the-temperature",
        "derived",
        "the derivative in lam is -KL(p, uniform)",
        slope,
        "==",
        -kl_to_uniform(weights),
        scale=gap_size(logits, labels, margin) / temperature + 1,
        tolerance_float32=1e-5,
    )


def curvature_in_the_temperature(
    logits: jax.Array, labels: jax.Array, *, temperature: jax.Array, margin: jax.Array
) -> Check:
    """The second derivative in the temperature is the variance of the gaps over its cube."""

    def slope(lam: jax.Array) -> jax.Array:
        return jax.grad(lambda t: losses.ldr_kl(logits, labels, temperature=t, margin=margin).sum())(lam)

    _, curvature = jax.jvp(slope, (temperature,), (jnp.ones_like(temperature),))
    scaled = label_gaps(logits, labels, margin) / temperature[..., None]
    weights = jax.nn.softmax(scaled, axis=-1)
    centred = scaled - (weights * scaled).sum(-1, keepdims=True)
    return Check(
        "curvature-in-the-temperature",
        "derived",
        "the second derivative in lam is Var_p(z) / lam^3",
        curvature * temperature,
        "==",
        (weights * centred**2).sum(-1),
        scale=1 + (scaled**2).max(-1),
        tolerance_float32=1e-5,
    )


def decreasing_in_the_temperature(
    logits: jax.Array, labels: jax.Array, log_temperatures: jax.Array, *, margin: ArrayLike
) -> Check:
    """A larger temperature never gives a larger loss; ``log_temperatures [..., 2]`` in any order."""
    low, high = (jnp.exp(reduce(log_temperatures, axis=-1)) for reduce in (jnp.min, jnp.max))
    return Check(
        "decreasing-in-the-temperature",
        PAPER,
        "lam <= lam' implies loss(lam) >= loss(lam')",
        losses.ldr_kl(logits, labels, temperature=low, margin=margin),
        ">=",
        losses.ldr_kl(logits, labels, temperature=high, margin=margin),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def convex_in_the_temperature(
    logits: jax.Array, labels: jax.Array, log_temperatures: jax.Array, *, margin: ArrayLike
) -> Check:
    """Between two temperatures the loss stays below the chord."""
    low, high = jnp.exp(log_temperatures[..., 0]), jnp.exp(log_temperatures[..., 1])
    loss = functools.partial(losses.ldr_kl, logits, labels, margin=margin)
    return Check(
        "convex-in-the-temperature",
        "derived",
        "the loss half-way between two temperatures is at most the mean of their losses",
        loss(temperature=(low + high) / 2),
        "<=",
        (loss(temperature=low) + loss(temperature=high)) / 2,
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def between_mean_and_maximum(
    logits: jax.Array, labels: jax.Array, *, log_temperature: ArrayLike, margin: ArrayLike
) -> Check:
    """The loss lies between the mean and the largest gap, and above minus the temperature times log K."""
    gaps = label_gaps(logits, labels, margin)
    temperature = jnp.exp(jnp.asarray(log_temperature))
    value = losses.ldr_kl(logits, labels, temperature=temperature, margin=margin)
    floor = -temperature * math.log(logits.shape[-1])
    return Check(
        "between-mean-and-maximum",
        "derived",
        "mean z <= loss <= max z, and loss > -lam log K",
        jnp.stack([gaps.mean(-1), value, floor]),
        "<=",
        jnp.stack([value, gaps.max(-1), value]),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def infimum_is_minus_log_classes(num_classes: int, temperature: jax.Array) -> Check:
    """The floor -temperature log K is approached by a score vector far on the label's side."""
    scores = oracles.FAR * temperature[:, None] * jax.nn.one_hot(0, num_classes, dtype=temperature.dtype)
    labels = jnp.zeros(temperature.shape, jnp.int32)
    return Check(
        "infimum-is-minus-log-classes",
        "derived",
        "the infimum over f is -lam log K",
        losses.ldr_kl(scores, labels, temperature=temperature) / temperature,
        "==",
        -math.log(num_classes),
        tolerance_float32=1e-5,
    )


def cold_limit_is_the_largest_gap(logits: jax.Array, labels: jax.Array, *, margin: jax.Array) -> Check:
    """Temperature zero is the limit of small temperatures: the largest gap, Crammer and Singer's loss."""
    largest = label_gaps(logits, labels, margin).max(-1)
    # The loss misses its limit by at most lam log K, here far below rounding.
    tiny = losses.ldr_kl(logits, labels, temperature=1e-30, margin=margin)
    zero = losses.ldr_kl(logits, labels, temperature=0.0, margin=margin)
    return Check(
        "cold-limit-is-the-largest-gap",
        PAPER,
        "lam -> 0 gives max z, and lam = 0 is that limit (Crammer and Singer's loss)",
        jnp.stack(
            [tiny, zero, losses.crammer_singer(logits, labels, margin=jnp.where(margin > 0, margin, 1.0))]
        ),
        "==",
        jnp.stack(
            [largest, largest, label_gaps(logits, labels, jnp.where(margin > 0, margin, 1.0)).max(-1)],
        ),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def hot_limit_is_the_mean_gap(logits: jax.Array, labels: jax.Array, *, margin: jax.Array) -> Check:
    """An infinite temperature is the limit of large ones: the mean gap, margin included."""
    num_classes = logits.shape[-1]
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    mean = logits.mean(-1) - own + margin * (num_classes - 1) / num_classes
    # The loss misses its limit by at most (largest gap)^2 / lam, here far below rounding.
    large = losses.ldr_kl(logits, labels, temperature=1e20, margin=margin)
    infinite = losses.ldr_kl(logits, labels, temperature=jnp.inf, margin=margin)
    return Check(
        "hot-limit-is-the-mean-gap",
        PAPER,
        "lam -> inf gives mean f - f_y + c (K-1)/K, and lam = inf is that limit",
        jnp.stack([large, infinite]),
        "==",
        jnp.stack([mean, mean]),
        scale=gap_size(logits, labels, margin),
        tolerance_float32=1e-5,
    )


def unit_temperature_is_cross_entropy(logits: jax.Array, labels: jax.Array) -> Check:
    """At temperature one the loss is the cross-entropy less a constant."""
    return Check(
        "unit-temperature-is-cross-entropy",
        PAPER,
        "lam = 1, c = 0 gives CE - log K",
        losses.ldr_kl(logits, labels, temperature=1.0),
        "==",
        optax.softmax_cross_entropy_with_integer_labels(logits, labels) - math.log(logits.shape[-1]),
        scale=gap_size(logits, labels),
        tolerance_float32=1e-5,
    )


def hot_expansion(logits: jax.Array, labels: jax.Array, *, temperature: jax.Array) -> Check:
    """Large temperatures: mean, variance and skewness of the gaps, up to the third power of 1 / temperature.

    By Taylor's theorem the remainder is the fourth cumulant of a tilted distribution over ``24
    temperature^3``, and a fourth cumulant is at most ``range^4 / 8`` in size.
    """
    gaps = label_gaps(logits, labels)
    mean, spread = gaps.mean(-1), gaps.max(-1) - gaps.min(-1)
    centred = gaps - mean[..., None]
    variance, third = (centred**2).mean(-1), (centred**3).mean(-1)
    expansion = mean + variance / (2 * temperature) + third / (6 * temperature**2)
    remainder = jnp.abs(losses.ldr_kl(logits, labels, temperature=temperature) - expansion)
    return Check(
        "hot-expansion",
        "derived",
        "|loss - mean z - var(z) / (2 lam) - m3(z) / (6 lam^2)| <= range^4 / (192 lam^3)",
        remainder,
        "<=",
        spread**4 / (192 * temperature**3),
        scale=gap_size(logits, labels),
        tolerance_float32=1e-5,
    )


def cold_expansion(multiplicity: int, num_classes: int, temperature: jax.Array) -> Check:
    """Small temperatures with an m-fold largest gap: the maximum plus temperature log(m / K)."""
    scores = jnp.where(jnp.arange(num_classes) < multiplicity, 1.0, -1.0)
    labels = jnp.full(temperature.shape, num_classes - 1, jnp.int32)
    logits = jnp.broadcast_to(scores, (*temperature.shape, num_classes))
    return Check(
        "cold-expansion",
        "derived",
        "loss = max z + lam log(m / K) + o(lam) for an m-fold maximum",
        (losses.ldr_kl(logits, labels, temperature=temperature) - 2.0) / temperature,
        "==",
        math.log(multiplicity / num_classes),
        # A gap of 2 at lam <= 0.05 leaves exp(-40); dividing by lam magnifies rounding twentyfold and more.
        scale=1 + 2 / temperature,
        tolerance_float32=1e-5,
    )


def accurate_at_every_temperature(rng: np.random.Generator) -> Check:
    """In float32 the loss is right to a few roundings from temperature 1e-6 to 1e20.

    The usual form, log-mean-exp of shifted gaps, loses every digit from 1e8 on.
    """
    temperatures = np.logspace(-6, 20, 53).astype(np.float32)
    values, exact, scale = [], [], []
    compiled = jax.jit(losses.ldr_kl)
    for num_classes in (2, 10, 100):
        scores = (10 * rng.standard_normal(num_classes)).astype(np.float32)
        logits = np.broadcast_to(scores, (temperatures.size, num_classes))
        labels = np.zeros(temperatures.size, np.int32)
        values.append(np.asarray(compiled(logits, labels, temperature=temperatures), np.float64))
        gaps = oracles.gaps(scores.astype(np.float64), 0)
        exact.append([oracles.log_mean_exp(gaps, float(lam)) for lam in temperatures])
        scale.append(np.full(temperatures.size, np.abs(scores).max()))
    return Check(
        "float32-at-every-temperature",
        "derived",
        "float32 loss for lam = 1e-6 ... 1e20 and K = 2, 10, 100 against 60-digit arithmetic",
        np.array(values),
        "==",
        np.array(exact),
        scale=np.array(scale),
        tolerance=6e-7,  # five float32 roundings of the largest score
        tolerance_float32=6e-7,
    )


def statements(seed: int) -> Iterator[Check]:
    """Derivatives, monotonicity, limits, expansions and accuracy in the temperature."""
    logits, labels, both = draw(seed + 2, 256, 6)
    margin = {"margin": both["margin"]}
    yield quick_jit(slope_in_the_temperature)(logits, labels, **both)
    yield quick_jit(curvature_in_the_temperature)(logits, labels, **both)
    # Where the searches start: scores, labels, pairs of logarithms of temperatures.
    rng = np.random.default_rng(seed + 3)
    cases = (rng.normal(0, 3, (256, 6)), oracles.draw_labels(rng, 256, 6), rng.uniform(-3, 3, (256, 2)))
    for claim in (decreasing_in_the_temperature, convex_in_the_temperature):
        yield falsify.search(functools.partial(claim, margin=0.5), cases).check
    yield falsify.search(
        lambda f, y, t: between_mean_and_maximum(f, y, log_temperature=t[0], margin=0.5), cases, steps=60
    ).check
    yield quick_jit(functools.partial(infimum_is_minus_log_classes, 6))(both["temperature"])
    yield quick_jit(cold_limit_is_the_largest_gap)(logits, labels, **margin)
    yield quick_jit(hot_limit_is_the_mean_gap)(logits, labels, **margin)
    yield quick_jit(unit_temperature_is_cross_entropy)(logits, labels)
    yield falsify.search(
        lambda f, y, t: hot_expansion(f, y, temperature=jnp.ptp(f) * jnp.exp(t[0])), cases, steps=60
    ).check
    yield quick_jit(functools.partial(cold_expansion, 3, 8))(jnp.logspace(-4, math.log10(0.05), 40))
    yield accurate_at_every_temperature(np.random.default_rng(seed + 4))
