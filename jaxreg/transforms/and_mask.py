"""The AND-mask: what all domains' gradients agree on in sign (Parascandolo et al., 2021, 2009.00329)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxreg import checks


def and_mask(threshold: ArrayLike = 1.0, *, rescale: bool = False) -> optax.GradientTransformationExtraArgs:
    r"""Average the domains' gradients, and drop entries whose signs do not agree.

    .. math:: g \mapsto m \odot \bar g, \qquad
        m = \Big[\, \Big| \tfrac1n \sum_e \mathrm{sign}(g_e) \Big| \ge \tau \Big]

    ``update`` takes one gradient a domain, each leaf with a leading axis of the n domains, as ``jax.vmap`` of
    ``jax.grad`` over the domains gives them; the update that it returns has the shape of the parameters. So
    it comes first in a chain, before Adam and the like; ``init`` takes the parameters as ever. Weight decay
    belongs behind it, and so does what keeps updates or compares their shapes with the parameters', such as
    ``optax.MultiSteps`` and ``optax.apply_if_finite``: ``optax.chain(and_mask(), optax.MultiSteps(adam, 4))``
    averages what the micro-batches agree on one by one.

    Args:
      threshold: ``tau`` in [0, 1]: 1 asks all signs to be equal, 0 passes the plain average. A gradient of 0
        agrees with neither sign.
      rescale: divide each leaf by the share of its entries that are kept, as the released code does.

    Returns:
      A transformation without state, from leaves ``[n, ...]`` to leaves ``[...]`` of their dtype.

    Raises:
      TypeError: ``threshold`` is not a real scalar; from ``update``, if updates are not floating.
      ValueError: a Python or NumPy ``threshold`` is out of range; from ``update``, if a leaf has no domain
        axis, or the leaves have different numbers of domains.

    References:
      Parascandolo et al. (2021), arXiv 2009.00329, eq. (2).

    Example:
      >>> transform = and_mask()
      >>> gradients = jnp.array([[1.0, -2.0, 0.5], [3.0, 1.0, 0.0]])   # of two domains
      >>> print(transform.update(gradients, transform.init(jnp.zeros(3)))[0])
      [2. 0. 0.]
    """
    checks.scalar("threshold", threshold, "[0, 1]")

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **unused: Any) -> tuple[Any, Any]:
        del params, unused
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(updates)]
        if any(not shape or shape[0] != shapes[0][0] or not shape[0] for shape in shapes):
            raise ValueError(
                f"updates must have one leading axis of domains on every leaf, got shapes {shapes}"
            )
        return jax.tree.map(lambda leaf: _agreed(leaf, threshold, rescale), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _agreed(gradients: ArrayLike, threshold: ArrayLike, rescale: bool) -> jax.Array:
    wide = checks.floating("updates", gradients)
    tau = checks.scalar("threshold", threshold, "[0, 1]").astype(wide.dtype)
    mean, agreement = jnp.mean(wide, axis=0), jnp.abs(jnp.mean(jnp.sign(wide), axis=0))
    # A share of signs and a threshold that are equal as fractions may be rounded differently.
    keep = agreement >= tau - 4 * jnp.finfo(wide.dtype).eps
    # A product with 0 and not a plain 0, so that inf and NaN are passed on; a threshold of NaN likewise.
    masked = jnp.where(keep, mean, 0 * mean) + 0 * tau
    if rescale:
        share = jnp.mean(keep.astype(wide.dtype))
        masked = masked / jnp.where(share == 0, 1, share)
    return masked.astype(jnp.asarray(gradients).dtype)
