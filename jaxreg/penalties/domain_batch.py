"""Features and labels of several domains under one linear head, checked; what every penalty starts from."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks

Head = Mapping[str, ArrayLike]
"""``{"kernel": [D, K], "bias": [K]}``, the layout of flax's linear layers; ``bias`` may be absent."""
HeadTree = dict[str, jax.Array]
"""The same with arrays, for what has the shape of a head."""


class DomainBatch(NamedTuple):
    """A head and the examples of E domains, checked, in the dtype of the computation."""

    kernel: jax.Array
    """Weights of the head, shape ``[D, K]``; K = 1 is the logistic head with one logit."""
    bias: jax.Array | None
    """Its bias, shape ``[K]``, or None."""
    features: jax.Array
    """Shape ``[E, B, D]``; 0 where an example does not count."""
    targets: jax.Array | None
    """Probabilities of the classes, shape ``[E, B, K]``; with one logit that of class 1; or None."""
    weights: jax.Array
    """Of the examples, shape ``[E, B]``: they add up to 1 in each domain, and to 0 in an empty one. NaN in a
    domain with a label or weight that is none."""
    domain_weights: jax.Array
    """One over the number of domains that are not empty, and 0 for those that are, shape ``[E]``."""

    @property
    def domain_count(self) -> jax.Array:
        """Number of domains that are not empty, a scalar in the dtype of the computation."""
        return jnp.sum((self.domain_weights > 0).astype(self.domain_weights.dtype))

    @property
    def logits(self) -> jax.Array:
        """Scores of the head, shape ``[E, B, K]``."""
        return self.apply(self.kernel, self.bias)

    def apply(self, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        """The features times one kernel ``[D, K]``, or one a domain ``[E, D, K]``: ``[E, B, K]``."""
        scores = contract("ebd,edk->ebk" if kernel.ndim == 3 else "ebd,dk->ebk", self.features, kernel)
        if bias is None:
            return scores
        return scores + (bias[:, None, :] if bias.ndim == 2 else bias[None, None, :])

    def adjoint(self, values: jax.Array) -> HeadTree:
        """Weighted means of ``values[k] * (features, 1)`` within domains, from ``[E, B, K]``.

        Returns:
          ``{"kernel": [E, D, K], "bias": [E, K]}``, without the bias if the head has none.
        """
        weighted = self.weights[..., None] * values
        moments = {"kernel": contract("ebd,ebk->edk", self.features, weighted)}
        if self.bias is not None:
            moments["bias"] = jnp.sum(weighted, axis=1)
        return moments

    def mean(self, values: jax.Array) -> jax.Array:
        """Mean of ``values`` ``[E, B, ...]`` within each domain, shape ``[E, ...]``; 0 in an empty one."""
        weights = jnp.expand_dims(self.weights, tuple(range(2, values.ndim)))
        return jnp.sum(weights * values, axis=1)

    def over_domains(self, values: jax.Array) -> jax.Array:
        """Mean of ``values`` ``[E, ...]`` over the domains that are not empty, shape ``[...]``."""
        weights = jnp.expand_dims(self.domain_weights, tuple(range(1, values.ndim)))
        return jnp.sum(weights * values, axis=0)

    def spread(self, moments: HeadTree, reference: HeadTree | None = None) -> jax.Array:
        """Mean over domains of the squared distance of ``moments`` ``[E, ...]`` from a reference.

        Args:
          moments: a tree of arrays with a leading domain axis.
          reference: the same without that axis, or one for each domain; None takes their mean.
        """
        if reference is None:
            reference = jax.tree.map(self.over_domains, moments)

        def squared_distance(own: jax.Array, other: jax.Array) -> jax.Array:
            other = other if other.ndim == own.ndim else other[None]
            return jnp.sum(jnp.square(own - other), axis=tuple(range(1, own.ndim)))

        squares = jax.tree.map(squared_distance, moments, reference)
        return self.over_domains(functools.reduce(jnp.add, jax.tree.leaves(squares)))


def domain_batch(
    head: Head,
    features: ArrayLike,
    labels: ArrayLike | None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> DomainBatch:
    """Check a head, features and labels; what every penalty does first.

    Args:
      head: ``{"kernel": [D, K], "bias": [K]}``, floating; ``bias`` may be absent. With K = 1 it is the
        logistic head with one logit, equivalent to two classes with logits ``(0, s)``.
      features: inputs of the head, floating, shape ``[E, B, D]`` for E domains of B examples.
      labels: classes, integer in 0..K-1 (0 or 1 with one logit), shape ``[E, B]``; or their probabilities,
        floating, shape ``[E, B, K]`` (with one logit that of class 1). None for what needs no labels.
      where: examples that count, boolean, broadcastable to ``[E, B]``; None counts all. What is left out may
        hold any features, NaN included, and any label.
      weights: of the examples relative to each other within their domain, in [0, inf), broadcastable to
        ``[E, B]``; None weighs them equally. An example of weight 0 is left out.

    Returns:
      The checked arguments, in the widest dtype of head and features and at least float32.

    Raises:
      TypeError: a dtype is not the one above, or the head no mapping.
      ValueError: a shape is not the one above, or a Python or NumPy weight is out of range.
    """
    kernel, bias = _checked_head(head)
    inputs = checks.floating("features", features)
    if inputs.ndim != 3:
        raise ValueError(f"features must have shape [domains, examples, features], got shape {inputs.shape}")
    if 0 in inputs.shape[:2]:
        raise ValueError(f"features must have at least one domain and one example, got shape {inputs.shape}")
    if inputs.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"features must have as many entries as head['kernel'] has rows, {kernel.shape[0]}, "
            f"got shape {inputs.shape}"
        )
    dtype = checks.widest(inputs, kernel, *(() if bias is None else (bias,)))
    kernel, inputs = kernel.astype(dtype), inputs.astype(dtype)
    bias = None if bias is None else bias.astype(dtype)
    targets, valid = _targets(labels, inputs.shape[:2], kernel.shape[1], dtype)
    raw, counted = _raw_weights(where, weights, inputs.shape[:2], dtype)
    if raw is None:
        domains, examples = inputs.shape[:2]
        normal = jnp.full((domains, examples), 1 / examples, dtype)
        share = jnp.full((domains,), 1 / domains, dtype)
    else:
        assert counted is not None
        inputs = jnp.where(counted[..., None], inputs, 0)
        total = jnp.sum(raw, axis=1)
        normal = raw / jnp.where(total == 0, 1, total)[:, None]
        present = (total != 0).astype(dtype)
        share = present / jnp.maximum(jnp.sum(present), 1)
    if valid is not None:
        # A factor of NaN makes the gradients NaN as well.
        broken = ~valid if counted is None else ~valid & counted
        normal = normal * jnp.where(broken, jnp.nan, 1).astype(dtype)
    if targets is not None and counted is not None:
        targets = jnp.where(counted[..., None], targets, 0)
    return DomainBatch(kernel, bias, inputs, targets, normal, share)


def contract(subscripts: str, left: jax.Array, right: jax.Array, **options) -> jax.Array:
    """``jnp.einsum`` of two operands that also contracts axes sharded over an explicit mesh."""
    operands, result = subscripts.split("->")
    names: dict[str, object] = {}
    for axes, array in zip(operands.split(","), (left, right), strict=True):
        for axis, placed in zip(axes, jax.typeof(array).sharding.spec, strict=True):
            names[axis] = names.get(axis) or placed
    if any(placed is not None for placed in names.values()):
        options["out_sharding"] = jax.P(*(names[axis] for axis in result))
    return jnp.einsum(subscripts, left, right, **options)


def replicated(array: jax.Array) -> jax.Array:
    """The array on every device of an explicit mesh."""
    sharding = jax.typeof(array).sharding
    if all(axis is None for axis in sharding.spec):
        return array
    return jax.sharding.reshard(array, jax.P(*[None] * array.ndim))


def _checked_head(head: Head) -> tuple[jax.Array, jax.Array | None]:
    if not isinstance(head, Mapping):
        raise TypeError(f"head must be a mapping with 'kernel' and 'bias', got {type(head).__name__}")
    if "kernel" not in head or set(head) - {"kernel", "bias"}:
        raise ValueError(f"head must have 'kernel' and may have 'bias', got {sorted(map(str, head))}")
    kernel = checks.floating("head['kernel']", head["kernel"])
    if kernel.ndim != 2 or kernel.shape[1] == 0:
        raise ValueError(f"head['kernel'] must have shape [features, classes], got shape {kernel.shape}")
    if head.get("bias") is None:
        return kernel, None
    bias = checks.floating("head['bias']", head["bias"])
    if bias.shape != kernel.shape[1:]:
        raise ValueError(
            f"head['bias'] must have one entry a column of head['kernel'], shape {kernel.shape[1:]}, "
            f"got shape {bias.shape}"
        )
    return kernel, bias


def _targets(
    labels: ArrayLike | None, shape: tuple[int, ...], classes: int, dtype: jnp.dtype
) -> tuple[jax.Array | None, jax.Array | None]:
    """Probabilities ``[E, B, K]`` of the labels, and which are labels ``[E, B]``."""
    if labels is None:
        return None, None
    if checks.is_concrete(labels) and np.asarray(labels).dtype.kind in "iu":
        # A 64-bit label must not wrap around into the range on its way to 32 bits.
        labels = np.clip(np.asarray(labels), -1, np.iinfo(np.int32).max)
    given = jnp.asarray(labels)
    if jnp.issubdtype(given.dtype, jnp.integer):
        if given.shape != shape:
            raise ValueError(
                f"labels must have the leading axes of features, {shape}, if integer, got {given.shape}"
            )
        given = given if given.dtype.itemsize >= 4 else given.astype(jnp.int32)
        valid = (given >= 0) & (given < max(classes, 2))
        if classes == 1:
            return given[..., None].astype(dtype), valid
        numbers = jax.lax.broadcasted_iota(given.dtype, (1, 1, classes), 2)
        return (given[..., None] == numbers).astype(dtype), valid
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(f"labels must be integer, or floating probabilities, got {given.dtype}")
    if given.shape != (*shape, classes):
        raise ValueError(
            f"labels must have shape {(*shape, classes)} if they are probabilities, got {given.shape}"
        )
    slack = float(jnp.finfo(given.dtype).eps) ** 0.5
    total = jnp.sum(given, axis=-1, dtype=checks.widest(given))
    valid = jnp.all(given >= 0, axis=-1) & (total <= 1 + slack)
    return given.astype(dtype), valid if classes == 1 else valid & (total >= 1 - slack)


def _raw_weights(
    where: ArrayLike | None, weights: ArrayLike | None, shape: tuple[int, ...], dtype: jnp.dtype
) -> tuple[jax.Array | None, jax.Array | None]:
    """Weights before normalisation and which examples count, both ``[E, B]``, or None if all count alike."""
    if where is None and weights is None:
        return None, None
    keep = None
    if where is not None:
        keep = jnp.asarray(where)
        if keep.dtype != jnp.bool_:
            raise TypeError(f"where must be boolean, got {keep.dtype}")
        keep = _broadcast("where", keep, shape)
    if weights is None:
        assert keep is not None
        return keep.astype(dtype), keep
    raw = np.asarray(weights) if checks.is_concrete(weights) else jnp.asarray(weights)
    if not jnp.issubdtype(raw.dtype, jnp.floating) and not jnp.issubdtype(raw.dtype, jnp.integer):
        raise TypeError(f"weights must be real, got {raw.dtype}")
    raw = jnp.asarray(checks.known("weights", raw, "[0, inf)", dtype) if isinstance(raw, np.ndarray) else raw)
    raw = _broadcast("weights", raw.astype(dtype), shape)
    raw = jnp.where((raw >= 0) & (raw < jnp.inf), raw, jnp.nan)
    raw = raw if keep is None else jnp.where(keep, raw, 0)
    return raw, raw != 0


def _broadcast(name: str, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    try:
        return jnp.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to the leading axes of features, {shape}, got shape {values.shape}"
        ) from None
