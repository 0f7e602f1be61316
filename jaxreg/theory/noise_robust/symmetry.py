"""Sums of a loss over all labels, and what uniform label noise does to risks."""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.noise_robust.definitions import ENGLESSON, GHOSH, MA, PATEL, WANG, ZHANG, ZHOU
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.risk import Loss, conditional_risk, loss_of_every_label, sum_over_labels, uniform_noise


# name of the row: (source, loss, its sum over K labels as a formula and as a function of K)
def _symmetric() -> dict[str, tuple[str, Loss, str, Callable[[int], float]]]:
    zero = -4.0
    reverse = functools.partial(losses.reverse_cross_entropy, log_zero=zero)
    return {
        "mean-absolute-error": (GHOSH, losses.mean_absolute_error, "2 (K-1)", lambda k: 2.0 * (k - 1)),
        "reverse-cross-entropy": (WANG, reverse, "-A (K-1)", lambda k: -zero * (k - 1)),
        "normalized-cross-entropy": (MA, losses.normalized_cross_entropy, "1", lambda k: 1.0),
        "nce-plus-rce": (
            MA,
            lambda f, y, **axes: (
                2 * losses.normalized_cross_entropy(f, y, **axes) + 0.3 * reverse(f, y, **axes)
            ),
            "w1 - w2 A (K-1)",
            lambda k: 2 - 0.3 * zero * (k - 1),
        ),
        "robust-log-loss": (
            PATEL,
            functools.partial(losses.robust_log_loss, a=0.4),
            "K log((a+1)/a)",
            lambda k: k * math.log(1.4 / 0.4),
        ),
        "hot-ldr": (
            "Zhu et al. (2023)",
            functools.partial(losses.ldr_kl, temperature=jnp.inf, margin=0.7),
            "c (K-1)",
            lambda k: 0.7 * (k - 1),
        ),
        "gce-exponent-one": (
            ZHANG,
            functools.partial(losses.generalized_cross_entropy, q=1.0),
            "K-1",
            lambda k: k - 1.0,
        ),
        "aul-exponent-one": (
            ZHOU,
            functools.partial(losses.asymmetric_unhinged, a=1.5, q=1.0),
            "K-1",
            lambda k: k - 1.0,
        ),
        "agce-exponent-one": (
            ZHOU,
            functools.partial(losses.asymmetric_generalized_cross_entropy, a=1.5, q=1.0),
            "K-1",
            lambda k: k - 1.0,
        ),
    }


def symmetric_losses_sum_to_a_constant(logits: jax.Array) -> Iterator[Check]:
    """Each symmetric loss with its constant, at random and at extreme scores."""
    size = 1 + jnp.abs(logits).max(-1)
    for name, (source, loss, formula, constant) in _symmetric().items():
        yield Check(
            f"symmetric-{name}",
            source,
            f"the losses of all K labels sum to {formula} for every f",
            quick_jit(functools.partial(sum_over_labels, loss))(logits),
            "==",
            constant(logits.shape[-1]),
            # Only the LDR loss grows with the scores; the others are sums of K bounded numbers.
            scale=logits.shape[-1] * (size if name == "hot-ldr" else 1.0),
            tolerance_float32=1e-5,
        )


def sums_between_vertex_and_centre(logits: jax.Array) -> Check:
    """The sums of the nearly symmetric losses lie between those at equal scores and at a sure prediction."""
    num_classes = logits.shape[-1]
    bounded = {
        "generalized_cross_entropy": {"q": 0.7},
        "asymmetric_unhinged": {"a": 1.5, "q": 0.9},
        "asymmetric_generalized_cross_entropy": {"a": 1.0, "q": 2.0},
        "brier": {},
    }

    def phi(name: str, s: float) -> float:
        """A loss of the label's probability alone, as written."""
        if name == "generalized_cross_entropy":
            return (1 - s**0.7) / 0.7
        if name == "asymmetric_unhinged":
            return (max(1.5 - s, 0) ** 0.9 - 0.5**0.9) / 0.9
        return (4 - (1 + s) ** 2) / 2

    ends = [
        (num_classes * phi(name, 1 / num_classes), phi(name, 1) + (num_classes - 1) * phi(name, 0))
        for name in bounded
        if name != "brier"
    ]
    ends.append((num_classes - 1.0, 2.0 * num_classes - 2))
    sums = jnp.stack(
        [sum_over_labels(getattr(losses, name), logits, **hyper) for name, hyper in bounded.items()]
    )
    low, high = (jnp.asarray([reduce(pair) for pair in ends], sums.dtype) for reduce in (min, max))
    return Check(
        "sums-of-nearly-symmetric-losses",
        "derived",
        "GCE, AUL, AGCE, Brier: the sum over labels lies between its values at equal scores and at a vertex",
        jnp.stack([low, sums]),
        "<=",
        jnp.stack([sums, high]),
        scale=num_classes,
        tolerance_float32=1e-5,
    )


