r"""Means within domains of a linear head's loss and its derivatives in the head, in closed form.

With features :math:`z`, logits :math:`s = W^\top z + b`, :math:`p = \mathrm{softmax}(s)` (with one logit
:math:`p = \sigma(s)`), targets :math:`y`, :math:`\tilde z = (z, 1)` and :math:`A = \mathrm{diag}(p) - p
p^\top` (with one logit :math:`p (1 - p)`), the cross-entropy has

.. math:: g = E[(p - y)\, \tilde z^\top], \qquad H = E[A \otimes \tilde z \tilde z^\top],
          \qquad H v = E[A\, (v^\top \tilde z)\, \tilde z^\top].

All of these are products with the features: none takes a second back-propagation or forms a matrix of the
size of the head squared. Results that have the shape of the head are trees like it with a leading domain
axis; the arguments ``head``, ``features``, ``labels``, ``where`` and ``weights`` are those of every penalty.
In an empty domain everything is 0. The Hessian does not depend on the labels.

References:
  Hemati, Zhang, Estiri and Chen (2023), arXiv 2308.11778; the closed forms are derived, see
  ``jaxreg.theory.hessian_alignment``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import linalg
from jaxreg.penalties import hessian_distances
from jaxreg.penalties.domain_batch import DomainBatch, Head, HeadTree, domain_batch
from jaxreg.penalties.predictions import Predictions


def mean_loss(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Mean cross-entropy in each domain.

    Args:
      head: ``{"kernel": [D, K], "bias": [K]}``, as for every penalty.
      features: shape ``[E, B, D]``.
      labels: integer ``[E, B]``, or probabilities ``[E, B, K]``.
      where: examples that count, boolean ``[E, B]``.
      weights: of the examples within their domain, ``[E, B]``.

    Returns:
      Shape ``[E]``, in [0, inf].

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty.

    Example:
      >>> head = {"kernel": jnp.zeros([3, 4])}
      >>> print(mean_loss(head, jnp.ones([1, 5, 3]), jnp.zeros([1, 5], int)))   # log 4
      [1.3862944]
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    assert batch.targets is not None
    return batch.mean(Predictions.of(batch.logits).loss(batch.targets))


def gradient(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> HeadTree:
    r"""Gradient of each domain's mean loss in the head, :math:`g = E[(p - y)\, \tilde z^\top]`.

    Args:
      head, features, labels, where, weights: as in :func:`mean_loss`.

    Returns:
      ``{"kernel": [E, D, K], "bias": [E, K]}``.

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty.

    Example:
      >>> head = {"kernel": jnp.zeros([1, 2]), "bias": jnp.zeros(2)}
      >>> print(gradient(head, jnp.full([1, 2, 1], 3.0), jnp.zeros([1, 2], int))["kernel"])
      [[[-1.5  1.5]]]
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    return HeadMoments.of(batch).gradient


