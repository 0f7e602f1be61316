"""Label-distributionally-robust losses with capped weights."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.checks import Classified, expand
from jaxreg.losses.class_sums import apart, class_sum, evaluated_once
from jaxreg.losses.largest_classes import largest
from jaxreg.losses.ldr import Known, ldr_kl
from jaxreg.losses.maximal_weights import Parts, class_count, value_and_tangent
from jaxreg.simplex import Left, _inverse, centred_kl_maximum, relative_entropy

DOMAINS = ("distribution", "scaled_distribution", "subdistribution")
"""Where the weights of ``ldr_top_k`` may lie."""

_FEW = 16
"""Up to this many classes are added up one by one, vectorised over the examples."""


def ldr_top_k(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    k: ArrayLike,
    temperature: ArrayLike = 0.0,
    margin: ArrayLike = 0.0,
    domain: str = "distribution",
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Largest expected margin over weights of at most 1/k, less a KL divergence from the uniform ones.

    .. math:: \psi(f, y) = \max_{p \in \Omega_k} \sum_l p_l z_l - \lambda\,\mathrm{KL}(p \,\|\, \tfrac1K),
              \qquad \Omega_k = \{p \in \Delta : p_l \le \tfrac1k\},
              \qquad z_l = f_l - f_y + c\,[l \ne y].

    At temperature 0 this is the mean of the k largest :math:`z_l`, the label's 0 among them; above it
    the largest j < k classes weigh 1/k each and the rest share 1 - j/k by a softmax, where j is the
    smallest number that keeps them below the cap. ``k = 1`` is :func:`ldr_kl`, ``k = K`` the mean margin.

    At temperature 0 there are two other domains, those of the top-k hinge losses:

    * ``"scaled_distribution"``, :math:`\{s p : 0 \le s \le 1, p \in \Omega_k\}`: the positive part of
      the mean of the k largest :math:`z_l` (top-k hinge alpha);
    * ``"subdistribution"``, :math:`\{p \ge 0, \sum_l p_l \le 1, p_l \le 1/k\}`: the mean of the
      positive parts of the k largest :math:`z_l` (top-k hinge beta).

    Both are stated with margin 1.

    Args:
      logits: scores ``f``, floating, shape ``[..., K, ...]`` with the classes on ``axis``.
      labels: classes ``y`` in 0..K-1, integer, the shape of ``logits`` without ``axis``.
      k: number of classes in 1..K that share the largest weights, integer, broadcast against
        ``labels``. A Python or NumPy value costs a partial selection, a traced or device value a sort.
      temperature: ``lambda`` in [0, inf], broadcast against ``labels``.
      margin: ``c`` in [0, inf), added to every wrong class, broadcast against ``labels``.
      domain: ``"distribution"``, or at the Python or NumPy temperature 0 one of the two above.
      axis: the class axis of ``logits``.
      where: classes to keep, boolean, broadcastable to ``logits``; K counts the classes kept.

    Returns:
      One value per example, the shape of ``labels``, at least float32; NaN for a label that is no
      class or a removed one, for k above the number of classes kept, and for a traced hyper-parameter
      out of range. Where the derivative is not unique at temperature 0, classes tied at the k-th
      place share their weight equally, and the positive part has derivative 0 at 0.

    Raises:
      TypeError: logits not floating, labels or k not integer, or another hyper-parameter not real.
      ValueError: shapes that do not fit, a Python or NumPy hyper-parameter out of range, an unknown
        domain, or one that the temperature does not allow.

    References:
      Zhu, Ying and Yang (2023, arXiv 2112.14869), the LDR-k and LDR-k-KL losses; Lapin, Hein and
      Schiele (2015, arXiv 1511.06683), the top-k hinge losses alpha and beta.

    Example:
      >>> logits, label = jnp.array([2.0, 1.0, -1.0, 3.0]), 0
      >>> ldr_top_k(logits, label, k=2)                           # mean of 1 and 0
      Array(0.5, dtype=float32)
      >>> ldr_top_k(logits, label, k=2, temperature=jnp.inf)      # mean(0, -1, -3, 1)
      Array(-0.75, dtype=float32)
      >>> ldr_top_k(logits, label, k=3, margin=1.0, domain="subdistribution")   # (2 + 0 + 0) / 3
      Array(0.6666667, dtype=float32)
    """
    batch = checks.classified(logits, labels, axis=axis, where=where)
    most, cap, valid = _cap(k, batch)
    scale = checks.hyperparameter("temperature", temperature, "[0, inf]", batch)
    gap = checks.hyperparameter("margin", margin, "[0, inf)", batch)
    hard = checks.is_concrete(temperature) and not np.any(np.asarray(temperature))
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {DOMAINS}, got {domain!r}")
    if domain != "distribution" and not hard:
        raise ValueError(
            f"domain {domain!r} needs temperature to be the Python or NumPy number 0, got {temperature!r}"
        )
    known = Known.of(temperature, margin, batch.logits.dtype)
    scores = batch.logits, batch.labels, batch.where
    if most == 1 and domain == "distribution":
        value = ldr_kl(*scores[:2], temperature=temperature, margin=margin, axis=batch.axis, where=scores[2])
    else:
        static = _Static(batch.axis, known, domain, most, hard)
        value = _ldr_top_k(static, *scores, scale, gap, cap)
    if valid is not None:
        value = value * jnp.where(valid, 1, jnp.nan).astype(value.dtype)
    return batch.checked(value)


