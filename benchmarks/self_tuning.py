"""Steps of a self-tuning network against those of the plain network, at batch 128, in one process.

``python -m benchmarks.self_tuning [--rounds N] [--models perceptron cnn narrow_cnn]``

A training step is a gradient and a step of momentum; layers with best response take twice the plain layers'
multiplications in it. A tuning step is held against the gradient of the validation loss with respect to the
plain network's weights, and the compiled alternation of two training steps and one tuning step against two
plain steps and one such gradient. In the narrow CNN the passes over its large maps, and not the
multiplications, take the time; by default the C library maps scratch space beyond 32 MiB afresh in every
call, which the plain network's step just stays below. The same layers in eager PyTorch took 8.8 ms a
training step and 4.7 ms a tuning step of the perceptron on 2 cores, and 29 ms and 21 ms of a CNN of other
sizes; PyTorch is not needed.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import harness
from jaxreg import bilevel

BATCH, CLASSES = 128, 10
PERCEPTRON = ((784, 512), (512, 512), (512, CLASSES))
CNN = ((5, 5, 1, 32), (5, 5, 32, 64), (7 * 7 * 64, 128), (128, CLASSES))
NARROW_CNN = ((3, 3, 1, 16), (3, 3, 16, 32), (7 * 7 * 32, 128), (128, CLASSES))
INPUTS = {"perceptron": (BATCH, 784), "cnn": (BATCH, 28, 28, 1), "narrow_cnn": (BATCH, 28, 28, 1)}
SHAPES = {"perceptron": PERCEPTRON, "cnn": CNN, "narrow_cnn": NARROW_CNN}
HYPERPARAMETERS = {"rate": bilevel.Bounded([0.1, 0.2, 0.3], 0.0, 0.9)}

Layer = Callable[[Any, jax.Array], jax.Array]


def responding(hyperparameters: jax.Array) -> Layer:
    """Layers with best response."""

    def layer(params: bilevel.BestResponse, x: jax.Array) -> jax.Array:
        apply = bilevel.best_response_conv if params.kernel.ndim == 4 else bilevel.best_response_dense
        return apply(params, x, hyperparameters)

    return layer


def plain(params: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Plain layers."""
    kernel, bias = params
    if kernel.ndim == 2:
        return x @ kernel + bias
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers) + bias


def loss(layer: Layer, params: Sequence[Any], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy of a network with rectifiers, and 2x2 pooling by the largest after each convolution."""
    x, labels = batch
    for index, part in enumerate(params):
        pooled = x.ndim == 4 and part[0].ndim == 4
        if not pooled:
            x = x.reshape(len(x), -1)
        x = layer(part, x)
        if index < len(params) - 1:
            x = jax.nn.relu(x)
        if pooled:
            rows, height, width, channels = x.shape
            # Not by reduce_window, whose derivative on a CPU takes longer than the convolutions.
            x = x.reshape(rows, height // 2, 2, width // 2, 2, channels).max((2, 4))
    return optax.losses.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def functions(model: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """The tables' rows: title, name, and what to call."""
    keys = jax.random.split(jax.random.key(0), 10)
    layers = [
        bilevel.best_response_init(key, shape, 3) for key, shape in zip(keys, SHAPES[model], strict=False)
    ]
    elementary: Any = [(layer.elementary_kernel, layer.elementary_bias) for layer in layers]
    batch = jax.random.normal(keys[-1], INPUTS[model]), jnp.arange(BATCH) % CLASSES
    optimiser = optax.sgd(1e-3, momentum=0.9)

    def tuned_loss(params: Any, hyperparameters: jax.Array, values: Any, batch: Any, key: Any) -> jax.Array:
        del values, key
        return loss(responding(hyperparameters), params, batch)

    tuner = bilevel.self_tuning(
        tuned_loss, tuned_loss, inner=optimiser, outer=optax.adam(3e-3), scale=optax.adam(3e-3)
    )

    def plain_gradient(params: Any, batch: Any) -> Any:
        return jax.grad(lambda params: loss(plain, params, batch))(params)

    def plain_step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = optimiser.update(plain_gradient(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    def plain_alternation(params: Any, state: Any, train: Any, valid: Any) -> Any:
        carry, _ = jax.lax.scan(
            lambda carry, batch: (plain_step(*carry, batch), None), (params, state), train, unroll=True
        )
        return carry, plain_gradient(carry[0], valid)

    state, velocity = tuner.init(layers, HYPERPARAMETERS), optimiser.init(elementary)
    twice, once = (jax.tree.map(lambda leaf, n=n: jnp.stack([leaf] * n), batch) for n in (2, 1))
    step, gradient, both = map(jax.jit, (plain_step, plain_gradient, plain_alternation))
    return {
        "training step": {
            "plain": lambda: step(elementary, velocity, batch),
            "self-tuning": lambda: tuner.train_step(state, batch, keys[0]),
        },
        "tuning step": {
            "plain validation gradient": lambda: gradient(elementary, batch),
            "self-tuning": lambda: tuner.tune_step(state, batch, keys[0]),
        },
        "alternation": {
            "two plain steps, one gradient": lambda: both(elementary, velocity, twice, batch),
            "self-tuning": lambda: tuner.step(state, twice, once, keys[0]),
        },
    }


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.self_tuning", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=harness.at_least(2), default=30)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()

    def run() -> None:
        for model in arguments.models:
            for title, rows in functions(model).items():
                harness.show(f"{model}, {title}", harness.compare(rows, (), rounds=arguments.rounds))

    harness.main("benchmarks.self_tuning", run)


if __name__ == "__main__":
    harness.quietly(main)
