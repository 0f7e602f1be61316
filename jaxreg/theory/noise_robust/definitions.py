"""The noise-robust losses against their definitions in 60-digit arithmetic; limits, ranges and gradients."""

import decimal
from collections.abc import Callable, Iterator
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import oracles
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


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 40)
    for name in DEFINITIONS:
        scores, labels = oracles.draw_scores(rng, 40, 6, largest_scale=6.0), oracles.draw_labels(rng, 40, 6)
        yield equals_its_definition(name, scores, labels, draw_hyperparameters(rng, name, 40))
    yield confident_examples(rng)
    yield quick_jit(one_class_costs_nothing)(jnp.asarray(rng.normal(0, 5, 256)))