class _Static(NamedTuple):
    """What is known at trace time."""

    axis: int
    known: Known
    domain: str
    most: int
    """No example has a larger k."""
    hard: bool
    """The temperature is 0."""


def _cap(k: ArrayLike, batch: Classified) -> tuple[int, jax.Array, jax.Array | None]:
    """Check k: its largest value, k within the range in the dtype of the logits, and where it was so."""
    shape, size = batch.labels.shape, batch.logits.shape[batch.axis]
    concrete = checks.is_concrete(k)
    try:
        number = np.asarray(k) if concrete else jnp.asarray(k)
    except (TypeError, ValueError):
        raise TypeError(f"k must be an integer or an array of integers, got {k!r}") from None
    if not jnp.issubdtype(number.dtype, jnp.integer):
        raise TypeError(f"k must have an integer dtype, got {number.dtype}")
    if concrete and not np.all((number >= 1) & (number <= size)):
        raise ValueError(f"k must lie in 1..{size}, the number of classes, got {k!r}")
    try:
        given = jnp.asarray(number).astype(batch.logits.dtype)
        cap = given if given.ndim == 0 else jnp.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"k must broadcast against the labels, of shape {shape}, got shape {number.shape}"
        ) from None
    most = int(np.max(number, initial=1)) if isinstance(number, np.ndarray) else size
    if concrete and batch.where is None:
        return most, cap, None
    count = class_count(batch)
    return most, jnp.clip(cap, 1, jnp.maximum(count, 1)), (cap >= 1) & (cap <= count)


class _Level(NamedTuple):
    """A score with its margin, unrounded: their sum could lose the margin, or the score."""

    score: jax.Array
    """A logit."""
    margin: jax.Array
    """What is added to it: the margin of a wrong class, 0 of the label."""

    def less(self, other: "_Level") -> jax.Array:
        """The difference; 0 between scores of -inf, but for their margins."""
        lowest = (self.score == -jnp.inf) & (other.score == -jnp.inf)
        return jnp.where(lowest, 0, self.score - other.score) + (self.margin - other.margin)


class _Scores(NamedTuple):
    """What the loss is a function of."""

    classes: _Level
    """All classes, shape of the logits; -inf at those removed."""
    own: _Level
    """The label's."""
    ordered: _Level
    """The largest of each example in descending order, on the leading axis."""

    @classmethod
    def of(cls, batch: Classified, static: "_Static", margin: jax.Array) -> "_Scores":
        axis, logits = batch.axis, batch.logits
        if batch.where is not None:
            logits = jnp.where(batch.where, logits, -jnp.inf)
        # A gather among other arithmetic keeps XLA's CPU loops from being vectorised.
        own = apart(batch.of_label(batch.logits))
        none = jnp.zeros((), margin.dtype)
        if static.known.no_margin:
            ordered = _Level(largest(logits, static.most, axis), none)
            return cls(_Level(logits, none), _Level(own, none), ordered)
        rivals = largest(jnp.where(batch.wrong, logits, -jnp.inf), static.most, axis)
        classes = _Level(logits, jnp.where(batch.wrong, batch.per_class(margin), 0))
        fixed, gap = (expand(jax.lax.stop_gradient(part), 0) for part in (own, margin))
        # Put the label in its place among the others.
        place = expand(_total((rivals - fixed > -gap).astype(logits.dtype)), 0)
        ranks = _ranks(rivals)
        following = jnp.concatenate([rivals[:1], rivals[:-1]])
        score = jnp.where(ranks < place, rivals, jnp.where(ranks == place, fixed, following))
        return cls(classes, _Level(own, none), _Level(score, jnp.where(ranks == place, 0, gap)))

    def gap(self, level: _Level) -> jax.Array:
        """The margin z of a level; +inf throughout where the label's score is -inf and not all are."""
        own, largest = self.own.score, self.ordered.score[0]
        unbounded = jnp.isposinf(largest - own)
        if level.score.ndim > own.ndim:
            own, unbounded = own[None], unbounded[None]
        gap = (level.score - own) + level.margin
        return jnp.where(unbounded, jnp.inf, gap)

    def above(self, threshold: _Level, axis: int) -> jax.Array:
        """How far each class lies above a level of each example."""
        return self.classes.less(_Level(expand(threshold.score, axis), expand(threshold.margin, axis)))

    def tied(self, threshold: _Level, batch: Classified) -> jax.Array:
        """The number of classes at a level of each example."""
        shape = batch.logits.shape
        arrays = [jnp.broadcast_to(part, shape) for part in self.classes if part.ndim]
        kept = [] if batch.where is None else [batch.where]

        def term(*parts):
            *classes, score, margin = parts
            level = _Level(classes[0], classes[1] if len(arrays) == 2 else self.classes.margin)
            same = jax.lax.stop_gradient(level.less(_Level(score, margin))) == 0
            return (same & classes[-1] if kept else same).astype(score.dtype)

        rows = [jnp.broadcast_to(part, batch.labels.shape) for part in threshold]
        return class_sum(term, batch.axis, [*arrays, *kept], rows)


