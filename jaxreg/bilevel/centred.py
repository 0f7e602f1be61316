r"""Networks that respond to the deviation of hyper-parameters from a centre (Bae, Grosse, NeurIPS 2020).

With elementary parts ``w_0`` and responses ``Theta`` the weights are ``w_0 + Theta (lambda - lambda_0)``:
layers get the deviation in place of the hyper-parameters. ``w_0`` are then the weights at the current
hyper-parameters, and the Hessian in ``(w_0, Theta)`` is better conditioned than in the uncentred form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.bilevel.best_response import BestResponse


class NetworkLoss(NamedTuple):
    """A loss of a network's outputs alone, which can therefore be linearised in the parameters.

    Called as any loss is, ``(params, hyperparameters, values, batch, key)``. A penalty of the weights counts
    too: let the network return the weights among its outputs.

    Example:
      >>> from jaxreg.bilevel import best_response_dense, best_response_dense_init
      >>> def network(params, hyperparameters, values, batch, key):
      ...     return best_response_dense(params, batch["x"], hyperparameters)
      >>> def loss(outputs, values, batch):
      ...     return jnp.mean((outputs - batch["y"]) ** 2)
      >>> layer = best_response_dense_init(jax.random.key(0), 3, 1, hyperparameters=2)
      >>> batch = {"x": jnp.zeros((4, 3)), "y": jnp.ones((4, 1))}
      >>> print(NetworkLoss(network, loss)(layer, None, {}, batch, jax.random.key(1)))
      1.0
    """

    network: Callable[..., Any]
    """``(params, hyperparameters, values, batch, key) -> outputs``, a tree of arrays."""
    loss: Callable[..., Any]
    """``(outputs, values, batch) -> scalar``."""

    def __call__(self, params: Any, hyperparameters: Any, values: Any, batch: Any, key: Any) -> Any:
        """The loss, regularisers and all."""
        return self.loss(self.network(params, hyperparameters, values, batch, key), values, batch)


def linearised(network: Callable[[Any, jax.Array], Any], params: Any, deviation: ArrayLike) -> Any:
    r"""Outputs of a network to first order in the response of its weights, with elementary parts held.

    .. math:: f(w_0) + J_{w_0}(\Theta \delta_i)

    for the deviation of each example, by one Jacobian-vector product: since weights are affine in the
    deviation, it is the derivative with respect to the deviation, at 0.

    Args:
      network: ``(params, deviation) -> outputs``, a tree of arrays.
      params: a tree with :class:`BestResponse` among its nodes.
      deviation: ``delta``, floating, shape ``[B, h]`` or ``[h]``.

    Returns:
      The outputs. Their derivatives reach the responses alone: elementary parts, and whatever is no
      :class:`BestResponse`, count as constants.

    Raises:
      TypeError: a deviation that is not floating.

    References:
      Bae, Grosse (2020), arXiv 2010.13514; ``jaxreg.theory.self_tuning``.

    Example:
      >>> layer = BestResponse.from_parts(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)))
      >>> from jaxreg.bilevel import best_response_dense
      >>> def network(layer, deviation):
      ...     return best_response_dense(layer, jnp.ones((1, 1)), deviation) ** 2   # (1 + deviation)^2
      >>> print(linearised(network, layer, jnp.array([[0.1]])))
      [[1.2]]
    """
    step = checks.floating("deviation", deviation)
    held = _hold_elementary(params)
    outputs, change = jax.jvp(lambda move: network(held, move), (jnp.zeros_like(step),), (step,))

    def moved(output, tangent):
        return output + tangent if jnp.issubdtype(jnp.result_type(output), jnp.inexact) else output

    return jax.tree.map(moved, outputs, change)


def recentre(params: Any, shift: ArrayLike) -> Any:
    r"""Move the centre of a network's hyper-parameters without a change of its function.

    .. math:: w_0 \leftarrow w_0 + \Theta\,(\lambda_1 - \lambda_0)

    Args:
      params: a tree with :class:`BestResponse` among its nodes; all else stays.
      shift: ``lambda_1 - lambda_0``, floating, shape ``[h]``.

    Returns:
      Parameters with which a deviation from ``lambda_1`` gives the weights that the old ones give with the
      deviation from ``lambda_0``. With an ``elementary_scale`` of 0 there are none, and they are not finite.

    Raises:
      TypeError: a shift that is not floating.
      ValueError: a shift that is not a vector of the layers' ``h``.

    References:
      Bae, Grosse (2020), arXiv 2010.13514; ``jaxreg.theory.self_tuning``.

    Example:
      >>> layer = BestResponse.from_parts(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)))
      >>> print(recentre(layer, jnp.array([0.5])).kernel)
      [[1.5 1. ]]
    """
    move = checks.floating("shift", shift)

    def node(layer: Any) -> Any:
        if not isinstance(layer, BestResponse):
            return layer
        if move.shape != layer.gate.shape[:1]:
            raise ValueError(f"shift must have shape {layer.gate.shape[:1]}, got {move.shape}")
        # Once a step, and what rounds here stays: computed in at least float32.
        wide = move.dtype
        gate = jnp.matmul(move, layer.gate.astype(wide))
        if layer.elementary_scale is not None:
            gate = gate / layer.elementary_scale.astype(wide)
        kernel = _shifted(layer.kernel, gate[: layer.outputs])
        bias = None if layer.bias is None else _shifted(layer.bias, gate[layer.outputs :])
        return layer._replace(kernel=kernel, bias=bias)

    return jax.tree.map(node, params, is_leaf=_is_layer)


def has_response(params: Any) -> bool:
    """Whether a tree has a :class:`BestResponse` among its nodes."""
    return any(_is_layer(node) for node in jax.tree.leaves(params, is_leaf=_is_layer))


def _shifted(halves: jax.Array, gate: jax.Array) -> jax.Array:
    """Add to the elementary half the gated response half."""
    elementary, response = jnp.split(halves.astype(gate.dtype), 2, axis=-1)
    return jnp.concatenate([elementary + gate * response, response], axis=-1).astype(halves.dtype)


def _hold_elementary(params: Any) -> Any:
    """The same parameters, with no derivative but with respect to the responses."""

    def halves(leaf: jax.Array) -> jax.Array:
        response = jax.lax.broadcasted_iota(jnp.int32, (leaf.shape[-1],), 0) >= leaf.shape[-1] // 2
        return jnp.where(response, leaf, jax.lax.stop_gradient(leaf))

    def node(layer: Any) -> Any:
        if not isinstance(layer, BestResponse):
            return jax.lax.stop_gradient(layer)
        bias = None if layer.bias is None else halves(layer.bias)
        scale = jax.lax.stop_gradient(layer.elementary_scale)
        return layer._replace(kernel=halves(layer.kernel), bias=bias, elementary_scale=scale)

    return jax.tree.map(node, params, is_leaf=_is_layer)


def _is_layer(node: Any) -> bool:
    return isinstance(node, BestResponse)
