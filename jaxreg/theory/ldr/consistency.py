"""What minimises the conditional risk ``sum_y q_y loss(f, y)``, and whether it orders the classes as ``q``
does.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.value import PAPER, gap_size, kl_to_uniform
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.risk import conditional_risk, loss_of_every_label


def bayes_scores(probabilities: jax.Array, *, temperature: jax.Array | float = 1.0) -> jax.Array:
    """The scores of mean zero that minimise the conditional risk of ``ldr_kl`` without a margin.

    ``f* = temperature log q`` up to a constant, for temperatures in (0, inf) and positive probabilities.

    Args:
      probabilities: ``q``, shape ``[..., K]``.
      temperature: broadcast against ``[...]``.

    Returns:
      Scores, shape ``[..., K]``.

    Example:
      >>> print(bayes_scores(jnp.array([0.2, 0.8]), temperature=2.0).round(4))
      [-1.3863  1.3863]
    """
    logarithm = jnp.log(probabilities)
    centred = logarithm - logarithm.mean(-1, keepdims=True)
    return jnp.asarray(temperature, logarithm.dtype)[..., None] * centred


def bayes_risk(probabilities: jax.Array, *, temperature: jax.Array | float = 1.0) -> jax.Array:
    """The least conditional risk of ``ldr_kl`` without a margin, ``-temperature KL(q, uniform)``.

    Example:
      >>> print(bayes_risk(jnp.array([0.5, 0.5]), temperature=3.0) == 0)
      True
    """
    return -temperature * kl_to_uniform(probabilities)


def order_slack(scores: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The least ``(f_i - f_j) sign(q_i - q_j)`` over pairs of classes: positive where the order is that of q.

    Shapes ``[..., K]`` to ``[...]``.

    Example:
      >>> print(order_slack(np.array([0.0, 1.0, 3.0]), np.array([0.2, 0.3, 0.5])))
      1.0
    """
    ranks = np.argsort(-probabilities, axis=-1)
    ordered = np.take_along_axis(scores, ranks, axis=-1)
    return -np.diff(ordered, axis=-1).max(-1)


def centred(scores: np.ndarray) -> np.ndarray:
    """The scores less their mean over the classes."""
    return scores - scores.mean(-1, keepdims=True)


# Without a margin


def excess_risk_is_a_divergence(
    logits: jax.Array, probabilities: jax.Array, *, temperature: jax.Array
) -> Check:
    """What a score vector loses against the best is a divergence from its tempered softmax."""
    risk = losses.expected(losses.ldr_kl)(logits, probabilities, temperature=temperature)
    tempered = jax.nn.log_softmax(logits / temperature[..., None], axis=-1)
    divergence = (probabilities * (jnp.log(probabilities) - tempered)).sum(-1)
    return Check(
        "excess-risk-is-a-divergence",
        PAPER,
        "c = 0: risk(f) - min risk = lam KL(q, softmax(f / lam))",
        risk - bayes_risk(probabilities, temperature=temperature),
        "==",
        temperature * divergence,
        scale=gap_size(logits, jnp.zeros(logits.shape[:-1], jnp.int32)) + temperature,
        tolerance_float32=1e-5,
    )


def minimiser_is_the_tempered_logarithm(probabilities: np.ndarray, temperature: float) -> Check:
    """BFGS on the conditional risk ends at temperature times log q, with the risk -temperature KL(q)."""
    found, risk = oracles.minimise_all(_risk(losses.ldr_kl, temperature=temperature), probabilities)
    q = jnp.asarray(probabilities)
    return Check(
        "minimiser-is-tempered-logarithm",
        PAPER,
        "c = 0: BFGS on the risk ends at f* = lam log q, with risk -lam KL(q, uniform)",
        np.concatenate([centred(found), risk[:, None]], axis=-1),
        "==",
        jnp.append(
            bayes_scores(q, temperature=temperature), bayes_risk(q, temperature=temperature)[:, None], axis=-1
        ),
        scale=temperature,
        # BFGS stops where the gradient, at least q_min times the error in size, is 1e-11 or rounding
        tolerance=2e-6,
        tolerance_float32=3e-2,
    )


