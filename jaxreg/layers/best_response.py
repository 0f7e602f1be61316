"""Linear, convolutional and recurrent modules whose weights respond to hyper-parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxreg import bilevel
from jaxreg.bilevel.best_response_conv import Padding


class BestResponseLinear(nnx.Module):
    """``flax.nnx.Linear`` with best response: :func:`jaxreg.bilevel.best_response_dense`.

    Args:
      in_features: number of inputs.
      out_features: number of outputs.
      hyperparameters: number ``h`` of hyper-parameters.
      rngs: of flax; takes one key of its stream ``params``.
      options: as in :func:`jaxreg.bilevel.best_response_init`.

    Example:
      >>> layer = BestResponseLinear(3, 2, hyperparameters=1, rngs=nnx.Rngs(0))
      >>> print(layer(jnp.ones((4, 3)), jnp.zeros((4, 1))).shape)
      (4, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, hyperparameters: int, *, rngs: nnx.Rngs, **options: Any
    ):
        self.params = nnx.Param(
            bilevel.best_response_dense_init(
                rngs.params(), in_features, out_features, hyperparameters, **options
            )
        )

    def __call__(self, x: ArrayLike, hyperparameters: ArrayLike | None = None) -> jax.Array:
        """Outputs ``[B, ..., out_features]`` of inputs ``[B, ..., in_features]``."""
        return bilevel.best_response_dense(self.params.get_value(), x, hyperparameters)


class BestResponseConv(nnx.Module):
    """``flax.nnx.Conv`` with best response: :func:`jaxreg.bilevel.best_response_conv`.

    Args:
      in_features: number of input channels.
      out_features: number of output channels.
      kernel_size: of each axis of space.
      hyperparameters: number ``h`` of hyper-parameters.
      strides: as in the function, like all that follow.
      padding: see there.
      input_dilation: see there.
      kernel_dilation: see there.
      feature_group_count: number of groups of channels.
      rngs: of flax; takes one key of its stream ``params``.
      options: as in :func:`jaxreg.bilevel.best_response_init`.

    Example:
      >>> layer = BestResponseConv(3, 8, (3, 3), hyperparameters=1, strides=2, rngs=nnx.Rngs(0))
      >>> print(layer(jnp.ones((4, 9, 9, 3)), jnp.zeros((4, 1))).shape)
      (4, 5, 5, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        hyperparameters: int,
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "SAME",
        input_dilation: int | Sequence[int] = 1,
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.params = nnx.Param(
            bilevel.best_response_conv_init(
                rngs.params(),
                kernel_size,
                in_features,
                out_features,
                hyperparameters,
                groups=feature_group_count,
                **options,
            )
        )
        # Tuples, which flax takes for static; it looks for parameters in lists.
        self.strides = strides if isinstance(strides, int) else tuple(strides)
        self.padding = padding if isinstance(padding, str) else tuple((a, b) for a, b in padding)
        self.input_dilation = input_dilation if isinstance(input_dilation, int) else tuple(input_dilation)
        self.kernel_dilation = kernel_dilation if isinstance(kernel_dilation, int) else tuple(kernel_dilation)
        self.feature_group_count = feature_group_count

    def __call__(self, x: ArrayLike, hyperparameters: ArrayLike | None = None) -> jax.Array:
        """Outputs ``[B, *space, out_features]`` of inputs ``[B, *space, in_features]``."""
        return bilevel.best_response_conv(
            self.params.get_value(),
            x,
            hyperparameters,
            strides=self.strides,
            padding=self.padding,
            input_dilation=self.input_dilation,
            kernel_dilation=self.kernel_dilation,
            groups=self.feature_group_count,
        )


class BestResponseLSTMCell(nnx.Module):
    """``flax.nnx.LSTMCell`` with best response: :func:`jaxreg.bilevel.best_response_lstm_cell`.

    Args:
      in_features: number of inputs.
      hidden_features: number of features of the state.
      hyperparameters: number ``h`` of hyper-parameters.
      rngs: of flax; takes one key of its stream ``params``.
      options: as in :func:`jaxreg.bilevel.best_response_init`.

    Example:
      >>> cell = BestResponseLSTMCell(3, 8, hyperparameters=1, rngs=nnx.Rngs(0))
      >>> state, y = cell(cell.initialize_carry((4, 3)), jnp.ones((4, 3)), jnp.zeros((4, 1)))
      >>> print(y.shape)
      (4, 8)
    """

    def __init__(
        self, in_features: int, hidden_features: int, hyperparameters: int, *, rngs: nnx.Rngs, **options: Any
    ):
        self.params = nnx.Param(
            bilevel.best_response_lstm_cell_init(
                rngs.params(), in_features, hidden_features, hyperparameters, **options
            )
        )
        self.hidden_features = hidden_features

    def initialize_carry(self, input_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """The state ``(c, h)`` of zeros for inputs of this shape, ``[..., in_features]``."""
        dtype = self.params.get_value().hidden.kernel.dtype
        zeros = jnp.zeros((*input_shape[:-1], self.hidden_features), dtype)
        return zeros, zeros

    def __call__(
        self, carry: tuple[ArrayLike, ArrayLike], x: ArrayLike, hyperparameters: ArrayLike | None = None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """The new state and the output, ``[B, hidden_features]``, of inputs ``[B, in_features]``."""
        return bilevel.best_response_lstm_cell(self.params.get_value(), carry, x, hyperparameters)