def brier_sum_is_the_squared_norm(logits: jax.Array) -> Check:
    """The Brier score's sum over labels depends on the length of the softmax."""
    num_classes = logits.shape[-1]
    return Check(
        "brier-sum-is-the-squared-norm",
        "derived",
        "the Brier scores of all labels sum to K ||s||^2 - 2 + K",
        sum_over_labels(losses.brier, logits),
        "==",
        num_classes * (jax.nn.softmax(logits) ** 2).sum(-1) - 2 + num_classes,
        tolerance_float32=1e-5,
    )


def other_losses_are_not_symmetric(logits: jax.Array) -> Check:
    """The sums of these losses over labels vary visibly."""
    others = {
        "ldr_kl": {},
        "symmetric_cross_entropy": {},
        "weston_watkins": {},
        "crammer_singer": {},
        "jensen_shannon": {},
        "truncated_generalized_cross_entropy": {},
        "generalized_cross_entropy": {"q": 0.7},
        "asymmetric_unhinged": {},
        "asymmetric_generalized_cross_entropy": {},
        "brier": {},
    }
    sums = jnp.stack(
        [sum_over_labels(getattr(losses, name), logits, **hyper) for name, hyper in others.items()]
    )
    return Check(
        "others-are-not-symmetric",
        "derived",
        "CE, SCE, WW, CS, JS, GCE, truncated GCE, AUL, AGCE, Brier: the sum over labels varies by 0.01 "
        "or more",
        sums.max(-1) - sums.min(-1),
        ">=",
        0.01,
    )


def jensen_shannon_becomes_symmetric(free: jax.Array, log_rest: jax.Array) -> Check:
    """The closer the label's weight to one, the nearer the sum to K - 1."""
    # Taken from the weight as it rounds, and well away from a weight of 1.
    weight = 1 - jnp.maximum(jnp.exp(-jnp.abs(log_rest)), 16 * jnp.finfo(log_rest.dtype).eps)
    rest = 1 - weight
    num_classes = free.size
    return Check(
        "jensen-shannon-becomes-symmetric",
        ENGLESSON,
        "|sum_y JS(f, y) - (K-1)| <= K / log(1 / (1 - w)): the sum tends to K-1 as w -> 1",
        jnp.abs(sum_over_labels(losses.jensen_shannon, free, label_weight=weight) - (num_classes - 1)),
        "<=",
        -num_classes / jnp.log(rest),
        tolerance_float32=1e-5,
    )


# Label noise


def noise_is_a_linear_map(logits: jax.Array, probabilities: jax.Array, *, rate: jax.Array) -> Check:
    """Under uniform noise the risk is a multiple of the clean one plus a multiple of the sum over labels."""
    num_classes = logits.shape[-1]
    every = {
        "mean_absolute_error": {},
        "generalized_cross_entropy": {"q": 0.7},
        "ldr_kl": {"temperature": 0.5, "margin": 0.3},
        "brier": {},
    }
    noisy, claimed = [], []
    for name, hyper in every.items():
        risk = functools.partial(conditional_risk, getattr(losses, name), logits, **hyper)
        total = sum_over_labels(getattr(losses, name), logits, **hyper)
        kept = 1 - rate * num_classes / (num_classes - 1)
        noisy.append(risk(uniform_noise(probabilities, rate)))
        claimed.append(kept * risk(probabilities) + rate / (num_classes - 1) * total)
    return Check(
        "noise-identity",
        GHOSH,
        "noisy risk = (1 - eta K/(K-1)) clean risk + eta/(K-1) sum_y loss(f, y), for any loss",
        jnp.stack(noisy),
        "==",
        jnp.stack(claimed),
        scale=num_classes * (1 + jnp.abs(logits).max(-1)),
        tolerance_float32=1e-5,
    )