def minimiser_with_a_margin(probabilities: np.ndarray, temperature: float, margin: float) -> Check:
    """With a uniform margin the minimiser solves ``a_y (C - (C - 1) a_y) = const q_y``, a its softmax."""
    risk = _risk(losses.ldr_kl, temperature=temperature, margin=margin)
    found, _ = oracles.minimise_all(risk, probabilities)
    a = np.exp(found / temperature)
    a /= a.sum(-1, keepdims=True)
    inflated = math.exp(margin / temperature)
    claimed = a * (inflated - (inflated - 1) * a)
    return Check(
        "minimiser-with-a-margin",
        "derived",
        "at the minimiser a_y (C - (C-1) a_y) is proportional to q_y; a = softmax(f*/lam), C = exp(c/lam)",
        claimed / claimed.sum(-1, keepdims=True),
        "==",
        probabilities,
        tolerance=1e-6,  # BFGS
        tolerance_float32=1e-3,
    )


def orders_all_classes(
    name: str,
    loss: Callable[..., jax.Array],
    source: str,
    about: str,
    probabilities: np.ndarray,
    **hyper: float,
) -> Check:
    """BFGS on the conditional risk ends at scores in the order of q."""
    found, _ = oracles.minimise_all(_risk(loss, **hyper), probabilities)
    return Check(
        name,
        source,
        f"{about}: the minimiser found by BFGS orders all classes as q does",
        order_slack(found, probabilities),
        ">=",
        0.0,
        tolerance=0.0,  # strictly ordered: the least gap of q leaves a gap far above the solver's error
        tolerance_float32=0.0,
    )


def _three_losses() -> tuple[Callable[..., jax.Array], ...]:
    return (
        functools.partial(losses.ldr_kl, temperature=0.6, margin=0.5),
        functools.partial(losses.ldr_quadratic, temperature=2.0, margin=0.5),
        functools.partial(losses.aldr_kl, temperature=1.0, margin=0.5),
    )


def higher_score_smaller_loss(logits: jax.Array, pair: jax.Array) -> Check:
    """Of two classes the one with the higher score has the smaller loss: why minimisers are ordered."""
    both = jnp.stack([logits, logits])
    values = jnp.stack([loss(both, pair) for loss in _three_losses()])
    sign = jnp.where(logits[pair[0]] >= logits[pair[1]], 1, -1).astype(logits.dtype)
    return Check(
        "higher-score-smaller-loss",
        "derived",
        "f_i >= f_j implies loss(f, i) <= loss(f, j), for ldr_kl, ldr_quadratic and aldr_kl",
        sign * (values[:, 0] - values[:, 1]),
        "<=",
        0.0,
        scale=1 + jnp.abs(logits).max(),
        tolerance_float32=1e-5,
    )


def swapping_moves_the_risk(logits: jax.Array, pair: jax.Array, free: jax.Array) -> Check:
    """Exchanging two scores moves the risk by a difference of probabilities times one of losses."""
    q = jax.nn.softmax(free)
    first, second = pair
    swapped = logits.at[first].set(logits[second]).at[second].set(logits[first])
    gains, claimed = [], []
    for loss in _three_losses():
        of = loss_of_every_label(loss, jnp.stack([logits, swapped]))
        gains.append(q @ (of[0] - of[1]))
        claimed.append((q[first] - q[second]) * (of[0, first] - of[0, second]))
    return Check(
        "swapping-moves-the-risk",
        "derived",
        "risk(f) - risk(f with f_i, f_j exchanged) = (q_i - q_j)(loss(f, i) - loss(f, j)), same three losses",
        jnp.stack(gains),
        "==",
        jnp.stack(claimed),
        scale=1 + jnp.abs(logits).max(),
        tolerance_float32=1e-5,
    )


def slope_at_a_tie(logits: jax.Array, pair: jax.Array) -> Check:
    """At equal scores the loss of a class falls in its own direction, against the other's, at rate at least
    1.
    """
    first, second = (jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype) for label in pair)
    tied = jnp.where(first + second > 0, logits[pair[0]], logits)

    def slope(loss: Callable[..., jax.Array]) -> jax.Array:
        return jax.jvp(lambda f: loss(f, pair[0]), (tied,), (first - second,))[1]

    return Check(
        "slope-at-a-tie",
        "derived",
        "f_i = f_j: the derivative of loss(f, i) along e_i - e_j is at most -1, for the same three losses",
        jnp.stack([slope(loss) for loss in _three_losses()]),
        "<=",
        -1.0,
        tolerance_float32=1e-5,
    )


# Where consistency fails


