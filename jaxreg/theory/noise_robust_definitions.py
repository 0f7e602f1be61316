"""The noise-robust losses against their definitions in 60-digit arithmetic; limits, ranges and gradients."""

import decimal
import functools
import math
from collections.abc import Callable, Iterator
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit

GHOSH = "Ghosh, Kumar, Sastry (2017)"
ZHANG = "Zhang, Sabuncu (2018)"
WANG = "Wang et al. (2019)"
MA = "Ma et al. (2020)"
ZHOU = "Zhou et al. (2021)"
ENGLESSON = "Englesson, Azizpour (2021)"
PATEL = "Patel, Sastry (2021)"

# Definitions of a loss of exact scores or probabilities, as their papers write them. Each takes the softmax
# (for the
# margin losses: the scores), the label, and hyper-parameters, all in decimal arithmetic.


def _one_hot(size: int, label: int) -> list[Decimal]:
    return [Decimal(int(k == label)) for k in range(size)]


def _cross_entropy(s: list[Decimal], y: int) -> Decimal:
    return -s[y].ln()


def _entropy(p: list[Decimal]) -> Decimal:
    return -sum((x * x.ln() for x in p if x > 0), Decimal(0))


def _reverse(s: list[Decimal], y: int, log_zero: Decimal) -> Decimal:
    return -sum((x * (Decimal(0) if k == y else log_zero) for k, x in enumerate(s)), Decimal(0))


def _jensen_shannon(s: list[Decimal], y: int, label_weight: Decimal) -> Decimal:
    rest = 1 - label_weight
    label = _one_hot(len(s), y)
    mixture = [label_weight * e + rest * x for e, x in zip(label, s, strict=True)]
    divergence = _entropy(mixture) - label_weight * _entropy(label) - rest * _entropy(s)
    return divergence / -(rest * rest.ln())


def _robust_log(s: list[Decimal], y: int, a: Decimal) -> Decimal:
    others = sum(((a + x).ln() for k, x in enumerate(s) if k != y), Decimal(0))
    return ((a + 1) / a).ln() - (a + s[y]).ln() + others / (len(s) - 1)


def _hinges(f: list[Decimal], y: int, margin: Decimal) -> list[Decimal]:
    return [max(Decimal(0), margin + x - f[y]) for k, x in enumerate(f) if k != y]


# name: (source, formula, definition, hyper-parameter ranges, whether it reads the scores themselves)
DEFINITIONS: dict[str, tuple[str, str, Callable[..., Decimal], dict[str, tuple[float, float]], bool]] = {
    "mean_absolute_error": (
        GHOSH,
        "sum_k |s_k - [k = y]|",
        lambda s, y: sum((abs(x - e) for x, e in zip(s, _one_hot(len(s), y), strict=True)), Decimal(0)),
        {},
        False,
    ),
    "brier": (
        "Brier (1950)",
        "sum_k (s_k - [k = y])^2",
        lambda s, y: sum(((x - e) ** 2 for x, e in zip(s, _one_hot(len(s), y), strict=True)), Decimal(0)),
        {},
        False,
    ),
    "generalized_cross_entropy": (
        ZHANG,
        "(1 - s_y^q) / q",
        lambda s, y, q: (1 - s[y] ** q) / q,
        {"q": (0.05, 1)},
        False,
    ),
    "truncated_generalized_cross_entropy": (
        ZHANG,
        "(1 - max(s_y, k)^q) / q",
        lambda s, y, q, threshold: (1 - max(s[y], threshold) ** q) / q,
        {"q": (0.05, 1), "threshold": (0.1, 0.9)},
        False,
    ),
    "symmetric_cross_entropy": (
        WANG,
        "w_ce CE + w_rce RCE, RCE = -sum_k s_k log [k = y] with log 0 = A",
        lambda s, y, ce_weight, rce_weight, log_zero: (
            ce_weight * _cross_entropy(s, y) + rce_weight * _reverse(s, y, log_zero)
        ),
        {"ce_weight": (0.1, 6), "rce_weight": (0.1, 1), "log_zero": (-9.2, -4)},
        False,
    ),
    "reverse_cross_entropy": (
        WANG,
        "-sum_k s_k log [k = y] with log 0 = A",
        _reverse,
        {"log_zero": (-9.2, -4)},
        False,
    ),
    "normalized_cross_entropy": (
        MA,
        "log s_y / sum_k log s_k",
        lambda s, y: s[y].ln() / sum((x.ln() for x in s), Decimal(0)),
        {},
        False,
    ),
    "asymmetric_unhinged": (
        ZHOU,
        "((a - s_y)^q - (a - 1)^q) / q",
        lambda s, y, a, q: ((a - s[y]) ** q - (a - 1) ** q) / q,
        {"a": (1.1, 6), "q": (0.1, 3)},
        False,
    ),
    "asymmetric_generalized_cross_entropy": (
        ZHOU,
        "((a + 1)^q - (a + s_y)^q) / q",
        lambda s, y, a, q: ((a + 1) ** q - (a + s[y]) ** q) / q,
        {"a": (0.1, 6), "q": (0.1, 3)},
        False,
    ),
    "jensen_shannon": (
        ENGLESSON,
        "[H(w e_y + (1-w) s) - (1-w) H(s)] / Z with Z = -(1-w) log(1-w)",
        _jensen_shannon,
        {"label_weight": (0.05, 0.95)},
        False,
    ),
    "robust_log_loss": (
        PATEL,
        "log((a+1)/a) - log(a + s_y) + mean over k != y of log(a + s_k)",
        _robust_log,
        {"a": (0.1, 10)},
        False,
    ),
    "weston_watkins": (
        "Weston, Watkins (1999)",
        "sum over k != y of max(0, c + f_k - f_y)",
        lambda f, y, margin: sum(_hinges(f, y, margin), Decimal(0)),
        {"margin": (0.1, 10)},
        True,
    ),
    "crammer_singer": (
        "Crammer, Singer (2001)",
        "max over k != y of max(0, c + f_k - f_y)",
        lambda f, y, margin: max(_hinges(f, y, margin)),
        {"margin": (0.1, 10)},
        True,
    ),
}

