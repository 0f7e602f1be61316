r"""Layers whose weights respond to hyper-parameters, without a set of weights for each example.

A layer with best response stands for one with weights and bias

.. math:: \hat W(\lambda) = W + \mathrm{diag}(V\lambda)\, W', \qquad
          \hat b(\lambda) = b + (C\lambda) \circ b'

an elementary part and a response: all hyper-parameters move the weights of an output along one direction. For
``lambda_i`` of example i it returns ``W x_i + b + (V lambda_i) * (W' x_i) + (C lambda_i) * b'``, twice the
multiplications of the plain layer.

* ``layer(params, x, hyperparameters=None)`` with ``params`` a :class:`BestResponse`. Hyper-parameters are the
  unconstrained numbers: ``[B, h]`` for one set an example (``[B, T, h]`` one a step), ``[h]`` for one set for
  all, whose weights are then formed at the cost of one plain layer; None leaves the elementary part alone.
* In the centred form of Bae and Grosse (2020) they are the deviation from a current value.
* Dtypes are promoted as by JAX; of half precision the products are accumulated in float32, and the result is
  rounded once.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks

Initializer = Callable[..., jax.Array]
Padding = str | Sequence[tuple[int, int]]
lecun_normal = jax.nn.initializers.lecun_normal()


class BestResponse(NamedTuple):
    """Parameters of one layer; elementary part and response stand side by side, so that one product does."""

    kernel: jax.Array
    """``W`` and ``W'``, channels last as in flax: ``[..., inputs, 2 * outputs]``."""
    gate: jax.Array
    """``V`` and, with a bias, ``C``, transposed: ``[h, 2 * outputs]``, or ``[h, outputs]`` without a bias."""
    bias: jax.Array | None = None
    """``b`` and ``b'``, ``[2 * outputs]``, or None."""
    elementary_scale: jax.Array | None = None
    """A trained factor of ``W x + b``, a scalar that starts at 1, as in the code released with MacKay et al.
    (2019) and not in their paper; None for none."""

    @classmethod
    def from_parts(
        cls,
        kernel: ArrayLike,
        response_kernel: ArrayLike,
        kernel_gate: ArrayLike,
        bias: ArrayLike | None = None,
        response_bias: ArrayLike | None = None,
        bias_gate: ArrayLike | None = None,
        elementary_scale: ArrayLike | None = None,
    ) -> "BestResponse":
        """Put together ``W``, ``W'`` ``[..., inputs, outputs]``, ``V^T``, ``C^T`` ``[h, outputs]``, biases.

        Example:
          >>> layer = BestResponse.from_parts(jnp.ones((3, 2)), jnp.zeros((3, 2)), jnp.ones((1, 2)))
          >>> print(layer.kernel.shape, layer.gate.shape, layer.response_kernel.shape)
          (3, 4) (1, 2) (3, 2)
        """
        biases = (bias, response_bias, bias_gate)
        if any(part is None for part in biases) != all(part is None for part in biases):
            raise ValueError("bias, response_bias and bias_gate must be given together or not at all")

        def join(left, right):
            return jnp.concatenate([jnp.asarray(left), jnp.asarray(right)], axis=-1)

        return cls(
            join(kernel, response_kernel),
            jnp.asarray(kernel_gate) if bias is None else join(kernel_gate, bias_gate),
            None if bias is None else join(bias, response_bias),
            None if elementary_scale is None else jnp.asarray(elementary_scale),
        )

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.kernel.shape[-1] // 2

    @property
    def elementary_kernel(self) -> jax.Array:
        """``W``, ``[..., inputs, outputs]``."""
        return self.kernel[..., : self.outputs]

    @property
    def response_kernel(self) -> jax.Array:
        """``W'``, ``[..., inputs, outputs]``."""
        return self.kernel[..., self.outputs :]

    @property
    def elementary_bias(self) -> jax.Array | None:
        """``b``, ``[outputs]``."""
        return None if self.bias is None else self.bias[: self.outputs]

    @property
    def response_bias(self) -> jax.Array | None:
        """``b'``, ``[outputs]``."""
        return None if self.bias is None else self.bias[self.outputs :]

    def weights(self, hyperparameters: ArrayLike | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Kernel and bias of the plain layer at hyper-parameters ``[h]``, in at least float32.

        For penalties of the weights; None for those of the elementary part.
        """
        wide = _wide(self.kernel.dtype)
        scale = 1 if self.elementary_scale is None else self.elementary_scale.astype(wide)
        gate = jnp.zeros(self.gate.shape[1:], wide)
        if hyperparameters is not None:
            numbers = checks.floating("hyperparameters", hyperparameters)
            if numbers.shape != self.gate.shape[:1]:
                raise ValueError(
                    f"hyperparameters must have shape {self.gate.shape[:1]}, got {numbers.shape}"
                )
            gate = jnp.matmul(numbers.astype(wide), self.gate.astype(wide))

        def formed(halves, gate):
            elementary, response = jnp.split(halves.astype(wide), 2, axis=-1)
            return scale * elementary + (0 if hyperparameters is None else gate * response)

        kernel = formed(self.kernel, gate[: self.outputs])
        return kernel, None if self.bias is None else formed(self.bias, gate[self.outputs :])


def best_response_init(
    key: ArrayLike,
    kernel_shape: Sequence[int],
    hyperparameters: int,
    *,
    use_bias: bool = True,
    use_elementary_scale: bool = False,
    kernel_init: Initializer = lecun_normal,
    gate_scale: float = 0.01,
    dtype: Any = jnp.float32,
) -> BestResponse:
    r"""Parameters of a layer of any shape; the inits of the layers give the shape by names.

    Args:
      key: random key.
      kernel_shape: of the plain layer's kernel, ``[..., inputs, outputs]``.
      hyperparameters: their number ``h``, at least 1.
      use_bias: whether there is a bias. It starts at 0, and its response uniform in
        :math:`\pm 1 / \sqrt{\text{fan-in}}`.
      use_elementary_scale: whether there is the released code's factor of the elementary part.
      kernel_init: ``(key, shape, dtype) -> array``, for the elementary part and the response each.
      gate_scale: standard deviation of ``V`` and ``C``. Small, so that the layer starts as its elementary
        part; not 0 together with the response, from where gradients are 0.
      dtype: floating.

    Returns:
      The parameters.

    Raises:
      TypeError: sizes that are not ints, or a dtype that is not floating.
      ValueError: sizes below 1, or a negative ``gate_scale``.

    References:
      MacKay et al. (2019), arXiv 1903.03088; the standard deviation is the released code's.

    Example:
      >>> layer = best_response_init(jax.random.key(0), (784, 512), hyperparameters=3)
      >>> print(jax.tree.map(jnp.shape, layer))
      BestResponse(kernel=(784, 1024), gate=(3, 1024), bias=(1024,), elementary_scale=None)
    """
    shape = tuple(_count(f"kernel_shape[{axis}]", size) for axis, size in enumerate(kernel_shape))
    if len(shape) < 2:
        raise ValueError(f"kernel_shape must have at least two axes, got {shape}")
    count = _count("hyperparameters", hyperparameters)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be floating, got {dtype}")
    if not gate_scale >= 0:
        raise ValueError(f"gate_scale must lie in [0, inf), got {gate_scale!r}")
    outputs, fan_in = shape[-1], math.prod(shape[:-1])
    first, second, gates, biases = jax.random.split(key, 4)
    kernel = jnp.concatenate([kernel_init(first, shape, dtype), kernel_init(second, shape, dtype)], axis=-1)
    gate = gate_scale * jax.random.normal(gates, (count, outputs * (1 + use_bias)), dtype)
    bias = None
    if use_bias:
        bound = 1 / math.sqrt(fan_in)
        response = jax.random.uniform(biases, (outputs,), dtype, -bound, bound)
        bias = jnp.concatenate([jnp.zeros(outputs, dtype), response])
    return BestResponse(kernel, gate, bias, jnp.ones((), dtype) if use_elementary_scale else None)


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
    inputs, dtype = _inputs(params, x)
    if params.kernel.ndim != 2:
        raise ValueError(f"params.kernel must have two axes, got shape {params.kernel.shape}")
    if inputs.ndim == 0 or inputs.shape[-1] != params.kernel.shape[0]:
        wanted = params.kernel.shape[0]
        raise ValueError(f"x must have {wanted} inputs on its last axis, got shape {inputs.shape}")
    numbers = _numbers(params, inputs.shape[:-1], hyperparameters, dtype)

    def product(kernel):
        return jnp.matmul(inputs, kernel.astype(dtype), preferred_element_type=_wide(dtype))

    return _respond(params, product, numbers, dtype)


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
        if _count(name, size) % _count("groups", groups):
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
      >>> layer = best_response_conv_init(jax.random.key(0), (3, 3), 1, 8, hyperparameters=2)
      >>> print(best_response_conv(layer, jnp.ones((4, 9, 9, 1)), jnp.zeros((4, 2)), strides=2).shape)
      (4, 5, 5, 8)
    """
    inputs, dtype = _inputs(params, x)
    space = params.kernel.ndim - 2
    if not 1 <= space <= 3:
        raise ValueError(f"params.kernel must have 3 to 5 axes, got shape {params.kernel.shape}")
    if inputs.ndim != space + 2:
        raise ValueError(f"x must have a batch, {space} axes of space and channels, got shape {inputs.shape}")
    channels = _count("groups", groups) * params.kernel.shape[-2]
    if inputs.shape[-1] != channels:
        raise ValueError(f"x must have {channels} channels on its last axis, got shape {inputs.shape}")
    numbers = _numbers(params, inputs.shape[:1], hyperparameters, dtype)
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
        wide = _wide(dtype)
        return jax.lax.conv_general_dilated(inputs.astype(wide), kernel.astype(wide), **options)

    # Groups would mix the halves of one convolution with twice the outputs.
    return _respond(params, product, numbers, dtype, one_product=groups == 1)


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
    numbers = _numbers(params, rows.shape, hyperparameters, params.kernel.dtype)
    # Negative tokens would count from the end.
    rows = jnp.where(rows < 0, jnp.iinfo(rows.dtype).max, rows)

    def product(table):
        return table.at[rows].get(mode="fill", fill_value=jnp.nan, out_sharding=_with_features(rows))

    # Whole rows are gathered before anything else: the table is large, the tokens few.
    return _respond(params, product, numbers, params.kernel.dtype, shared_kernel=False)


# -- What the layers share


def _respond(
    params: BestResponse,
    product: Callable[[jax.Array], jax.Array],
    numbers: jax.Array | None,
    dtype: jnp.dtype,
    *,
    one_product: bool = True,
    shared_kernel: bool = True,
) -> jax.Array:
    """The layer of a product that is linear in the kernel.

    Args:
      params: of the layer.
      product: kernel ``[..., inputs, outputs]`` -> ``[B, ..., outputs]``, of any number of outputs.
      numbers: checked hyper-parameters, or None.
      dtype: of the result.
      one_product: whether to take the products with both kernels as one.
      shared_kernel: whether to form the kernel where all examples share the hyper-parameters.

    Returns:
      Shape ``[B, ..., outputs]``.
    """
    wide, outputs = _wide(dtype), params.outputs
    scale = 1 if params.elementary_scale is None else params.elementary_scale.astype(wide)
    bias = None if params.bias is None else params.bias.astype(wide)
    if numbers is None:
        y = product(params.elementary_kernel).astype(wide)
        return (scale * (y if bias is None else y + bias[:outputs])).astype(dtype)
    if numbers.ndim == 1 and shared_kernel:
        # One set of weights for all: forming it costs less than a second product.
        kernel, offset = params.weights(numbers)
        y = product(kernel.astype(params.kernel.dtype)).astype(wide)
        return (y if offset is None else y + offset.astype(wide)).astype(dtype)
    gate = jnp.matmul(numbers, params.gate.astype(wide))
    if one_product:
        both = product(params.kernel).astype(wide)
        elementary, response = both[..., :outputs], both[..., outputs:]
    else:
        elementary = product(params.elementary_kernel).astype(wide)
        response = product(params.response_kernel).astype(wide)
    y = scale * elementary + _along(gate[..., :outputs], elementary) * response
    if bias is not None:
        # One offset an example: its derivative sums over space once.
        y = y + _along(scale * bias[:outputs] + gate[..., outputs:] * bias[outputs:], elementary)
    return y.astype(dtype)


def _along(values: jax.Array, outputs: jax.Array) -> jax.Array:
    """Let one row ``[B, outputs]`` an example, or one for all, broadcast against ``[B, ..., outputs]``."""
    return values if values.ndim == 1 else jnp.expand_dims(values, range(values.ndim - 1, outputs.ndim - 1))


def _inputs(params: BestResponse, x: ArrayLike) -> tuple[jax.Array, jnp.dtype]:
    """Checked inputs and the dtype of the result, both promoted with the kernel's."""
    if not isinstance(params, BestResponse):
        raise TypeError(f"params must be a BestResponse, got {type(params).__name__}")
    inputs = jnp.asarray(x)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f"x must have a floating dtype, got {inputs.dtype}")
    dtype = jnp.promote_types(inputs.dtype, params.kernel.dtype)
    return inputs.astype(dtype), dtype