def hessian_gradient_product(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> HeadTree:
    r"""Hessian times gradient of each domain's mean loss, :math:`H g = \|g\| \nabla \|g\|`, finite at 0.

    Args:
      head, features, labels, where, weights: as in :func:`mean_loss`.

    Returns:
      ``{"kernel": [E, D, K], "bias": [E, K]}``.

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty.

    Example:
      >>> head = {"kernel": jnp.zeros([1, 1])}   # one logit: H = z^2 / 4, g = -z / 2
      >>> print(hessian_gradient_product(head, jnp.full([1, 1, 1], 2.0), jnp.ones([1, 1], int))["kernel"])
      [[[-1.]]]
    """
    batch = domain_batch(head, features, labels, where=where, weights=weights)
    moments = HeadMoments.of(batch)
    return moments.hessian_times(moments.gradient)


def hessian_vector_product(
    head: Head,
    features: ArrayLike,
    vector: Head,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> HeadTree:
    r"""Hessian of each domain's mean loss times a vector, :math:`H v`.

    Args:
      head, features, where, weights: as in :func:`mean_loss`.
      vector: like ``head``, the same for all domains; or with a leading domain axis, one for each.

    Returns:
      ``{"kernel": [E, D, K], "bias": [E, K]}``.

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty, or ``vector`` does not have the shape of the head.

    Example:
      >>> head, vector = {"kernel": jnp.zeros([1, 2])}, {"kernel": jnp.array([[1.0, 0.0]])}
      >>> print(hessian_vector_product(head, jnp.ones([1, 1, 1]), vector)["kernel"])
      [[[ 0.25 -0.25]]]
    """
    batch = domain_batch(head, features, None, where=where, weights=weights)
    return HeadMoments.of(batch).hessian_times(_checked_vector(vector, batch))


def hessian_diagonal(
    head: Head,
    features: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> HeadTree:
    r"""Exact diagonal of the Hessian of each domain's mean loss, :math:`E[p_k (1 - p_k)\, \tilde z_d^2]`.

    Args:
      head, features, where, weights: as in :func:`mean_loss`.

    Returns:
      ``{"kernel": [E, D, K], "bias": [E, K]}``, non-negative.

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty.

    Example:
      >>> print(hessian_diagonal({"kernel": jnp.zeros([1, 2])}, jnp.full([1, 1, 1], 2.0))["kernel"])
      [[[1. 1.]]]
    """
    batch = domain_batch(head, features, None, where=where, weights=weights)
    return HeadMoments.of(batch).hessian_diagonal


def hessian_frobenius_distances(
    head: Head,
    features: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    method: hessian_distances.Method = "auto",
) -> jax.Array:
    r"""Frobenius distance of the Hessians of every two domains, :math:`\|H_a - H_b\|_F`, exact.

    Args:
      head, features, where, weights: as in :func:`mean_loss`.
      method: ``"gram"``, ``"blocks"`` or ``"auto"``, as in :func:`jaxreg.penalties.hessian_alignment`.

    Returns:
      Shape ``[E, E]``, symmetric with diagonal 0; its gradient at distance 0 is 0. An empty domain's Hessian
      is 0.

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty, or an unknown method.

    Example:
      >>> features = jnp.array([[[1.0]], [[3.0]]])
      >>> print(hessian_frobenius_distances({"kernel": jnp.zeros([1, 1])}, features)[0, 1])   # (9 - 1) / 4
      2.0
    """
    batch = domain_batch(head, features, None, where=where, weights=weights)
    squares = hessian_distances.pairwise(batch, Predictions.of(batch.logits), method)
    return linalg.root(squares)


def hessian_spectral_distances(
    head: Head,
    features: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    steps: int = 40,
    key: ArrayLike | None = None,
) -> jax.Array:
    r"""Spectral distance of the Hessians of every two domains, :math:`\|H_a - H_b\|_2`, by Lanczos' method.

    Args:
      head, features, where, weights: as in :func:`mean_loss`.
      steps: products with every Hessian, at least 1; exact, up to rounding, with as many as the head has
        entries.
      key: random key of the first direction; None takes a fixed one.

    Returns:
      Shape ``[E, E]``, symmetric with diagonal 0, never above the distance but for rounding.

    Raises:
      TypeError: as for every penalty.
      ValueError: as for every penalty, or ``steps`` below 1.

    Example:
      >>> features = jnp.array([[[1.0]], [[3.0]]])
      >>> print(hessian_spectral_distances({"kernel": jnp.zeros([1, 1])}, features)[0, 1])   # (9 - 1) / 4
      2.0
    """
    batch = domain_batch(head, features, None, where=where, weights=weights)
    domains = batch.features.shape[0]
    like = {"kernel": batch.kernel} if batch.bias is None else {"kernel": batch.kernel, "bias": batch.bias}

    def of_contrast(contrast: jax.Array) -> jax.Array:
        def product(moments: HeadMoments, vector: HeadTree) -> HeadTree:
            images = moments.hessian_times(vector)
            return jax.tree.map(
                lambda leaf: jnp.sum(jnp.expand_dims(contrast, tuple(range(1, leaf.ndim))) * leaf, axis=0),
                images,
            )

        fixed = HeadMoments.of(jax.lax.stop_gradient(batch))
        vector = linalg.leading_eigenpair(lambda v: product(fixed, v), like, steps=steps, key=key).vector
        return jnp.abs(linalg.inner_product(vector, product(HeadMoments.of(batch), vector)))

    first, second = jnp.triu_indices(domains, 1)
    unit = jnp.eye(domains, dtype=batch.kernel.dtype)
    found = jax.lax.map(of_contrast, unit[first] - unit[second])
    upper = jnp.zeros_like(unit).at[first, second].set(found)
    return upper + upper.T


class HeadMoments(NamedTuple):
    """Means within domains of what the penalties compare."""

    batch: DomainBatch
    """The domains."""
    predictions: Predictions
    """Of the head on them, ``[E, B, K]``."""

    @classmethod
    def of(cls, batch: DomainBatch) -> "HeadMoments":
        """Predict on a checked batch."""
        return cls(batch, Predictions.of(batch.logits))

    @property
    def errors(self) -> jax.Array:
        """``p - y``, shape ``[E, B, K]``."""
        assert self.batch.targets is not None
        return self.predictions.errors(self.batch.targets)

    @property
    def gradient(self) -> HeadTree:
        """Of each domain's mean loss, ``[E, D, K]`` and ``[E, K]``."""
        return self.batch.adjoint(self.errors)

    def hessian_times(self, vector: HeadTree) -> HeadTree:
        """Each domain's Hessian times one vector ``[D, K]`` for all, or one for each, ``[E, D, K]``."""
        scores = self.batch.apply(vector["kernel"], vector.get("bias"))
        return self.batch.adjoint(self.predictions.curve(scores))

    @property
    def hessian_diagonal(self) -> HeadTree:
        """Of each domain, ``[E, D, K]`` and ``[E, K]``."""
        squares = self.batch._replace(features=jnp.square(self.batch.features))
        return squares.adjoint(self.predictions.variances)


def _checked_vector(vector: Head, batch: DomainBatch) -> HeadTree:
    wanted = {"kernel": batch.kernel.shape} | ({} if batch.bias is None else {"bias": batch.bias.shape})
    if set(vector) != set(wanted):
        raise ValueError(f"vector must have the entries of the head, {sorted(wanted)}, got {sorted(vector)}")
    arrays = {name: jnp.asarray(vector[name]).astype(batch.kernel.dtype) for name in wanted}
    given = {name: array.shape for name, array in arrays.items()}
    domains = batch.features.shape[0]
    if given not in (wanted, {name: (domains, *shape) for name, shape in wanted.items()}):
        raise ValueError(
            f"vector must have the shapes of the head, {wanted}, or these with a leading axis of "
            f"{domains} domains, got {given}"
        )
    return arrays
