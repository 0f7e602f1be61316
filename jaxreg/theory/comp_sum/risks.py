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
    rest = jnp.where(tau < 2, 2 - tau, 1)
    power = ((tau - 1) / rest)[..., None]  # a - 1, without cancellation near tau = 1
    positive = p > 0
    logarithm = jnp.log(jnp.where(positive, p, 1))
    # log sum p^a: about 0 near tau = 1, where it must not be a difference of numbers of order 1.
    near = jnp.abs(power) < 0.5
    small = jnp.sum(p * jnp.expm1(jnp.where(near, power, 0) * logarithm), -1)
    scaled = jnp.where(positive, jnp.where(near, 0, power + 1) * logarithm, -jnp.inf)
    whole = jnp.where(near[..., 0], jnp.log1p(small), jax.nn.logsumexp(scaled, axis=-1))
    exponent = jnp.where(tau < 2, rest * whole, jnp.log(jnp.max(p, -1)))
    entropy = -jnp.sum(p * logarithm, -1)
    one = tau == 1
    return jnp.where(one, entropy, jnp.expm1(exponent) / jnp.where(one, 1, 1 - tau))


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
    reached = jnp.max(size ** (1 - high[..., None]) * mass, -1)
    found = jnp.where(tau < 2, pooled, (1 - reached) / (high - 1))
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
    high = jnp.where(tau >= 2, tau, 2)
    ratio, count = jnp.exp(2 * bound)[..., None], 1 + jnp.arange(p.shape[-1])
    top = jnp.cumsum(jnp.flip(jnp.sort(p, axis=-1), -1), -1)
    power = high[..., None] - 1
    reached = (ratio**power * top + 1 - top) / (count * ratio + p.shape[-1] - count) ** power
    concave = (1 - jnp.max(reached, -1)) / (high - 1)
    return jnp.where(tau < 2, _bounded_by_search(p, jnp.where(tau < 2, tau, 1), bound), concave)


def _bounded_by_search(p: jax.Array, tau: jax.Array, bound: jax.Array) -> jax.Array:
    rest = (2 - tau)[..., None]
    log_p = jnp.log(jnp.where(p > 0, p, jnp.finfo(p.dtype).tiny))
    spread = 2 * bound[..., None]

    def scores_and_normaliser(level: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = jnp.clip((log_p - level[..., None]) / rest, 0, spread)
        return scores, jax.nn.logsumexp(scores, axis=-1, keepdims=True)

    def halve(_, ends):
        low, high = ends
        level = (low + high) / 2
        # The derivative's sign, also on the plateaus where every score is clipped and the derivative is 0.
        scores, normaliser = scores_and_normaliser(level)
        best = jax.nn.logsumexp(log_p + (1 - rest) * (scores - normaliser), axis=-1)
        above = level + rest[..., 0] * normaliser[..., 0] > best
        return jnp.where(above, low, level), jnp.where(above, level, high)

    ends = jnp.min(log_p - rest * spread, -1), jnp.max(log_p, -1)
    low, high = jax.lax.fori_loop(0, 80, halve, jax.lax.stop_gradient(ends))
    scores, normaliser = scores_and_normaliser(jax.lax.stop_gradient((low + high) / 2))
    return jnp.sum(p * comp_sum_of(normaliser - scores, 1 - tau[..., None]), -1)
