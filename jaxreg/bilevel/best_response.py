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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import checks

Initializer = Callable[..., jax.Array]
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
        wide = wide_dtype(self.kernel.dtype)
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
    shape = tuple(checks.count(f"kernel_shape[{axis}]", size) for axis, size in enumerate(kernel_shape))
    if len(shape) < 2:
        raise ValueError(f"kernel_shape must have at least two axes, got {shape}")
    count = checks.count("hyperparameters", hyperparameters)
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


# -- What the layers share


def respond(
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
    wide, outputs = wide_dtype(dtype), params.outputs
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


def checked_inputs(params: BestResponse, x: ArrayLike) -> tuple[jax.Array, jnp.dtype]:
    """Checked inputs and the dtype of the result, both promoted with the kernel's."""
    if not isinstance(params, BestResponse):
        raise TypeError(f"params must be a BestResponse, got {type(params).__name__}")
    inputs = jnp.asarray(x)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f"x must have a floating dtype, got {inputs.dtype}")
    dtype = jnp.promote_types(inputs.dtype, params.kernel.dtype)
    return inputs.astype(dtype), dtype


def checked_numbers(
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
    return numbers.astype(wide_dtype(dtype))


def wide_dtype(dtype: Any) -> jnp.dtype:
    """The dtype to compute in: at least float32."""
    # Spelled out, because strict promotion refuses float64 with float32.
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)