def _ranks(ordered: jax.Array) -> jax.Array:
    """0, 1, ... along the leading axis, in the shape of ``ordered``."""
    return jax.lax.broadcasted_iota(ordered.dtype, ordered.shape, 0)


def _total(values: jax.Array) -> jax.Array:
    """Sum over the leading axis."""
    # XLA's CPU reductions of a leading axis are not vectorised, sums of a few arrays are.
    return functools.reduce(jnp.add, list(values)) if len(values) <= 16 else jnp.sum(values, 0)


def _top_k_parts(static, logits, labels, where, temperature, margin, cap) -> Parts:
    logits = evaluated_once(logits)
    batch = Classified(logits, labels, jnp.ones_like(labels, bool), where, static.axis)
    scores = _Scores.of(batch, static, margin)
    if static.hard:
        return _hard_parts(static.domain, batch, scores, cap)
    return _soft_parts(static.known.limits, batch, scores, temperature, cap)


def _hard_parts(domain: str, batch: Classified, scores: _Scores, cap: jax.Array) -> Parts:
    axis, ordered = batch.axis, scores.ordered
    ranks, each_cap = _ranks(ordered.score), expand(cap, 0)
    threshold = _Level(*(apart(_total(jnp.where(ranks == each_cap - 1, part, 0))) for part in ordered))
    above = ordered.less(_Level(*(expand(part, 0) for part in threshold)))
    least = scores.gap(threshold)
    value = least + _advantage(above, threshold, cap)

    excess = jax.lax.stop_gradient(scores.above(threshold, axis))
    tied = excess == 0 if batch.where is None else (excess == 0) & batch.where
    share = apart((1 - _total((above > 0).astype(cap.dtype)) / cap) / scores.tied(threshold, batch))
    largest = expand(jnp.broadcast_to(1 / cap, value.shape), axis)
    weights = jnp.where(excess > 0, largest, jnp.where(tied, expand(share, axis), 0))
    mass = jnp.ones_like(value)
    if domain == "scaled_distribution":
        mass = (value > 0).astype(value.dtype)
        value, weights = jnp.maximum(value, 0), weights * expand(mass, axis)
    elif domain == "subdistribution":
        gaps = jnp.where(ranks < each_cap, scores.gap(ordered), 0)
        value = _total(jnp.maximum(gaps, 0) / each_cap)
        all_positive = least > 0
        mass = jnp.where(all_positive, 1, _total((gaps > 0).astype(cap.dtype)) / cap)
        positive = scores.above(scores.own, axis) > 0
        weights = jnp.where(expand(all_positive, axis), weights, jnp.where(positive, largest, 0))
    # The temperature does not change here.
    return Parts(batch, value, weights, mass, jnp.zeros_like(value))


def _advantage(above: jax.Array, threshold: _Level, cap: jax.Array) -> jax.Array:
    """What weights of 1/k above a threshold add to that threshold."""
    return jnp.where(threshold.score == -jnp.inf, 0, _total(jnp.maximum(above, 0) / expand(cap, 0)))


