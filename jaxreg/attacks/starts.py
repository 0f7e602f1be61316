"""Random points of balls, drawn at the cost of a small part of a model's gradient."""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jax.typing import ArrayLike


def random_point(key: ArrayLike, inputs: jax.Array, radius: jax.Array, norm: str) -> jax.Array:
    """Uniform in a ball around zero for every example.

    Args:
      key: random key.
      inputs: for shape and dtype, ``[B, ...]``; the norm is over all axes but the first.
      radius: of the balls, broadcasts against ``inputs``.
      norm: ``"l_inf"`` or ``"l_2"``.

    Returns:
      A point of each ball, the shape and dtype of ``inputs``.

    Example:
      >>> point = random_point(jax.random.key(0), jnp.zeros([3, 2]), jnp.float32(2.0), "l_2")
      >>> bool(jnp.all(jnp.linalg.norm(point, axis=-1) <= 2.0))
      True
    """
    if norm == "l_inf":
        return radius * _signed(key, inputs).astype(inputs.dtype)
    direction, distance = jax.random.split(key)
    normal = jax.lax.erf_inv(_signed(direction, inputs))
    length = jnp.sqrt(jnp.sum(jnp.square(normal), tuple(range(1, inputs.ndim)), keepdims=True))
    uniform = jax.random.uniform(distance, length.shape, normal.dtype)
    # A root that rounds to 1 must not lead out of the ball.
    below_one = 1 - 4 * float(jnp.finfo(inputs.dtype).eps)
    share = jnp.minimum(uniform ** (1 / max(math.prod(inputs.shape[1:]), 1)), below_one)
    return radius * (normal * (share / length)).astype(inputs.dtype)


def _signed(key: ArrayLike, inputs: jax.Array) -> jax.Array:
    """Uniform in (-1, 1), on 65536 levels, at least float32: two numbers a random word.

    Random words are what takes time. ``jax.random.bits`` makes one of every two that the generator gives;
    here both are used.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    words = threefry_2x32((seed[0], seed[1]), jax.lax.iota(jnp.uint32, (inputs.size + 3) // 4 * 2))
    levels = jax.lax.bitcast_convert_type(words, jnp.int16).reshape(-1)[: inputs.size]
    wide = jnp.float64 if inputs.dtype == jnp.float64 else jnp.float32
    return (levels.reshape(inputs.shape).astype(wide) + 0.5) / 2**15
