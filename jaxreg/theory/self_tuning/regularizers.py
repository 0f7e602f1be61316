"""What is tuned: means of masks, areas of holes, ranges of factors, and penalties that are means."""

import colorsys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import bilevel
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit

PAPER = "MacKay et al. (2019)"


def masks_keep_the_mean(seed: int, draws: int = 40_000) -> Check:
    """Inverted dropout: the mean over masks is the array; the distance is in five standard errors."""
    rates = np.array([0.05, 0.3, 0.5, 0.8, 0.95])
    key = jax.random.key(seed)

    @quick_jit
    def means(key, rates):
        ones = jnp.ones((5, draws), rates.dtype)
        tree = bilevel.drop_connect(key, (ones, 2 * ones), 0.3)
        rows = bilevel.embedding_dropout(key, jnp.ones((draws, 2), rates.dtype), 0.3)
        sequences = bilevel.variational_dropout(key, jnp.ones((draws, 3, 2), rates.dtype), 0.3)
        maps = bilevel.channel_dropout(key, jnp.ones((draws, 2, 2, 2), rates.dtype), 0.3)
        shared = [tree[0].mean(), rows[:, 0].mean(), sequences[:, 0].mean(), maps[:, 0, 0].mean()]
        return bilevel.dropout(key, ones, rates).mean(-1), jnp.stack(shared)

    found, shared = means(key, jnp.asarray(rates))
    error = np.sqrt(rates / (1 - rates) / draws)
    sizes = np.array([5 * draws, draws, 2 * draws, 2 * draws])
    shared_error = np.sqrt(0.3 / 0.7 / sizes)
    return Check(
        "masks-keep-the-mean",
        PAPER,
        "E[mask / (1 - p)] = 1, for entries, weights, words, sequences and maps (5 standard errors)",
        jnp.abs(jnp.concatenate([found, shared]) - 1),
        "<=",
        5 * np.concatenate([error, shared_error]),
        tolerance=0.0,
        tolerance_float32=1e-6,
    )