def _soft_parts(limits: bool, batch: Classified, scores: _Scores, temperature, cap) -> Parts:
    axis, count, ordered = batch.axis, class_count(batch), scores.ordered
    threshold = _Level(*(apart(part) for part in _tail_maximum(batch, scores, temperature, cap)))
    below = scores.above(threshold, axis)
    above = ordered.less(_Level(*(expand(part, 0) for part in threshold)))
    capped = _total((above > 0).astype(cap.dtype))
    tail = below <= 0 if batch.where is None else (below <= 0) & batch.where
    rest = jnp.where(tail, below, 0)
    # Without a reduction to count them, and with one of few classes to see how far they spread.
    left = Left(apart(count - capped), len(ordered.score) - 1 if batch.where is None else None)
    maximum = centred_kl_maximum(rest, temperature, tail, axis=axis, limits=limits, left=left)

    mass = apart(1 - capped / cap)
    # The divergence splits into that of the two groups and those within them, which is 0 at the capped.
    spare = (count - cap) / cap
    groups = capped / count * relative_entropy(spare)
    groups += (1 - capped / count) * relative_entropy(-capped * spare / (count - capped))
    value = scores.gap(threshold) + _advantage(above, threshold, cap)
    less = mass * maximum.value - jnp.where(capped > 0, temperature, 0) * groups
    value = jnp.where(jnp.isposinf(value), jnp.inf, value + less)
    largest = expand(jnp.broadcast_to(1 / cap, value.shape), axis)
    weights = jnp.where(below > 0, largest, maximum.weights * expand(mass, axis))
    return Parts(batch, value, weights, jnp.ones_like(value), groups + mass * maximum.divergence)


def _tail_maximum(batch: Classified, scores: _Scores, temperature, cap) -> _Level:
    """The largest score that is not capped: the first, with j before it, at which
    ``k - j <= sum_{l > j} exp((z_l - z_{j+1}) / temperature)``; the sums are built up from the smallest.
    """
    temperature = jax.lax.stop_gradient(temperature)
    ordered, count = scores.ordered, class_count(batch)
    most, last = len(ordered.score), _Level(*(part[-1] for part in _spread_out(ordered)))

    def exponential(difference, temperature):
        exponent = difference * _inverse(temperature)
        exponent = jnp.where(temperature == 0, jnp.where(difference == 0, 0, -jnp.inf), exponent)
        return jnp.exp(jnp.where(jnp.isinf(temperature), 0, exponent))

    present = jnp.where(count < most, 0, 1).astype(last.score.dtype)
    if most == batch.logits.shape[batch.axis]:
        tail = jnp.where(jnp.isnan(last.score), last.score, present)
    else:
        below = jax.lax.stop_gradient(scores.above(last, batch.axis))
        kept = [] if batch.where is None else [batch.where]

        def term(below, *rest):
            *kept, temperature = rest
            power = jnp.where(below < 0, exponential(below, temperature), 1)
            return jnp.where(kept[0], power, 0) if kept else power

        if batch.logits.shape[batch.axis] <= _FEW:
            total = class_sum(term, batch.axis, [below, *kept], [temperature])
        else:
            total = jnp.sum(term(below, *kept, expand(temperature, batch.axis)), batch.axis)
        # As many terms as there are larger scores are 1 exactly.
        tail = jnp.maximum(total - (most - 1), present)

    def step(carry, element):
        tail, threshold = carry
        rank, level, following = element
        tail = jnp.where(rank < count, 1 + exponential(following.less(level), temperature) * tail, 0)
        return (tail, jax.tree.map(lambda a, b: jnp.where(cap - rank <= tail, a, b), level, threshold)), None

    spread_out = _spread_out(ordered)
    earlier, later = (_Level(*(part[cut] for part in spread_out)) for cut in (slice(-1), slice(1, None)))
    ranks = jnp.arange(most - 1, dtype=last.score.dtype)
    return jax.lax.scan(step, (tail, last), (ranks, earlier, later), reverse=True, unroll=min(most - 1, 8))[
        0
    ][1]


def _spread_out(ordered: _Level) -> _Level:
    return _Level(ordered.score, jnp.broadcast_to(ordered.margin, ordered.score.shape))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _ldr_top_k(static, logits, labels, where, temperature, margin, cap):
    return _top_k_parts(static, logits, labels, where, temperature, margin, cap).value


def _ldr_top_k_jvp(static, primals, tangents):
    changing = 0, 4, 3
    parts = _top_k_parts(static, *primals)
    return value_and_tangent(parts, [primals[n] for n in changing], [tangents[n] for n in changing])


_ldr_top_k.defjvp(_ldr_top_k_jvp, symbolic_zeros=True)
