"""Best conditional risks of the comp-sum losses: over all scores, over those that predict a class, in a box.

All are functions of arrays that compile, vectorise and differentiate: ``p [..., n]`` are the class
probabilities at a point, and ``tau`` is a scalar or broadcasts against ``[...]``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.losses.comp_sum import comp_sum_of


def phi(u: ArrayLike, tau: ArrayLike) -> jax.Array:
    r"""Phi^tau(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau), log(1 + u) at tau = 1, for u >= 0.

    Example:
      >>> print([round(float(phi(3.0, tau)), 4) for tau in (0.0, 1.0, 2.0)])
      [3.0, 1.3863, 0.75]
    """
    u = checks.floating("u", u)
    return comp_sum_of(jnp.log1p(u), 1 - as_tau(tau, u.dtype))


def as_tau(tau: ArrayLike, dtype: np.dtype) -> jax.Array:
    """``tau`` in a dtype; a number below 0 is refused, a traced one NaN."""
    if checks.is_concrete(tau) and not np.all((np.asarray(tau) >= 0) & np.isfinite(tau)):
        raise ValueError(f"tau must lie in [0, inf), got {tau!r}")
    array = jnp.asarray(tau).astype(dtype)
    return jnp.where((array >= 0) & jnp.isfinite(array), array, jnp.nan)


def bayes_risk(p: ArrayLike, tau: ArrayLike) -> jax.Array:
    r"""Least conditional risk of the comp-sum loss over all scores.

    .. math:: C^* = \frac{\big(\sum_k p_k^a\big)^{2-\tau} - 1}{1 - \tau}, \quad a = \frac{1}{2 - \tau}
              \quad (\tau < 2), \qquad \frac{1 - \max p}{\tau - 1} \quad (\tau \ge 2)

    At tau = 1 it is the entropy. For tau < 2 it is attained where softmax(h) is proportional to p^a.

    Args:
      p: class probabilities, floating, shape ``[..., n]``, each row sums to 1.
      tau: member of the family, in [0, inf), broadcasts against ``[...]``.

    Returns:
      Shape ``[...]``, in at least float32.

    References:
      Mao, Mohri and Zhong (2023), arXiv 2304.07288; the case tau >= 2 is the limit, not attained.

    Example:
      >>> p = jnp.array([0.5, 0.5])
      >>> print([round(float(bayes_risk(p, tau)), 4) for tau in (0.0, 1.0, 3.0)])   # 1, log 2, 1/4
      [1.0, 0.6931, 0.25]
    """
    p = checks.floating("p", p)
    tau = as_tau(tau, p.dtype)
    near = tau < 4 / 3
    return comp_sum_of(jnp.where(near, _spread_out(p, jnp.where(near, tau, 1)), _by_the_top(p, tau)), 1 - tau)


def log1p_ratio(x: jax.Array) -> jax.Array:
    """log(1 + x) / x for x > -1, smooth through 0.

    Example:
      >>> print(log1p_ratio(jnp.array([0.0, 1.0])))
      [1.        0.6931472]
    """
    small = jnp.abs(x) < 1e-2
    safe = jnp.where(small, 1, x)
    tiny, series = jnp.where(small, x, 0), jnp.zeros_like(x)
    for n in range(9, 0, -1):
        series = 1 / n - tiny * series
    return jnp.where(small, series, jnp.log1p(safe) / safe)


def _spread_out(p: jax.Array, tau: jax.Array) -> jax.Array:
    """The cross-entropy whose comp-sum loss is the least risk, -log(sum p^a) / (a - 1), tau < 4/3."""
    power = (tau - 1) / (2 - tau)  # a - 1, without cancellation near tau = 1
    logarithm, _ = _logarithms(p)
    # Of a power above 0 the derivative at probability 0 is finite, and this is its limit.
    absent = jnp.where(power > 0, jnp.inf, 0)[..., None]
    each = comp_sum_of(jnp.where(p == 0, absent, -logarithm), -power[..., None])
    excess = -jnp.sum(p * each, -1)  # (sum p^a - 1) / power, at power 0 the negative entropy
    return -excess * log1p_ratio(power * excess)


def _by_the_top(p: jax.Array, tau: jax.Array) -> jax.Array:
    """The same from the likeliest class, to relative accuracy however small the others are, tau > 1."""
    rest, tau = jnp.where(tau < 2, 2 - tau, 1), jnp.where(tau > 1, tau, 2)
    logarithm, leading = _logarithms(p)
    log_top = jnp.sum(jnp.where(leading, logarithm, 0), -1)
    counted = (p > 0) & ~leading
    ratios = jnp.where(counted, (logarithm - log_top[..., None]) / rest[..., None], 0)
    powers = jnp.sum(jnp.where(counted, jnp.exp(ratios), 0), -1)
    exponent = log_top + jnp.where(tau < 2, rest * jnp.log1p(powers), 0)
    return exponent / (1 - tau)


def _logarithms(p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logarithms, 0 where p is, and which class is the likeliest; near 1, its own comes from the others."""
    leading = _leading(p)
    left = jnp.sum(jnp.where(leading, 0, p), -1, keepdims=True)
    sure = leading & (p > 0.5)
    plain = jnp.log(jnp.where((p == 0) | sure, 1, p))
    return jnp.where(sure, jnp.log1p(-jnp.where(sure, left, 0)), plain), leading


