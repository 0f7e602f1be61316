"""Hyper-parameters with a range, as a pytree: an unconstrained number is tuned, its image is used.

A hyper-parameter holds an unconstrained array ``u`` and the scale of its perturbation; its range is part of
the tree's structure. So values change without recompilation, and optax sees arrays. A tree of them (a dict by
name, say) is what the functions here and :func:`jaxreg.bilevel.self_tuning` take; one alone is such a tree.

As one vector, as best-response layers take them, they stand in the order of ``jax.tree.leaves`` (dicts by
sorted key) with arrays raveled, ``h`` numbers in all.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.bilevel.maps import Range, inverse_softplus, log_softplus


class Hyperparameter:
    """An unconstrained array with a range: what :class:`Bounded` and its siblings have in common."""

    unconstrained: jax.Array
    """``u``, floating, any shape."""
    raw_scale: jax.Array
    """``xi``; the standard deviation of the perturbation of ``u`` is ``softplus(xi)``. The shape of ``u``."""
    range: Range
    """Where values lie; static."""
    shared: bool
    """Whether one perturbation serves the whole batch; static."""

    def _set(self, value: ArrayLike, bounds: Range, scale: ArrayLike, shared: bool) -> None:
        value, scale = (np.asarray(x) if isinstance(x, list | tuple) else x for x in (value, scale))
        values, scales = _real("value", value), _real("scale", scale)
        if not isinstance(shared, bool):
            raise TypeError(f"shared must be a bool, got {shared!r}")
        if checks.is_concrete(scale):
            checks.known("scale", scale, "(0, inf)", values.dtype)
        for name, number, interval in (
            ("low", bounds.low, "(-inf, inf)"),
            ("high", bounds.high, "(-inf, inf)"),
            ("high - low", bounds.high - bounds.low, "(0, inf)"),
        ):
            if math.isfinite(number):
                checks.known(name, number, interval, values.dtype)
        try:
            scales = jnp.broadcast_to(scales, values.shape).astype(values.dtype)
        except ValueError:
            raise ValueError(
                f"scale must broadcast to value, of shape {values.shape}, got shape {scales.shape}"
            ) from None
        # In NumPy: inside a compiled function JAX's arrays have no values.
        if checks.is_concrete(value) and not np.all(bounds.contains(np.asarray(value, values.dtype))):
            raise ValueError(f"value must lie in {bounds}, got {value!r}")
        self.unconstrained = bounds.unconstrain(values)
        self.raw_scale = jnp.where((scales > 0) & (scales < jnp.inf), inverse_softplus(scales), jnp.nan)
        self.range, self.shared = bounds, shared

    def constrain(self, unconstrained: ArrayLike | None = None) -> jax.Array:
        """The value at ``unconstrained`` (its own if None), shape ``[..., *shape]``; int32 for integers."""
        own = self.unconstrained if unconstrained is None else checks.floating("unconstrained", unconstrained)
        return self.range.constrain(own)

    def unconstrain(self, value: ArrayLike | None = None) -> jax.Array:
        """The unconstrained number of ``value``; its own if None. NaN outside the range."""
        return self.unconstrained if value is None else self.range.unconstrain(_real("value", value))

    def perturb(self, key: ArrayLike, batch_size: int) -> "Perturbed":
        """:func:`perturb` of this one alone."""
        return perturb(self, key, batch_size)

    def entropy(self) -> jax.Array:
        """:func:`entropy` of this one alone."""
        return entropy(self)

    @property
    def scale(self) -> jax.Array:
        """Standard deviation of the perturbation of ``u``, the shape of ``u``."""
        return jax.nn.softplus(self.raw_scale)

    def __repr__(self) -> str:
        kind = f"{type(self).__name__}({self.range}, shared={self.shared}"
        return f"{kind}, unconstrained={self.unconstrained!r}, raw_scale={self.raw_scale!r})"


class Perturbed(NamedTuple):
    """Hyper-parameters of a batch."""

    unconstrained: jax.Array
    """What best-response layers take, shape ``[B, h]``; ``[h]`` if every hyper-parameter is shared."""
    values: Any
    """The tree of values: ``[B, *shape]`` of those per example, ``shape`` of those shared."""


def constrain(hyperparameters: Any, unconstrained: ArrayLike | None = None) -> Any:
    """Values of a tree of hyper-parameters.

    Args:
      hyperparameters: tree of :class:`Bounded`, :class:`Positive`, :class:`Integer`, :class:`Unbounded`.
      unconstrained: numbers to take in place of the tree's own, floating, shape ``[..., h]``.

    Returns:
      The tree of values, each of shape ``[..., *shape]``.

    Raises:
      TypeError: a leaf that is no hyper-parameter, or numbers that are not floating.
      ValueError: a last axis that is not ``h``.

    Example:
      >>> from jaxreg.bilevel import Bounded, Integer
      >>> tree = {"dropout": Bounded([0.1, 0.5], 0.0, 1.0), "length": Integer(4, 0, 24)}
      >>> print({name: value.tolist() for name, value in constrain(tree, jnp.zeros(3)).items()})
      {'dropout': [0.5, 0.5], 'length': 12}
    """
    nodes, structure = _nodes(hyperparameters)
    if unconstrained is None:
        return jax.tree.unflatten(structure, [node.constrain() for node in nodes])
    return jax.tree.unflatten(structure, _values(nodes, checks.floating("unconstrained", unconstrained)))


def unconstrain(hyperparameters: Any, values: Any = None) -> jax.Array:
    """Unconstrained numbers of a tree of hyper-parameters, as one vector.

    Args:
      hyperparameters: as in :func:`constrain`.
      values: a tree of values of the same structure to take in place of its own, each ``[..., *shape]`` with
        leading axes that broadcast against each other.

    Returns:
      Shape ``[..., h]``; NaN where a value is outside its range.

    Raises:
      TypeError: a leaf that is no hyper-parameter or no real value.
      ValueError: a structure or shape that is not that of the hyper-parameters.

    Example:
      >>> from jaxreg.bilevel import Bounded, Unbounded
      >>> tree = {"dropout": Bounded(0.5, 0.0, 1.0), "log_decay": Unbounded(-3.0)}
      >>> print(unconstrain(tree), unconstrain(tree, {"dropout": 0.5, "log_decay": jnp.arange(2.0)}))
      [ 0. -3.] [[0. 0.] [0. 1.]]
    """
    nodes, structure = _nodes(hyperparameters)
    if values is None:
        return _vector([node.unconstrained for node in nodes])
    try:
        given = structure.flatten_up_to(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"values must have the structure of hyperparameters: {error}") from None
    parts = [node.unconstrain(value) for node, value in zip(nodes, given, strict=True)]
    for node, part in zip(nodes, parts, strict=True):
        shape = node.unconstrained.shape
        if part.shape[part.ndim - len(shape) :] != shape:
            raise ValueError(f"a value must end in the shape {shape}, got shape {part.shape}")
    lead = jnp.broadcast_shapes(
        *(part.shape[: part.ndim - node.unconstrained.ndim] for node, part in zip(nodes, parts, strict=True))
    )
    wide = [
        jnp.broadcast_to(part, lead + node.unconstrained.shape)
        for node, part in zip(nodes, parts, strict=True)
    ]
    return _vector(wide, len(lead))


def perturb(hyperparameters: Any, key: ArrayLike, batch_size: int) -> Perturbed:
    r"""Hyper-parameters with independent Gaussian noise for each example.

    .. math:: u_i = u + \sigma \circ \epsilon_i, \qquad \epsilon_i \sim \mathcal N(0, I)

    Shared ones have one ``eps`` for all examples. Differentiable with respect to ``u`` and the scales. What
    the noise is does not depend on which are shared.

    Args:
      hyperparameters: as in :func:`constrain`.
      key: random key.
      batch_size: number of examples ``B``, a Python int, at least 1.

    Returns:
      What the layers take and what regularisers take.

    Raises:
      TypeError: a leaf that is no hyper-parameter, or a batch size that is not an int.
      ValueError: a batch size below 1.

    References:
      MacKay et al. (2019), arXiv 1903.03088, the perturbed objectives.

    Example:
      >>> from jaxreg.bilevel import Bounded, Positive
      >>> tree = {"dropout": Bounded(0.5, 0.0, 1.0), "weight_decay": Positive(1e-4, shared=True)}
      >>> batch = perturb(tree, jax.random.key(0), batch_size=128)
      >>> print(batch.unconstrained.shape, {name: value.shape for name, value in batch.values.items()})
      (128, 2) {'dropout': (128,), 'weight_decay': ()}
    """
    nodes, structure = _nodes(hyperparameters)
    batch_size = checks.count("batch_size", batch_size)
    centre, deviation = _vector([node.unconstrained for node in nodes]), scales(hyperparameters)
    noise = jax.random.normal(key, (batch_size, centre.size), centre.dtype)
    shared = np.concatenate([np.full(node.unconstrained.size, node.shared) for node in nodes])
    # A shared column is the first example's noise.
    noise = noise[0] if shared.all() else jnp.where(shared, noise[:1], noise)
    drawn = centre + deviation * noise
    values = [
        value[0] if node.shared and drawn.ndim == 2 else value
        for node, value in zip(nodes, _values(nodes, drawn), strict=True)
    ]
    return Perturbed(drawn, jax.tree.unflatten(structure, values))


def unperturbed(hyperparameters: Any, batch_size: int) -> Perturbed:
    """What :func:`perturb` returns if all scales are 0, with ``unconstrained`` of shape ``[h]``.

    Args:
      hyperparameters: as in :func:`constrain`.
      batch_size: number of examples ``B``.

    Returns:
      What the layers take and what regularisers take.

    Example:
      >>> from jaxreg.bilevel import Bounded
      >>> print(unperturbed(Bounded(0.25, 0.0, 1.0), batch_size=2).values)
      [0.25 0.25]
    """
    nodes, structure = _nodes(hyperparameters)
    values = [node.constrain() for node in nodes]
    values = [
        value if node.shared else jnp.broadcast_to(value, (batch_size, *value.shape))
        for node, value in zip(nodes, values, strict=True)
    ]
    return Perturbed(unconstrain(hyperparameters), jax.tree.unflatten(structure, values))


def scales(hyperparameters: Any) -> jax.Array:
    """Standard deviations of the perturbation, as one vector ``[h]``; see :func:`constrain`."""
    return _vector([node.scale for node in _nodes(hyperparameters)[0]])


def entropy(hyperparameters: Any) -> jax.Array:
    r"""Entropy of the perturbed hyper-parameters, in nats.

    .. math:: \mathcal H = \sum_j \log(\sigma_j \sqrt{2 \pi e})

    That of the unconstrained numbers, not of the values.

    Args:
      hyperparameters: as in :func:`constrain`.

    Returns:
      A scalar, finite however small a scale has become, with derivatives to match.

    References:
      MacKay et al. (2019), arXiv 1903.03088, the entropy term of the validation objective.

    Example:
      >>> from jaxreg.bilevel import Unbounded
      >>> print(f"{entropy(Unbounded(0.0, scale=1.0)):.4f}")   # log(2 pi e) / 2
      1.4189
    """
    raw = _vector([node.raw_scale for node in _nodes(hyperparameters)[0]])
    return jnp.sum(log_softplus(raw)) + raw.size * 0.5 * math.log(2 * math.pi * math.e)


def map_parts(function: Callable[[Hyperparameter], Any], hyperparameters: Any) -> Any:
    """Apply a function to each hyper-parameter of a tree."""
    nodes, structure = _nodes(hyperparameters)
    return jax.tree.unflatten(structure, [function(node) for node in nodes])


def with_parts(hyperparameters: Any, unconstrained: Any, raw_scales: Any) -> Any:
    """The tree with other unconstrained numbers and raw scales, both trees of arrays."""
    nodes, structure = _nodes(hyperparameters)

    def changed(node, numbers, raw):
        _, treedef = jax.tree.flatten(node)
        return jax.tree.unflatten(treedef, [numbers, raw])

    parts = structure.flatten_up_to(unconstrained), structure.flatten_up_to(raw_scales)
    return jax.tree.unflatten(structure, list(map(changed, nodes, *parts)))


def _nodes(hyperparameters: Any) -> tuple[list[Hyperparameter], Any]:
    nodes, structure = jax.tree.flatten(
        hyperparameters, is_leaf=lambda node: isinstance(node, Hyperparameter)
    )
    for node in nodes:
        if not isinstance(node, Hyperparameter):
            raise TypeError(
                f"hyperparameters must be a tree of Bounded, Positive, Integer or Unbounded, got {node!r}"
            )
    if not nodes:
        raise TypeError("hyperparameters must hold at least one hyper-parameter, got none")
    return nodes, structure


def _vector(parts: list[jax.Array], lead: int = 0) -> jax.Array:
    """Raveled arrays side by side, in the widest dtype, after ``lead`` axes that they share."""
    dtype = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    return jnp.concatenate([part.reshape(*part.shape[:lead], -1).astype(dtype) for part in parts], axis=-1)


def _values(nodes: list[Hyperparameter], numbers: jax.Array) -> list[jax.Array]:
    """Values at the numbers ``[..., h]``."""
    sizes = [node.unconstrained.size for node in nodes]
    if numbers.ndim == 0 or numbers.shape[-1] != sum(sizes):
        raise ValueError(
            f"unconstrained must have {sum(sizes)} numbers on its last axis, got shape {numbers.shape}"
        )
    ends = np.cumsum(sizes).tolist()
    parts = (numbers[..., end - size : end] for size, end in zip(sizes, ends, strict=True))
    return [
        node.constrain(
            part.reshape(numbers.shape[:-1] + node.unconstrained.shape).astype(node.unconstrained.dtype)
        )
        for node, part in zip(nodes, parts, strict=True)
    ]


def _real(name: str, value: ArrayLike) -> jax.Array:
    """A real number or array in at least float32; Python numbers in JAX's default."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number or array, got {value!r}") from None
    if jnp.issubdtype(array.dtype, jnp.floating):
        return checks.floating(name, array)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be a real number or array, got dtype {array.dtype}")
    return array.astype(float)
