"""What minimises the conditional risk of the noise-robust losses: which classes their minimisers put in
order.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.ldr.consistency import order_slack
from jaxreg.theory.noise_robust.definitions import ENGLESSON, GHOSH, MA, PATEL, WANG, ZHANG, ZHOU
from jaxreg.theory.risk import Loss, conditional_risk


def generalized_cross_entropy_minimiser(probabilities: np.ndarray, *, q: float) -> np.ndarray:
    """The softmax that minimises the conditional risk of GCE: proportional to ``probabilities^(1 / (1 - "
    "q))``, q < 1.

    Example:
      >>> print(generalized_cross_entropy_minimiser(np.array([0.75, 0.25]), q=0.5))
      [0.9 0.1]
    """
    powered = probabilities ** (1 / (1 - q))
    return powered / powered.sum(-1, keepdims=True)


def robust_log_loss_minimiser(probabilities: np.ndarray, *, a: float) -> np.ndarray:
    """The softmax that minimises the conditional risk of the robust log loss.

    ``max(0, c (q - 1/K) - a)``, with c found by bisection so that it sums to 1: classes near and below 1/K
    get nothing.
    ``probabilities [K]``, not all equal; the same shape.

    Example:
      >>> print(robust_log_loss_minimiser(np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]), a=0.1).round(3))
      [0.784 0.216 0.    0.    0.    0.   ]
    """
    above = probabilities - 1 / probabilities.size
    low, high = 0.0, (1 + a) / above.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if np.maximum(0, middle * above - a).sum() > 1 else (middle, high)
    return np.maximum(0, high * above - a)


def bfgs_ends_at(
    name: str,
    source: str,
    statement: str,
    loss: Loss,
    hyper: dict,
    probabilities: np.ndarray,
    claimed: np.ndarray,
) -> Check:
    """The softmax at the minimiser of the conditional risk that BFGS finds is as claimed."""
    found, _ = oracles.minimise_all(functools.partial(conditional_risk, loss, **hyper), probabilities)
    return Check(
        name,
        source,
        statement,
        _softmax(found),
        "==",
        claimed,
        tolerance=1e-6,  # BFGS
        tolerance_float32=5e-3,
    )


def symmetric_cross_entropy_is_stationary(probabilities: np.ndarray) -> Check:
    """At the minimiser of SCE the odds of the classes balance."""
    ce_weight, rce_weight, zero = 0.4, 0.2, -4.0
    hyper = {"ce_weight": ce_weight, "rce_weight": rce_weight, "log_zero": zero}
    risk = functools.partial(conditional_risk, losses.symmetric_cross_entropy, **hyper)
    s = _softmax(oracles.minimise_all(risk, probabilities)[0])
    inverse = 1 / (ce_weight / s - rce_weight * zero)
    return Check(
        "sce-orders-all-classes",
        WANG,
        "BFGS on the risk of SCE: w_ce / s_y - w_rce A is proportional to 1 / q_y, so all classes are in "
        "order",
        inverse / inverse.sum(-1, keepdims=True),
        "==",
        probabilities,
        tolerance=1e-6,  # BFGS
        tolerance_float32=5e-3,
    )


def jensen_shannon_orders_all_classes(probabilities: np.ndarray) -> Check:
    """The minimiser of JS, strictly convex in the label's probability, has the order of q."""
    risk = functools.partial(conditional_risk, losses.jensen_shannon, label_weight=0.5)
    found, _ = oracles.minimise_all(risk, probabilities)
    return Check(
        "jensen-shannon-orders-all-classes",
        ENGLESSON,
        "BFGS on the risk of JS ends at scores that order all classes as q does",
        order_slack(found, probabilities),
        ">=",
        0.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def vertices_are_best(free: jax.Array, log_probabilities: jax.Array) -> Check:
    """For losses concave in the label's probability no scores beat a sure prediction of the likeliest
    class.
    """
    q = jax.nn.softmax(log_probabilities)
    six = [
        (losses.mean_absolute_error, {}, 2.0),
        (losses.reverse_cross_entropy, {"log_zero": -4.0}, 4.0),
        (losses.asymmetric_unhinged, {"a": 1.5, "q": 0.9}, (1.5**0.9 - 0.5**0.9) / 0.9),
        (losses.asymmetric_generalized_cross_entropy, {"a": 1.0, "q": 2.0}, 1.5),
        (losses.truncated_generalized_cross_entropy, {"q": 0.7, "threshold": 0.5}, (1 - 0.5**0.7) / 0.7),
    ]
    risks = jnp.stack([conditional_risk(loss, free, q, **hyper) for loss, hyper, _ in six])
    suprema = jnp.asarray([supremum for *_, supremum in six], risks.dtype)
    return Check(
        "vertices-are-best",
        f"{GHOSH}; {ZHOU}; derived",
        "MAE, RCE, AUL (q <= 1), AGCE (q >= 1), truncated GCE (k >= 1/2): risk >= (1 - max q) sup loss, "
        "a vertex's",
        risks,
        ">=",
        (1 - q.max()) * suprema,
        tolerance_float32=1e-5,
    )


def robust_log_loss_minimiser_is_best(free: jax.Array, probabilities: jax.Array, best: jax.Array) -> Check:
    """No scores beat the closed form of the minimiser of the robust log loss."""
    a = 0.1
    # The risk at the closed form, as a function of the softmax, since some of its entries are 0.
    gain = probabilities - (1 - probabilities) / (probabilities.size - 1)
    least = jnp.log((a + 1) / a) - (gain * jnp.log(a + best)).sum()
    return Check(
        "robust-log-loss-minimiser",
        PATEL,
        "no risk is below that of s = max(0, c (q - 1/K) - a), which orders only classes above 1/K",
        conditional_risk(losses.robust_log_loss, free, probabilities, a=a),
        ">=",
        least,
        tolerance_float32=1e-5,
    )


def weston_watkins_ties() -> Check:
    """A tie minimises the risk of the sum of hinges, by a linear program."""
    q = np.array([0.45, 0.35, 0.2])
    scores = jnp.array([0.0, 0.0, -1.0])
    # min sum_y q_y sum_{k != y} t_yk with t_yk >= 1 + f_k - f_y, t >= 0, f_0 = 0.
    pairs = [(y, k) for y in range(3) for k in range(3) if k != y]
    rows = np.zeros((len(pairs), 3 + len(pairs)))
    for row, (y, k) in enumerate(pairs):
        rows[row, k], rows[row, y], rows[row, 3 + row] = 1, -1, -1
    cost = np.append(np.zeros(3), [q[y] for y, _ in pairs])
    bounds = [(0, 0), (None, None), (None, None)] + [(0, None)] * len(pairs)
    program = optimize.linprog(cost, A_ub=rows, b_ub=-np.ones(len(pairs)), bounds=bounds)
    return Check(
        "weston-watkins-ties",
        "derived",
        "q = (.45, .35, .2): the least risk, by linear programming, is that of f = (0, 0, -1), a tie for "
        "the first",
        conditional_risk(losses.weston_watkins, scores, jnp.asarray(q), margin=1.0),
        "==",
        program.fun,
        tolerance=1e-9,  # the linear program
        tolerance_float32=1e-6,
    )


def vertex_serves_two_orders(free: jax.Array) -> Check:
    """One prediction is optimal for two q with different orders of classes: no consistency for all k."""
    both = jnp.array([[0.5, 0.3, 0.2], [0.5, 0.2, 0.3]], free.dtype)
    sure = jnp.array([oracles.FAR, 0.0, 0.0], free.dtype)
    every = [(losses.mean_absolute_error, {}), (losses.reverse_cross_entropy, {"log_zero": -4.0})]

    def risks(scores: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(scores, both.shape)
        return jnp.stack([conditional_risk(loss, rows, both, **hyper) for loss, hyper in every])

    return Check(
        "vertex-serves-two-orders",
        "derived",
        "MAE, RCE: the sure prediction of class 1 is best for q = (.5, .3, .2) and for (.5, .2, .3)",
        risks(sure),
        "<=",
        risks(free),
        tolerance_float32=1e-5,
    )


# Normalised cross-entropy alone


def normalized_risk_reaches_the_least_probability(probabilities: jax.Array) -> Check:
    """Driving down one score, that of the least likely class, gives the least risk, whatever the other
    scores.
    """
    num_classes = probabilities.shape[-1]
    least = jnp.argmin(probabilities, axis=-1, keepdims=True)
    # The scores of the other classes are in the order opposite to q, so that the prediction is wrong.
    scores = jnp.where(jnp.arange(num_classes) == least, -1e12, -probabilities)
    return Check(
        "normalized-cross-entropy-infimum",
        "derived",
        "NCE: the least risk min_k q_k is approached by scores that predict a wrong class",
        conditional_risk(losses.normalized_cross_entropy, scores, probabilities),
        "==",
        probabilities.min(-1),
        tolerance=1e-9,  # approached like 1 / score
        tolerance_float32=1e-5,
    )


def normalized_risk_is_at_least(free: jax.Array, log_probabilities: jax.Array) -> Check:
    """The losses of all labels sum to one, so no risk is below the least probability."""
    q = jax.nn.softmax(log_probabilities)
    return Check(
        "normalized-cross-entropy-lower-bound",
        "derived",
        "NCE: risk(f) >= min_k q_k for every f",
        conditional_risk(losses.normalized_cross_entropy, free, q),
        ">=",
        q.min(),
        tolerance_float32=1e-5,
    )


def normalized_prefers_the_wrong_class() -> Check:
    """An instance: a wrong prediction has a smaller risk than the sure prediction of the right class."""
    q = jnp.array([0.5, 0.3, 0.2])
    risk = functools.partial(conditional_risk, losses.normalized_cross_entropy)
    return Check(
        "normalized-cross-entropy-is-inconsistent",
        "derived",
        "NCE, q = (.5, .3, .2): f = (0, .5, -5e4), which predicts class 2, has risk 0.200007; f = (30, 0, 0) "
        "has 0.25",
        jnp.stack([risk(jnp.array([0.0, 0.5, -5e4]), q), risk(jnp.array([30.0, 0.0, 0.0]), q)]),
        "==",
        np.array([0.200007, 0.25]),
        tolerance=1e-6,  # as many digits as are claimed
        tolerance_float32=1e-6,
    )


def active_passive_sum_is_right(rng: np.random.Generator) -> Check:
    """With RCE added, a search from many starts in ``|f| <= 30`` ends at a sure prediction of the likeliest
    class.
    """
    q = jnp.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])

    def loss(logits: jax.Array, labels: jax.Array, **axes: Any) -> jax.Array:
        reverse = losses.reverse_cross_entropy(logits, labels, log_zero=-9.21, **axes)
        return losses.normalized_cross_entropy(logits, labels, **axes) + reverse

    risk = oracles.quick_jit(jax.value_and_grad(lambda f: conditional_risk(loss, f, q)))
    starts = rng.normal(0, 1, (6, 6))
    ends = [oracles.minimise(lambda f: f, start, bound=30, compiled=risk) for start in starts]
    scores, _ = min(ends, key=lambda end: end[1])
    return Check(
        "nce-plus-rce-is-right",
        MA,
        "NCE + RCE, |f| <= 30: the least risk found from 6 starts has s >= 0.99 on the likeliest class",
        _softmax(scores)[0],
        ">=",
        0.99,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module on random inputs."""
    rng = np.random.default_rng(seed + 60)
    q = oracles.separated_probabilities(rng, 15, 5)
    yield bfgs_ends_at(
        "gce-minimiser",
        ZHANG,
        "BFGS on the risk of GCE (q = 0.4) ends at s proportional to probabilities^(1 / (1 - q))",
        losses.generalized_cross_entropy,
        {"q": 0.4},
        q,
        generalized_cross_entropy_minimiser(q, q=0.4),
    )
    yield bfgs_ends_at(
        "brier-minimiser",
        "Brier (1950)",
        "BFGS on the risk of the Brier score ends at s = q",
        losses.brier,
        {},
        q,
        q,
    )
    yield symmetric_cross_entropy_is_stationary(q)
    yield jensen_shannon_orders_all_classes(q)
    starts = rng.normal(0, 1, (128, 6)), rng.normal(0, 1, (128, 6))
    yield falsify.search(vertices_are_best, starts, steps=100).check
    probabilities = oracles.draw_probabilities(rng, 128, 6)
    best = np.stack([robust_log_loss_minimiser(row, a=0.1) for row in probabilities])

    # The probabilities stand still: they are looked up by an integer, which the search does not move.
    def claim(free: jax.Array, case: jax.Array) -> Check:
        return robust_log_loss_minimiser_is_best(
            free, jnp.asarray(probabilities)[case], jnp.asarray(best)[case]
        )

    yield falsify.search(claim, (starts[0], np.arange(128)), step_size=0.2).check
    yield weston_watkins_ties()
    yield falsify.search(vertex_serves_two_orders, (rng.normal(0, 2, (64, 3)),), steps=60).check
    yield oracles.quick_jit(normalized_risk_reaches_the_least_probability)(jnp.asarray(probabilities))
    yield falsify.search(normalized_risk_is_at_least, starts, steps=100).check
    yield normalized_prefers_the_wrong_class()
    yield active_passive_sum_is_right(rng)