def bayes_risk_predicting(p: ArrayLike, k: ArrayLike, tau: ArrayLike) -> jax.Array:
    r"""Least conditional risk over the scores that predict class k: h_k >= h_j for all j.

    For tau < 2 class k is pooled with the likeliest classes: each class above the pool's mean joins it, and
    the result is :func:`bayes_risk` with the pool's probabilities replaced by their mean. For tau >= 2 it is
    :math:`(1 - \max_A |A|^{1-\tau} P_A) / (\tau - 1)` over sets of k and the m likeliest other classes.

    Args:
      p: class probabilities, floating, shape ``[..., n]``, each row sums to 1.
      k: predicted class, integer, shape ``[...]``; NaN comes back where it is no class.
      tau: member of the family, in [0, inf), broadcasts against ``[...]``.

    Returns:
      Shape ``[...]``; :func:`bayes_risk` if k is the likeliest class.

    References:
      derived; Mao, Mohri and Zhong (2023) bound it from below by their transform.

    Example:
      >>> p = jnp.array([0.7, 0.3])
      >>> print(f"{bayes_risk_predicting(p, 1, 1.0):.4f}")   # equal scores: log 2
      0.6931
    """
    p = checks.floating("p", p)
    tau = as_tau(tau, p.dtype)
    classes = jnp.arange(p.shape[-1])
    chosen = jnp.asarray(k)[..., None] == classes
    own = jnp.sum(jnp.where(chosen, p, 0), -1)
    others = jnp.flip(jnp.sort(jnp.where(chosen, 0, p), axis=-1), -1)
    # The pool's mass after 0, 1, ..., n - 1 other classes have joined; the last of the sorted is k's own 0.
    joined = jnp.cumsum(others, -1) - others
    mass, size = own[..., None] + joined, classes + jnp.ones((), p.dtype)
    mean = jnp.max(mass / size, -1, keepdims=True)
    pooled = bayes_risk(jnp.where(chosen, mean, jnp.minimum(p, mean)), tau)
    high = jnp.where(tau >= 2, tau, 2)
    # What the classes outside the set leave in full, and those inside in part.
    outside = jnp.flip(jnp.cumsum(jnp.flip(others, -1), -1), -1)
    lost = outside - mass * jnp.expm1((1 - high[..., None]) * jnp.log(size))
    found = jnp.where(tau < 2, pooled, jnp.min(lost, -1) / (high - 1))
    return jnp.where(jnp.any(chosen, -1), found, jnp.nan)