def cold_loss_ties(probabilities: np.ndarray) -> Check:
    """Crammer and Singer's loss is minimised by equal scores when no class has half of the mass."""
    num_classes = probabilities.size
    equal = losses.expected(losses.ldr_kl)(
        jnp.zeros(num_classes), jnp.asarray(probabilities), temperature=0.0, margin=1.0
    )
    # min q.t over scores f and bounds t with t_y >= f_k - f_y + 1, t_y >= 0; the score of class 0 is 0.
    rows = []
    for y in range(num_classes):
        for k in set(range(num_classes)) - {y}:
            row = np.zeros(2 * num_classes)
            row[k], row[y], row[num_classes + y] = 1, -1, -1
            rows.append(row)
    bounds = [(0, 0)] + [(None, None)] * (num_classes - 1) + [(0, None)] * num_classes
    cost = np.append(np.zeros(num_classes), probabilities)
    program = optimize.linprog(cost, A_ub=np.array(rows), b_ub=-np.ones(len(rows)), bounds=bounds)
    return Check(
        "cold-loss-ties",
        PAPER,
        "lam = 0, c = 1, q = (.4, .35, .25): the least risk, by linear programming, is that of equal scores",
        equal,
        "==",
        program.fun,
        tolerance=1e-9,  # the linear program
        tolerance_float32=1e-6,
    )


def label_dependent_margins_mislead() -> Check:
    """With a larger margin for label 0 the minimiser prefers class 0 although class 1 is likelier."""
    probabilities, margins = jnp.array([0.4, 0.6]), jnp.array([4.0, 0.0])

    def risk(difference: jax.Array) -> jax.Array:
        scores = jnp.array([[0.5, -0.5], [0.5, -0.5]], probabilities.dtype) * difference
        return probabilities @ losses.ldr_kl(scores, jnp.arange(2), temperature=1.0, margin=margins)

    compiled = quick_jit(risk)
    found: Any = optimize.minimize_scalar(lambda d: float(compiled(d)), bounds=(-10, 10), method="bounded")
    return Check(
        "label-dependent-margins-mislead",
        "derived",
        "q = (.4, .6), margins (4, 0) by label: the minimiser has f_1 - f_2 = +0.60, the less likely class "
        "first",
        found.x,
        "==",
        0.60,
        tolerance=5e-3,  # as many digits as are claimed
        tolerance_float32=5e-3,
    )


def _risk(loss: Callable[..., jax.Array], **hyper: float) -> Callable[..., jax.Array]:
    return functools.partial(conditional_risk, loss, **hyper)


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 20)
    few = oracles.separated_probabilities(rng, 12, 5)
    logits, probabilities = (
        jnp.asarray(oracles.draw_scores(rng, 256, 6)),
        jnp.asarray(oracles.draw_probabilities(rng, 256, 6)),
    )
    temperature = jnp.asarray(10 ** rng.uniform(-0.5, 1, 256))
    yield quick_jit(excess_risk_is_a_divergence)(logits, probabilities, temperature=temperature)
    yield minimiser_is_the_tempered_logarithm(few, 0.7)
    yield minimiser_with_a_margin(few, 0.7, 0.8)
    consistent = {
        "consistent-with-a-margin": (losses.ldr_kl, PAPER, "ldr_kl with a uniform margin", 0.7, 0.8),
        "quadratic-is-consistent": (
            losses.ldr_quadratic,
            "derived",
            "the quadratic penalty with a margin",
            4.0,
            0.5,
        ),
        "adaptive-is-consistent": (losses.aldr_kl, PAPER, "aldr_kl with a uniform margin", 1.0, 0.5),
    }
    for name, (loss, source, about, lam, margin) in consistent.items():
        yield orders_all_classes(name, loss, source, about, few, temperature=lam, margin=margin)
    yield from _reasons(rng)
    yield cold_loss_ties(np.array([0.4, 0.35, 0.25]))
    yield label_dependent_margins_mislead()


def _reasons(rng: np.random.Generator) -> Iterator[Check]:
    """The two inequalities behind consistency; the first searched, the second at random scores."""
    pairs = np.stack([rng.permutation(5)[:2] for _ in range(96)]).astype(np.int32)
    scores = rng.normal(0, 2, (96, 5))
    yield falsify.search(higher_score_smaller_loss, (scores, pairs), steps=60).check
    yield falsify.evaluate(swapping_moves_the_risk, (scores, pairs, rng.normal(0, 1, (96, 5))))
    yield falsify.evaluate(slope_at_a_tie, (scores, pairs))