# Of these one label's confident prediction leaves no loss that is small and positive, or none that is of
# interest.
WITHOUT_SMALL_VALUES = ("weston_watkins", "crammer_singer")


def exact(name: str, scores: np.ndarray, labels: np.ndarray, hyper: dict[str, np.ndarray]) -> np.ndarray:
    """The definition of a loss at float scores ``[cases, K]``, in 60-digit arithmetic, rounded to float64."""
    _, _, definition, _, reads_scores = DEFINITIONS[name]
    values = []
    with decimal.localcontext() as context:
        context.prec = 60
        for case, (row, label) in enumerate(zip(scores, labels, strict=True)):
            arguments = [Decimal(float(x)) for x in row]
            if not reads_scores:
                powers = [x.exp() for x in arguments]
                whole = sum(powers, Decimal(0))
                arguments = [x / whole for x in powers]
            given = {key: Decimal(float(array[case])) for key, array in hyper.items()}
            values.append(float(definition(arguments, int(label), **given)))
    return np.array(values)


def draw_hyperparameters(rng: np.random.Generator, name: str, cases: int) -> dict[str, np.ndarray]:
    """Random hyper-parameters of a loss, one each case, in the range that ``DEFINITIONS`` gives."""
    return {key: rng.uniform(low, high, cases) for key, (low, high) in DEFINITIONS[name][3].items()}


def equals_its_definition(
    name: str, scores: np.ndarray, labels: np.ndarray, hyper: dict[str, np.ndarray]
) -> Check:
    """A loss equals its paper's formula."""
    source, formula, *_ = DEFINITIONS[name]
    loss = quick_jit(getattr(losses, name))
    expected = exact(name, scores, labels, hyper)
    return Check(
        name.replace("_", "-"),
        source,
        f"{name} = {formula}, in 60-digit arithmetic",
        loss(jnp.asarray(scores), jnp.asarray(labels), **{key: jnp.asarray(x) for key, x in hyper.items()}),
        "==",
        expected,
        scale=1 + np.abs(expected) + np.abs(scores).max(-1),
        tolerance_float32=3e-6,
    )


def confident_examples(rng: np.random.Generator) -> Check:
    """In float32 every loss is right to a few roundings where almost all probability is on the label."""
    names = [name for name in DEFINITIONS if name not in WITHOUT_SMALL_VALUES]
    cases, num_classes = 120, 10
    values, truth = [], []
    for name in names:
        scores = rng.normal(0, 1, (cases, num_classes)).astype(np.float32)
        labels = oracles.draw_labels(rng, cases, num_classes)
        # The label leads by 2 to 23: its complement 1 - s_y goes down to 1e-10.
        scores[np.arange(cases), labels] = scores.max(-1) + np.linspace(2, 23, cases, dtype=np.float32)
        hyper = {key: x.astype(np.float32) for key, x in draw_hyperparameters(rng, name, cases).items()}
        values.append(np.asarray(jax.jit(getattr(losses, name))(scores, labels, **hyper), np.float64))
        truth.append(exact(name, scores, labels, hyper))
    return Check(
        "float32-for-confident-examples",
        "derived",
        f"relative error in float32 of {len(names)} losses for 1 - s_y down to 1e-10, against 60 digits",
        np.array(values),
        "==",
        np.array(truth),
        scale=np.array(truth),
        tolerance=1e-6,
        tolerance_float32=1e-6,
    )


def one_class_costs_nothing(logits: jax.Array) -> Check:
    """With one class only there is nothing to get wrong."""
    labels = jnp.zeros(logits.shape, jnp.int32)
    every = [getattr(losses, name)(logits[..., None], labels) for name in DEFINITIONS]
    return Check("one-class-costs-nothing", "derived", "K = 1: every loss is 0", jnp.stack(every), "==", 0.0)


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
    rng = np.random.default_rng(seed + 40)
    for name in DEFINITIONS:
        scores, labels = oracles.draw_scores(rng, 40, 6, largest_scale=6.0), oracles.draw_labels(rng, 40, 6)
        yield equals_its_definition(name, scores, labels, draw_hyperparameters(rng, name, 40))
    yield confident_examples(rng)
    logits = jnp.asarray(oracles.draw_scores(rng, 256, 6, largest_scale=5.0))
    labels = jnp.asarray(oracles.draw_labels(rng, 256, 6))
    yield quick_jit(one_class_costs_nothing)(logits[:, 0])
    starts = rng.normal(0, 2, (128, 6)), oracles.draw_labels(rng, 128, 6), rng.uniform(-6, 0, 128)
    yield falsify.evaluate(lambda f, y, log_q: loss_and_cross_entropy(f, y, log_q=log_q), starts)
    claims = (
        end_points_are_one_probability,
        jensen_shannon_tends_to_cross_entropy,
        truncation_is_an_optimal_weight,
        both_forms_of_symmetric_cross_entropy,
        gradient_by_probability,
    )
    for claim in claims:
        yield quick_jit(claim)(logits, labels)
    weights = jnp.asarray(rng.normal(0, 3, (128, 6))), jnp.asarray(rng.uniform(-20, -1, 128))
    yield falsify.evaluate(jensen_shannon_tends_to_absolute_error, weights)
    yield falsify.evaluate(within_its_range, (oracles.draw_scores(rng, 512, 6, largest_scale=300.0),))
    yield reaches_its_range(6)
