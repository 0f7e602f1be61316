"""A recurrent cell whose input and hidden weights respond to hyper-parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg.bilevel.best_response import BestResponse
from jaxreg.bilevel.best_response_dense import best_response_dense, best_response_dense_init


class BestResponseLSTM(NamedTuple):
    """Parameters of :func:`best_response_lstm_cell`, of outputs ordered input, forget, cell, output gate."""

    input: BestResponse
    """Inputs to gates: a dense layer with ``4 * features`` outputs."""
    hidden: BestResponse
    """Hidden state to gates, likewise."""


def best_response_lstm_cell_init(
    key: ArrayLike, inputs: int, features: int, hyperparameters: int, **options: Any
) -> BestResponseLSTM:
    """Parameters of :func:`best_response_lstm_cell`; options as in :func:`best_response_init`.

    Example:
      >>> cell = best_response_lstm_cell_init(jax.random.key(0), 8, 16, hyperparameters=2)
      >>> print(cell.input.kernel.shape, cell.hidden.kernel.shape)
      (8, 128) (16, 128)
    """
    first, second = jax.random.split(key)
    return BestResponseLSTM(
        best_response_dense_init(first, inputs, 4 * features, hyperparameters, **options),
        best_response_dense_init(second, features, 4 * features, hyperparameters, **options),
    )


def best_response_lstm_cell(
    params: BestResponseLSTM,
    carry: tuple[ArrayLike, ArrayLike],
    x: ArrayLike,
    hyperparameters: ArrayLike | None = None,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    r"""One step of an LSTM, both of whose matrices respond to each example's hyper-parameters.

    .. math:: (i, f, g, o) = \hat W_x(\lambda) x + \hat b_x(\lambda) + \hat W_h(\lambda) h + \hat b_h(\lambda)
    .. math:: c' = \sigma(f) \circ c + \sigma(i) \circ \tanh g, \qquad h' = \sigma(o) \circ \tanh c'

    For ``jax.lax.scan`` over time; pass the same hyper-parameters at every step. DropConnect masks the
    hidden matrix: multiply both halves of ``params.hidden.kernel`` by the same mask, before the scan.

    Args:
      params: from :func:`best_response_lstm_cell_init`.
      carry: cell and hidden state ``(c, h)``, floating, each ``[B, features]``, as in flax.
      x: floating, shape ``[B, inputs]``.
      hyperparameters: unconstrained, ``[B, h]``, or ``[h]`` for all examples; None for the elementary part.

    Returns:
      The new ``(c, h)`` in the dtypes of the old, and the hidden state.

    Raises:
      TypeError: an argument that is not floating.
      ValueError: shapes that do not fit.

    References:
      MacKay et al. (2019), arXiv 1903.03088, the recurrent best response.

    Example:
      >>> cell = best_response_lstm_cell_init(jax.random.key(0), 8, 16, hyperparameters=2)
      >>> state = jnp.zeros((4, 16)), jnp.zeros((4, 16))
      >>> inputs = jnp.ones((5, 4, 8))   # time, examples, inputs
      >>> def step(state, x):
      ...     return best_response_lstm_cell(cell, state, x, jnp.zeros((4, 2)))
      >>> print(jax.lax.scan(step, state, inputs)[1].shape)
      (5, 4, 16)
    """
    if not isinstance(params, BestResponseLSTM):
        raise TypeError(f"params must be a BestResponseLSTM, got {type(params).__name__}")
    cell, hidden = (jnp.asarray(part) for part in carry)
    features = params.hidden.kernel.shape[0]
    for name, part in (("c", cell), ("h", hidden)):
        if not jnp.issubdtype(part.dtype, jnp.floating):
            raise TypeError(f"carry must have a floating dtype, got {part.dtype} for {name}")
        if part.shape[-1:] != (features,) or part.shape[:-1] != jnp.shape(x)[:-1]:
            wanted = (*jnp.shape(x)[:-1], features)
            raise ValueError(f"carry must have the shape {wanted}, got {part.shape} for {name}")
    from_input = best_response_dense(params.input, x, hyperparameters)
    from_hidden = best_response_dense(params.hidden, hidden, hyperparameters)
    # Gates and cell in at least float32: the cell adds up over time.
    wide = max((from_input.dtype, cell.dtype, jnp.dtype(jnp.float32)), key=lambda dtype: dtype.itemsize)
    gates = from_input.astype(wide) + from_hidden.astype(wide)
    enter, forget, update, leave = jnp.split(gates, 4, axis=-1)
    new = jax.nn.sigmoid(forget) * cell.astype(wide) + jax.nn.sigmoid(enter) * jnp.tanh(update)
    output = (jax.nn.sigmoid(leave) * jnp.tanh(new)).astype(hidden.dtype)
    return (new.astype(cell.dtype), output), output