def masks_are_shared(seed: int) -> Check:
    """One draw for both parts of a weight, for a word everywhere, a sequence at all times, a map everywhere.

    The sides are what differs along the axis that shares it, and how many draws there are.
    """

    @quick_jit
    def masked(key, ones):
        tree = bilevel.drop_connect(key, {"W": ones[0, 0], "W'": 2 * ones[0, 0]}, 0.5)
        words = bilevel.embedding_dropout(key, ones[0, 0], 0.5)
        sequences = bilevel.variational_dropout(key, ones[0], 0.5)
        maps = bilevel.channel_dropout(key, ones, 0.5)
        spread = [
            jnp.abs(tree["W'"] - 2 * tree["W"]).max(),
            jnp.ptp(words, axis=1).max(),
            jnp.ptp(sequences, axis=1).max(),
            jnp.ptp(maps, axis=(1, 2)).max(),
        ]
        # Half of what is not shared, in standard errors.
        parts = tree["W"], words[:, 0], sequences[:, 0], maps[:, 0, 0]
        return jnp.stack(spread), jnp.stack([jnp.abs(part.mean() - 1) * part.size**0.5 for part in parts])

    spread, errors = masked(jax.random.key(seed), jnp.ones((16, 16, 16, 16)))
    return Check(
        "masks-are-shared",
        PAPER,
        "one mask for W_elem and W_hyper, a whole word, all times of a sequence, a whole feature map",
        jnp.concatenate([spread, errors]),
        "<=",
        np.array([0.0] * 4 + [5.0] * 4),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def holes_have_the_expected_area(seed: int, draws: int = 8000) -> Check:
    """The mean area of a hole is that over all centres, counted; off the border it is exactly the square."""
    size, lengths = 9, np.array([0, 1, 2, 3, 4, 7, 9, 17])
    counted = [
        np.mean([sum(0 <= c - L // 2 + k < size for k in range(L)) for c in range(size)]) for L in lengths
    ]

    @quick_jit
    def areas(key, lengths):
        images = jnp.ones((len(lengths) * draws, size, size, 1), jnp.float32)
        cut = bilevel.cutout(key, images, jnp.repeat(lengths, draws))
        return jnp.sum(cut == 0, axis=(1, 2, 3)).reshape(-1, draws)

    found = np.asarray(areas(jax.random.key(seed), jnp.asarray(lengths)), np.float64)
    error = np.maximum(found.std(-1), 1e-9) / np.sqrt(draws)
    largest = np.minimum(lengths, size) ** 2
    return Check(
        "holes-have-the-expected-area",
        "derived",
        "side L: at most min(L, size)^2 pixels, attained; mean area (mean overlap)^2 (5 standard errors)",
        np.concatenate(
            [
                np.abs(found.mean(-1) - np.square(counted)) / (5 * error + 1e-12),
                found.max(-1) - largest,
                largest - found.max(-1),
            ]
        ),
        "<=",
        np.concatenate([np.ones(8), np.zeros(16)]),
        tolerance=0.0,
        tolerance_float32=1e-6,
    )


def factors_have_their_range(seed: int, draws: int = 20_000) -> Check:
    """The factor of an image lies between 1 / (1 + s) and 1 + s and its mean is above 1."""
    scales = np.array([0.05, 0.3, 1.0])
    ones = jnp.ones((3 * draws, 1))
    found = np.asarray(
        quick_jit(lambda key, s: bilevel.input_scale(key, ones.astype(s.dtype), jnp.repeat(s, draws)))(
            jax.random.key(seed), jnp.asarray(scales)
        ),
        np.float64,
    ).reshape(3, draws)
    low, high = 1 / (1 + scales), 1 + scales
    mean = 1 + scales**2 / (2 * (1 + scales))
    error = 5 * (high - low) / np.sqrt(12 * draws)
    return Check(
        "factors-have-their-range",
        f"{PAPER}, mean derived",
        "U(1/(1 + s), 1 + s): inside, mean 1 + s^2 / (2 (1 + s)) (5 standard errors)",
        np.concatenate([low - found.min(-1), found.max(-1) - high, np.abs(found.mean(-1) - mean) - error]),
        "<=",
        0.0,
        tolerance=1e-12,
        tolerance_float32=1e-6,
    )


def jitter_has_its_half_width(seed: int, draws: int = 4000) -> Check:
    """Factors of brightness, contrast and saturation lie within s of 1, turns of the hue within s of 0."""
    strength, key = 0.2, jax.random.key(seed)
    pixels = np.array([[0.5, 0.3, 0.4], [0.3, 0.5, 0.4]])

    @quick_jit
    def jittered(images):
        kinds = (bilevel.random_brightness, bilevel.random_contrast, bilevel.random_saturation,
                 bilevel.random_hue)  # fmt: skip
        return [kind(key, images, strength) for kind in kinds]

    images = jnp.broadcast_to(jnp.asarray(pixels), (draws, 1, 2, 3))
    bright, contrast, saturated, hued = (np.asarray(x, np.float64)[:, 0] for x in jittered(images))
    # Differences of pixels do not see what a contrast is about, nor those of channels the grey of a pixel.
    factors = [
        bright[:, 0, 0] / 0.5,
        (contrast[:, 0, 0] - contrast[:, 1, 0]) / 0.2,
        (saturated[:, 0, 0] - saturated[:, 0, 1]) / 0.2,
    ]
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in hued[:, 0]])
    turns = (hues - colorsys.rgb_to_hsv(*pixels[0])[0] + 0.5) % 1 - 0.5
    moves = np.stack([*(factor - 1 for factor in factors), turns])
    error = 5 * strength / np.sqrt(3 * draws)
    return Check(
        "jitter-has-its-half-width",
        f"{PAPER}, usual definitions",
        "factors U(1 - s, 1 + s), turns U(-s, s): inside, near both ends, mean amid (5 standard errors)",
        np.concatenate([np.abs(moves).max(-1) - strength, np.abs(moves.mean(-1)) - error,
                        0.99 * strength - moves.max(-1), 0.99 * strength + moves.min(-1)]),
        "<=",
        0.0,
        tolerance=1e-12,
        tolerance_float32=1e-5,
    )  # fmt: skip


def penalties_are_means(seed: int) -> Check:
    """Activation regularisation, temporal or not, is a mean over all entries; weight decay a half sum."""
    rng = np.random.default_rng(seed)
    hidden, rates = rng.normal(size=(4, 7, 5)), rng.uniform(0, 2, 4)
    h, r = jnp.asarray(hidden), jnp.asarray(rates)
    params = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}
    changes = np.square(hidden[:, 1:] - hidden[:, :-1])
    decay = sum(0.5 * weight * np.sum(params[name] ** 2) for name, weight in (("a", 0.3), ("b", 2.0)))

    @quick_jit
    def penalties(h, r, params):
        kinds = bilevel.activation_regularization, bilevel.temporal_activation_regularization
        whole = [kind(h, 1.5) for kind in kinds]
        whole.append(bilevel.weight_decay(params, {"a": 0.3, "b": 2.0}))
        return jnp.concatenate([*(kind(h, r) for kind in kinds), jnp.stack(whole)])

    wanted = [
        rates * np.mean(hidden**2, axis=(1, 2)),
        rates * np.mean(changes, axis=(1, 2)),
        [1.5 * np.mean(hidden**2), 1.5 * np.mean(changes), decay],
    ]
    return Check(
        "penalties-are-means",
        PAPER,
        "AR = a mean(h^2), TAR = b mean((h_t+1 - h_t)^2), decay = sum_g r_g |w_g|^2 / 2",
        penalties(h, r, jax.tree.map(jnp.asarray, params)),
        "==",
        np.concatenate(wanted),
        scale=10.0,
        tolerance_float32=1e-6,
    )


def strength_zero_is_the_identity(seed: int) -> Check:
    """At strength 0 nothing changes, to the last bit, and no gradient reaches any strength."""
    rng = np.random.default_rng(seed)
    images, key = jnp.asarray(rng.uniform(size=(4, 5, 5, 3))), jax.random.key(seed)
    functions = [bilevel.dropout, bilevel.channel_dropout, bilevel.cutout, bilevel.input_scale,
                 bilevel.random_brightness, bilevel.random_contrast, bilevel.random_saturation,
                 bilevel.random_hue]  # fmt: skip

    @quick_jit
    def evaluate(images, nothing, some):
        same = [function(key, images, nothing) for function in functions]
        slopes = [jax.grad(lambda s, f=function: jnp.sum(f(key, images, s)))(some) for function in functions]
        return jnp.stack(same), jnp.stack(slopes)

    zeros = jnp.zeros(4, images.dtype)
    same, slopes = evaluate(images, zeros, zeros + 0.25)
    return Check(
        "strength-zero-is-the-identity",
        "derived",
        "rate 0 returns the array; the derivative in the rate is 0",
        jnp.concatenate([(same - images).ravel(), slopes.ravel()]),
        "==",
        0.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """What is tuned."""
    yield masks_keep_the_mean(seed)
    yield masks_are_shared(seed)
    yield holes_have_the_expected_area(seed)
    yield factors_have_their_range(seed)
    yield jitter_has_its_half_width(seed)
    yield penalties_are_means(seed)
    yield strength_zero_is_the_identity(seed)
