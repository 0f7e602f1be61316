"""The self-tuning network of ``benchmarks.self_tuning`` in plain eager PyTorch, to compare with.

Layers of MacKay et al. (2019) as one writes them there: a product with the elementary weights, and one with
the response's weights whose outputs, not whose weights, are scaled for each example by an affine map of the
hyper-parameters. Needs PyTorch, which nothing else here does.
"""

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreg import bilevel

# By name, for PyTorch is not among what type checkers find.
torch: Any = importlib.import_module("torch")
functional: Any = importlib.import_module("torch.nn.functional")


def in_torch_layout(layers: Iterable[bilevel.BestResponse]) -> list[dict[str, np.ndarray]]:
    """Parameters of layers with a bias, or derivatives with respect to them, as PyTorch orders them."""
    converted, channels = [], None
    for layer in layers:
        kernels = layer.elementary_kernel, layer.response_kernel
        if layer.kernel.ndim == 2 and channels is not None:
            # PyTorch flattens images channel by channel.
            kernels = [
                kernel.reshape(-1, channels, layer.outputs).swapaxes(0, 1).reshape(kernel.shape)
                for kernel in kernels
            ]
        kernel, response_kernel = (np.moveaxis(np.array(kernel), (-1, -2), (0, 1)) for kernel in kernels)
        kernel_gate, bias_gate = np.split(np.array(layer.gate).T, 2)
        bias, response_bias = np.split(np.array(layer.bias), 2)
        converted.append(
            {
                "kernel": np.ascontiguousarray(kernel),
                "response_kernel": np.ascontiguousarray(response_kernel),
                "kernel_gate": np.ascontiguousarray(kernel_gate),
                "bias": bias.copy(),
                "response_bias": response_bias.copy(),
                "bias_gate": np.ascontiguousarray(bias_gate),
            }
        )
        channels = layer.outputs if layer.kernel.ndim == 4 else None
    return converted


class BestResponse(torch.nn.Module):
    """A dense layer, or a convolution that keeps the size, whose weights respond to hyper-parameters."""

    def __init__(self, parameters: dict[str, np.ndarray]):
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value)))
        self.convolves = parameters["kernel"].ndim == 4

    def product(self, x: Any, kernel: Any, bias: Any = None) -> Any:
        """The plain layer."""
        if self.convolves:
            return functional.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)
        return functional.linear(x, kernel, bias)

    def forward(self, x: Any, hyperparameters: Any) -> Any:
        """Outputs at the hyper-parameters ``[B, h]`` of each example."""
        gate = functional.linear(hyperparameters, self.kernel_gate)
        offset = functional.linear(hyperparameters, self.bias_gate) * self.response_bias
        if self.convolves:
            gate, offset = gate[:, :, None, None], offset[:, :, None, None]
        return self.product(x, self.kernel, self.bias) + gate * self.product(x, self.response_kernel) + offset


class Network(torch.nn.Module):
    """Layers with rectifiers between, and 2x2 pooling by the largest after each convolution."""

    def __init__(self, layers: Iterable[bilevel.BestResponse]):
        super().__init__()
        self.layers = torch.nn.ModuleList(map(BestResponse, in_torch_layout(layers)))

    def forward(self, x: Any, hyperparameters: Any) -> Any:
        """Logits."""
        for index, layer in enumerate(self.layers):
            x = layer(x if layer.convolves else x.flatten(1), hyperparameters)
            if index < len(self.layers) - 1:
                x = functional.relu(x)
            if layer.convolves:
                x = functional.max_pool2d(x, 2)
        return x


class SelfTuning:
    """The two steps: momentum for the parameters, Adam for hyper-parameters and scales."""

    def __init__(
        self,
        layers: Sequence[bilevel.BestResponse],
        hyperparameters: Any,
        *,
        rate: float,
        momentum: float,
        outer_rate: float,
        entropy_weight: float,
        fused: bool = False,
    ):
        self.network = Network(layers)
        start = bilevel.unconstrain(hyperparameters), bilevel.scales(hyperparameters)
        self.numbers, scales = (torch.from_numpy(np.array(vector)) for vector in start)
        self.raw_scales = torch.log(torch.expm1(scales))
        for vector in (self.numbers, self.raw_scales):
            vector.requires_grad_()
        self.inner = torch.optim.SGD(
            self.network.parameters(), lr=rate, momentum=momentum, fused=True if fused else None
        )
        self.outer = torch.optim.Adam([self.numbers, self.raw_scales], lr=outer_rate)
        self.entropy_weight = entropy_weight

    def perturbed(self, batch: tuple[Any, Any], noise: Any = None) -> Any:
        """Hyper-parameters with noise for each example, drawn if not given."""
        if noise is None:
            noise = torch.randn(len(batch[0]), len(self.numbers))
        return self.numbers + functional.softplus(self.raw_scales) * noise

    def train_step(self, batch: tuple[Any, Any], noise: Any = None) -> Any:
        """A step of the parameters; returns the loss."""
        x, labels = batch
        loss = functional.cross_entropy(self.network(x, self.perturbed(batch, noise).detach()), labels)
        self.inner.zero_grad()
        loss.backward()
        self.inner.step()
        return loss.detach()

    def tune_step(self, batch: tuple[Any, Any], noise: Any = None) -> Any:
        """A step of the hyper-parameters and scales; returns the loss without the entropy's term."""
        x, labels = batch
        tuned = self.numbers, self.raw_scales
        loss = functional.cross_entropy(self.network(x, self.perturbed(batch, noise)), labels)
        scales = functional.softplus(self.raw_scales)
        entropy = torch.sum(torch.log(scales * math.sqrt(2 * math.pi * math.e)))
        # Of these alone: the derivatives with respect to the parameters are not computed.
        gradient = torch.autograd.grad(loss - self.entropy_weight * entropy, tuned)
        for vector, part in zip(tuned, gradient, strict=True):
            vector.grad = part
        self.outer.step()
        return loss.detach()


def images(batch: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
    """A batch of inputs, channels last, and labels, as PyTorch's: channels first."""
    x = np.array(batch[0])
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x
    return torch.from_numpy(x), torch.from_numpy(np.array(batch[1])).long()


def check_agreement(
    network: Network, batch: tuple[Any, Any], numbers: jax.Array, loss: jax.Array, gradient: Any
) -> None:
    """Raise an AssertionError where a network's loss or derivatives are not those found elsewhere.

    Args:
      network: what to check.
      batch: as from :func:`images`.
      numbers: hyper-parameters of each example.
      loss: the other's cross-entropy, a scalar.
      gradient: pair of its derivatives, with respect to the layers (a sequence of
        ``jaxreg.bilevel.BestResponse``) and the hyper-parameters.
    """
    x, labels = batch
    given = torch.from_numpy(np.array(numbers)).requires_grad_()
    own = functional.cross_entropy(network(x, given), labels)
    np.testing.assert_allclose(float(own.detach()), float(loss), rtol=1e-5)
    *derivatives, of_numbers = torch.autograd.grad(own, [*network.parameters(), given])
    wanted = [value for layer in in_torch_layout(gradient[0]) for value in layer.values()]
    for derivative, value in zip([*derivatives, of_numbers], [*wanted, np.array(gradient[1])], strict=True):
        bound = 1e-4 * float(np.max(np.abs(value)))
        np.testing.assert_allclose(derivative.numpy(), value, rtol=1e-4, atol=bound)