def _numbers(
    params: BestResponse, shape: tuple[int, ...], hyperparameters: ArrayLike | None, dtype: jnp.dtype
) -> jax.Array | None:
    """Checked hyper-parameters for inputs with the leading axes ``shape``, in the dtype of computation."""
    if hyperparameters is None:
        return None
    numbers = checks.floating("hyperparameters", hyperparameters)
    count = params.gate.shape[0]
    lead = numbers.shape[:-1]
    if numbers.ndim == 0 or numbers.shape[-1] != count or lead != shape[: len(lead)]:
        raise ValueError(
            f"hyperparameters must have shape [{count}] or, before that axis, leading axes of {shape}, "
            f"got {numbers.shape}"
        )
    return numbers.astype(_wide(dtype))


def _with_features(rows: jax.Array) -> jax.sharding.NamedSharding | None:
    """Rows' own layout over an explicit mesh, with one more axis; JAX will not choose it for a gather."""
    sharding = jax.typeof(rows).sharding
    if all(axis is None for axis in sharding.spec):
        return None
    return jax.sharding.NamedSharding(sharding.mesh, jax.P(*sharding.spec, None))


def _wide(dtype: Any) -> jnp.dtype:
    """The dtype to compute in: at least float32."""
    # Spelled out, because strict promotion refuses float64 with float32.
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def _count(name: str, size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an int, got {size!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return size


def _per_axis(name: str, sizes: int | Sequence[int], space: int) -> tuple[int, ...]:
    values = (sizes,) * space if isinstance(sizes, int) else tuple(sizes)
    if len(values) != space:
        raise ValueError(f"{name} must be an int or {space} ints, got {sizes!r}")
    return tuple(_count(name, size) for size in values)


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