def noise_scales_symmetric_risks(
    logits: jax.Array, others: jax.Array, probabilities: jax.Array, *, rate: jax.Array
) -> Check:
    """For a symmetric loss uniform noise only shrinks differences of risks, so the same scores are best."""
    num_classes = logits.shape[-1]
    shrink = 1 - rate * num_classes / (num_classes - 1)
    noisy, clean = [], []
    for _, loss, _, _ in _symmetric().values():
        risk = functools.partial(conditional_risk, loss)
        noise = uniform_noise(probabilities, rate)
        noisy.append(risk(logits, noise) - risk(others, noise))
        clean.append(risk(logits, probabilities) - risk(others, probabilities))
    return Check(
        "noise-keeps-the-order-of-risks",
        GHOSH,
        "symmetric loss: noisy risk(f) - noisy risk(g) = (1 - eta K/(K-1)) (risk(f) - risk(g))",
        jnp.stack(noisy),
        "==",
        shrink * jnp.stack(clean),
        scale=num_classes * (1 + jnp.abs(logits).max(-1) + jnp.abs(others).max(-1)),
        tolerance_float32=1e-5,
    )


def noise_by_simulation(rng: np.random.Generator, *, rate: float, draws: int) -> Check:
    """The mean absolute error on flipped labels, drawn one by one, has the claimed mean."""
    num_classes, classifiers = 5, 8
    logits = jnp.asarray(oracles.draw_scores(rng, classifiers, num_classes, largest_scale=4.0))
    probabilities = oracles.draw_probabilities(rng, 1, num_classes)[0]
    clean = rng.choice(num_classes, size=draws, p=probabilities)
    flips = rng.random(draws) < rate
    # A shift by 1 .. K-1 is a uniform choice among the other classes.
    labels = np.where(flips, (clean + rng.integers(1, num_classes, draws)) % num_classes, clean)
    counts = np.bincount(labels, minlength=num_classes) / draws
    table = loss_of_every_label(losses.mean_absolute_error, logits)
    clean_risk = table @ jnp.asarray(probabilities)
    claimed = (1 - rate * num_classes / (num_classes - 1)) * clean_risk + rate * 2
    return Check(
        "noise-identity-by-simulation",
        GHOSH,
        f"MAE on {draws} labels flipped at rate {rate}: its mean is (1 - eta K/(K-1)) risk + eta C/(K-1)",
        table @ jnp.asarray(counts),
        "==",
        claimed,
        scale=1 / math.sqrt(draws),
        # The loss lies in [0, 2], so its standard deviation is at most 1: six standard errors.
        tolerance=6.0,
        tolerance_float32=6.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 50)
    scores = [
        oracles.draw_scores(rng, 250, 6, largest_scale=20.0),
        60 * np.eye(6),
        -60 * np.eye(6),
        np.zeros((1, 6)),
    ]
    logits = jnp.asarray(np.concatenate(scores))
    yield from symmetric_losses_sum_to_a_constant(logits)
    yield falsify.evaluate(sums_between_vertex_and_centre, (np.asarray(logits),))
    yield quick_jit(brier_sum_is_the_squared_norm)(logits)
    yield quick_jit(other_losses_are_not_symmetric)(logits)
    weights = jnp.asarray(rng.normal(0, 3, (64, 6))), jnp.asarray(rng.uniform(-18, -1, 64))
    yield falsify.evaluate(jensen_shannon_becomes_symmetric, weights)
    others = jnp.asarray(oracles.draw_scores(rng, logits.shape[0], 6))
    probabilities = jnp.asarray(oracles.draw_probabilities(rng, logits.shape[0], 6))
    rate = jnp.asarray(rng.uniform(0, 1, logits.shape[0]))
    yield quick_jit(noise_is_a_linear_map)(logits, probabilities, rate=rate)
    yield quick_jit(noise_scales_symmetric_risks)(logits, others, probabilities, rate=rate)
    yield noise_by_simulation(rng, rate=0.4, draws=1_000_000)