def bayes_risk_bounded(p: ArrayLike, tau: ArrayLike, bound: ArrayLike) -> jax.Array:
    r"""Least conditional risk over scores with :math:`|h_k| \le \Lambda`.

    For tau < 2 the best softmax is proportional to :math:`x p^a` clipped to :math:`[1, e^{2\Lambda}]`; a
    bisection finds x. For tau >= 2 the m likeliest classes get the highest score, the others
    the lowest, for the best m.

    Args:
      p: class probabilities, floating, shape ``[..., n]``, each row sums to 1.
      tau: member of the family, in [0, inf), broadcasts against ``[...]``.
      bound: ``Lambda`` in [0, inf), broadcasts against ``[...]``.

    Returns:
      Shape ``[...]``.

    References:
      derived.

    Example:
      >>> certain = jnp.array([1.0, 0.0, 0.0])
      >>> print(f"{bayes_risk_bounded(certain, 0.0, 1.0):.4f}")   # 2 exp(-2)
      0.2707
    """
    p = checks.floating("p", p)
    tau, bound = as_tau(tau, p.dtype), jnp.asarray(bound, p.dtype)
    shape = jnp.broadcast_shapes(p.shape[:-1], tau.shape, bound.shape)
    p, tau, bound = (
        jnp.broadcast_to(p, (*shape, p.shape[-1])),
        *(jnp.broadcast_to(x, shape) for x in (tau, bound)),
    )
    concave = _bounded_by_levels(p, jnp.where(tau >= 2, tau, 2), bound)
    return jnp.where(tau < 2, _bounded_by_search(p, jnp.where(tau < 2, tau, 1), bound), concave)


def _bounded_by_levels(p: jax.Array, tau: jax.Array, bound: jax.Array) -> jax.Array:
    """The least over m of the risk of the m likeliest classes on top, the others at the bottom."""
    classes, spread, power = p.shape[-1], 2 * bound[..., None], tau[..., None] - 1
    count = jnp.arange(1, classes + 1, dtype=p.dtype)
    above = jnp.cumsum(jnp.flip(jnp.sort(p, axis=-1), -1), -1)
    below = jnp.flip(jnp.cumsum(jnp.sort(p, axis=-1), -1), -1)
    below = jnp.concatenate([below[..., 1:], jnp.zeros_like(below[..., :1])], -1)
    normaliser = jnp.log(count) + jnp.log1p((classes - count) / count * jnp.exp(-spread))
    lost = -above * jnp.expm1(-power * normaliser) - below * jnp.expm1(-power * (normaliser + spread))
    return jnp.min(lost / power, -1)


def _bounded_by_search(p: jax.Array, tau: jax.Array, bound: jax.Array) -> jax.Array:
    rest = (2 - tau)[..., None]
    logarithm, _ = _logarithms(p)
    log_p = jnp.where(p == 0, jnp.log(jnp.finfo(p.dtype).tiny), logarithm)
    spread = 2 * bound[..., None]

    def scores_at(level: jax.Array) -> jax.Array:
        return jnp.clip((log_p - level[..., None]) / rest, 0, spread)

    def halve(_, ends):
        low, high = ends
        level = (low + high) / 2
        # The derivative's sign, also on the plateaus where every score is clipped and the derivative is 0.
        # Both sides are sums of two parts, the second of which may be far below the rounding of a score.
        scores = scores_at(level)
        top, normaliser = _log_sum_exp(scores)
        clipped = jnp.clip(log_p, level[..., None], level[..., None] + rest * spread)  # level + rest * scores
        best, more = _log_sum_exp(log_p + (1 - rest) * (scores - top[..., None]))
        above = jnp.max(clipped, -1) - best + (normaliser - more) > 0
        return jnp.where(above, low, level), jnp.where(above, level, high)

    ends = jnp.min(log_p - rest * spread, -1), jnp.max(log_p, -1)
    low, high = jax.lax.fori_loop(0, 80, halve, jax.lax.stop_gradient(ends))
    scores = scores_at(jax.lax.stop_gradient((low + high) / 2))
    top, normaliser = _log_sum_exp(scores)
    return jnp.sum(p * comp_sum_of(normaliser[..., None] + (top[..., None] - scores), 1 - tau[..., None]), -1)


def _log_sum_exp(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest entry of each row, and what the others add to it: two parts of the logarithm."""
    leading = _leading(x)
    top = jnp.sum(jnp.where(leading, x, 0), -1)
    others = jnp.where(leading, 0, jnp.exp(jnp.where(leading, 0, x - top[..., None])))
    return top, jnp.log1p(jnp.sum(others, -1))


def _leading(x: jax.Array) -> jax.Array:
    """True at the largest entry of each row, the first of them if there are several."""
    return jnp.arange(x.shape[-1], dtype=jnp.int32) == jnp.argmax(x, -1)[..., None].astype(jnp.int32)
