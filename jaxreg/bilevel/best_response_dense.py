"""Dense layers and embeddings with best response; see ``jaxreg.bilevel.best_response``."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg.bilevel.best_response import (
    BestResponse,
    best_response_init,
    checked_inputs,
    checked_numbers,
    respond,
    wide_dtype,
)


def best_response_dense_init(
    key: ArrayLike, inputs: int, outputs: int, hyperparameters: int, **options: Any
) -> BestResponse:
    """Parameters of :func:`best_response_dense`; options as in :func:`best_response_init`.

    Example:
      >>> print(best_response_dense_init(jax.random.key(0), 3, 2, hyperparameters=1).kernel.shape)
      (3, 4)
    """
    return best_response_init(key, (inputs, outputs), hyperparameters, **options)


def best_response_dense(
    params: BestResponse, x: ArrayLike, hyperparameters: ArrayLike | None = None
) -> jax.Array:
    r"""A dense layer whose weights respond to each example's hyper-parameters.

    .. math:: y_i = W x_i + b + (V\lambda_i) \circ (W' x_i) + (C\lambda_i) \circ b'

    Args:
      params: from :func:`best_response_dense_init`.
      x: floating, shape ``[B, ..., inputs]``.
      hyperparameters: unconstrained, floating, shape ``[B, h]`` (or further leading axes of ``x`` before
        ``h``), or ``[h]`` for all examples; None for the elementary part.

    Returns:
      Shape ``[B, ..., outputs]``.

    Raises:
      TypeError: an argument that is not floating.
      ValueError: shapes that do not fit.

    References:
      MacKay et al. (2019), arXiv 1903.03088, the structured best response; ``jaxreg.theory.self_tuning``.

    Example:
      >>> layer = BestResponse.from_parts(jnp.eye(2), jnp.eye(2), jnp.array([[1.0, 10.0]]))
      >>> print(best_response_dense(layer, jnp.ones((2, 2)), jnp.array([[0.5], [1.0]])))
      [[ 1.5  6. ]
       [ 2.  11. ]]
    """
    inputs, dtype = checked_inputs(params, x)
    if params.kernel.ndim != 2:
        raise ValueError(f"params.kernel must have two axes, got shape {params.kernel.shape}")
    if inputs.ndim == 0 or inputs.shape[-1] != params.kernel.shape[0]:
        wanted = params.kernel.shape[0]
        raise ValueError(f"x must have {wanted} inputs on its last axis, got shape {inputs.shape}")
    numbers = checked_numbers(params, inputs.shape[:-1], hyperparameters, dtype)

    def product(kernel):
        return jnp.matmul(inputs, kernel.astype(dtype), preferred_element_type=wide_dtype(dtype))

    return respond(params, product, numbers, dtype)


def best_response_embedding_init(
    key: ArrayLike, tokens: int, outputs: int, hyperparameters: int, **options: Any
) -> BestResponse:
    """Parameters of :func:`best_response_embedding`, rows normal with variance 1 / ``outputs``.

    Options as in :func:`best_response_init`, but for the bias, which there is none of.

    Example:
      >>> print(best_response_embedding_init(jax.random.key(0), 100, 8, hyperparameters=1).kernel.shape)
      (100, 16)
    """
    rows = jax.nn.initializers.variance_scaling(1.0, "fan_out", "normal")
    options = {"kernel_init": rows, **options, "use_bias": False}
    return best_response_init(key, (tokens, outputs), hyperparameters, **options)


def best_response_embedding(
    params: BestResponse, tokens: ArrayLike, hyperparameters: ArrayLike | None = None
) -> jax.Array:
    r"""An embedding whose rows respond to each example's hyper-parameters.

    .. math:: y_i = E_{t_i} + (V\lambda_i) \circ E'_{t_i}

    Args:
      params: from :func:`best_response_embedding_init`.
      tokens: rows ``t``, integer, shape ``[B, ...]``.
      hyperparameters: unconstrained, floating, shape ``[B, h]`` (or further leading axes of ``tokens`` before
        ``h``), or ``[h]`` for all examples; None for the elementary part.

    Returns:
      Shape ``[B, ..., outputs]``; NaN for a token that is no row.

    Raises:
      TypeError: tokens that are not integer.
      ValueError: shapes that do not fit.

    References:
      MacKay et al. (2019), arXiv 1903.03088; the dense layer on one-hot inputs.

    Example:
      >>> rows = jnp.array([[1.0], [2.0]])
      >>> layer = BestResponse.from_parts(rows, 10 * rows, jnp.ones((1, 1)))
      >>> print(best_response_embedding(layer, jnp.array([0, 1]), jnp.array([[0.0], [1.0]])))
      [[ 1.]
       [22.]]
    """
    rows = jnp.asarray(tokens)
    if not jnp.issubdtype(rows.dtype, jnp.integer):
        raise TypeError(f"tokens must have an integer dtype, got {rows.dtype}")
    if params.bias is not None or params.kernel.ndim != 2:
        raise ValueError("params must have a kernel of two axes and no bias")
    numbers = checked_numbers(params, rows.shape, hyperparameters, params.kernel.dtype)
    if rows.dtype.itemsize < 4:
        rows = rows.astype(jnp.int32)  # the table may have more rows than a narrow dtype has numbers
    # Negative tokens would count from the end.
    rows = jnp.where(rows < 0, jnp.iinfo(rows.dtype).max, rows)

    def product(table):
        return table.at[rows].get(mode="fill", fill_value=jnp.nan, out_sharding=_with_features(rows))

    # Whole rows are gathered before anything else: the table is large, the tokens few.
    return respond(params, product, numbers, params.kernel.dtype, shared_kernel=False)


def _with_features(rows: jax.Array) -> jax.sharding.NamedSharding | None:
    """Rows' own layout over an explicit mesh, with one more axis; JAX will not choose it for a gather."""
    sharding = jax.typeof(rows).sharding
    if all(axis is None for axis in sharding.spec):
        return None
    return jax.sharding.NamedSharding(sharding.mesh, jax.P(*sharding.spec, None))
