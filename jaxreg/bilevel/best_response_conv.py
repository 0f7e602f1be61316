"""Convolutions with best response; see ``jaxreg.bilevel.best_response``."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.bilevel.best_response import (
    BestResponse,
    best_response_init,
    checked_inputs,
    checked_numbers,
    respond,
    wide_dtype,
)

Padding = str | Sequence[tuple[int, int]]


def best_response_conv_init(
    key: ArrayLike,
    kernel_size: Sequence[int],
    inputs: int,
    outputs: int,
    hyperparameters: int,
    *,
    groups: int = 1,
    **options: Any,
) -> BestResponse:
    """Parameters of :func:`best_response_conv`; options as in :func:`best_response_init`.

    Example:
      >>> print(best_response_conv_init(jax.random.key(0), (3, 3), 16, 32, hyperparameters=1).kernel.shape)
      (3, 3, 16, 64)
    """
    for name, size in (("inputs", inputs), ("outputs", outputs)):
        if checks.count(name, size) % checks.count("groups", groups):
            raise ValueError(f"{name} must be a multiple of groups, {groups}, got {size}")
    return best_response_init(key, (*kernel_size, inputs // groups, outputs), hyperparameters, **options)


def best_response_conv(
    params: BestResponse,
    x: ArrayLike,
    hyperparameters: ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    input_dilation: int | Sequence[int] = 1,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> jax.Array:
    r"""A convolution, channels last, whose filters respond to each example's hyper-parameters.

    .. math:: y_i = W * x_i + b + (V\lambda_i) \circ (W' * x_i) + (C\lambda_i) \circ b'

    with one gate per output channel.

    Args:
      params: from :func:`best_response_conv_init`; the kernel has one to three axes of space.
      x: floating, shape ``[B, *space, inputs]``.
      hyperparameters: unconstrained, floating, shape ``[B, h]``, or ``[h]`` for all examples; None for the
        elementary part.
      strides: an int, or one for each axis of space.
      padding: "SAME", "VALID", or pairs (before, after), one for each axis of space.
      input_dilation: zeros between inputs, likewise (a transposed convolution).
      kernel_dilation: distance of the kernel's taps, likewise.
      groups: number of groups of channels that do not mix.

    Returns:
      Shape ``[B, *space, outputs]``.

    Raises:
      TypeError: an argument that is not floating.
      ValueError: shapes that do not fit.

    References:
      MacKay et al. (2019), arXiv 1903.03088, the structured best response; ``jaxreg.theory.self_tuning``.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = best_response_conv_init(jax.random.key(0), (3, 3), 1, 8, hyperparameters=2)
      >>> print(best_response_conv(layer, jnp.ones((4, 9, 9, 1)), jnp.zeros((4, 2)), strides=2).shape)
      (4, 5, 5, 8)
    """
    inputs, dtype = checked_inputs(params, x)
    space = params.kernel.ndim - 2
    if not 1 <= space <= 3:
        raise ValueError(f"params.kernel must have 3 to 5 axes, got shape {params.kernel.shape}")
    if inputs.ndim != space + 2:
        raise ValueError(f"x must have a batch, {space} axes of space and channels, got shape {inputs.shape}")
    channels = checks.count("groups", groups) * params.kernel.shape[-2]
    if inputs.shape[-1] != channels:
        raise ValueError(f"x must have {channels} channels on its last axis, got shape {inputs.shape}")
    numbers = checked_numbers(params, inputs.shape[:1], hyperparameters, dtype)
    letters = "DHW"[3 - space :]
    options: dict[str, Any] = {
        "window_strides": _per_axis("strides", strides, space),
        "padding": _padding(padding, space),
        "lhs_dilation": _per_axis("input_dilation", input_dilation, space),
        "rhs_dilation": _per_axis("kernel_dilation", kernel_dilation, space),
        "dimension_numbers": (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        "feature_group_count": groups,
    }

    def product(kernel):
        # Not by a wider output dtype: the derivative of such a convolution is refused.
        wide = wide_dtype(dtype)
        return jax.lax.conv_general_dilated(inputs.astype(wide), kernel.astype(wide), **options)

    # Groups would mix the halves of one convolution with twice the outputs.
    return respond(params, product, numbers, dtype, one_product=groups == 1)


def _per_axis(name: str, sizes: int | Sequence[int], space: int) -> tuple[int, ...]:
    values = (sizes,) * space if isinstance(sizes, int) else tuple(sizes)
    if len(values) != space:
        raise ValueError(f"{name} must be an int or {space} ints, got {sizes!r}")
    return tuple(checks.count(name, size) for size in values)


def _padding(padding: Padding, space: int) -> str | list[tuple[int, int]]:
    accepted = f'"SAME", "VALID" or {space} pairs (before, after) of ints'
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
            raise ValueError(f"padding must be {accepted}, got {padding!r}")
        return padding
    try:
        pairs = [(operator.index(before), operator.index(after)) for before, after in padding]
    except (TypeError, ValueError):
        raise ValueError(f"padding must be {accepted}, got {padding!r}") from None
    if len(pairs) != space:
        raise ValueError(f"padding must be {accepted}, got {padding!r}")
    return pairs
