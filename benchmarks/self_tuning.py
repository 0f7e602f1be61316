"""Steps of a self-tuning network against those of the plain network, at batch 128, in one process.

``python -m benchmarks.self_tuning [--rounds N] [--models perceptron cnn narrow_cnn] [--against plain torch]``

A training step is a gradient and a step of momentum; layers with best response take twice the plain layers'
multiplications in it. A tuning step is held against the gradient of the validation loss with respect to the
plain network's weights, and the compiled alternation of two training steps and one tuning step against two
plain steps and one such gradient. In the narrow CNN the passes over its large maps, and not the
multiplications, take the time; by default the C library maps scratch space beyond 32 MiB afresh in every
call, which the plain network's step just stays below.

Where PyTorch can be imported, its eager mode runs the same steps of the same network on as many threads, each
function five times in a row. Loss and derivatives are checked to be the same first. A ratio above 1 is how
much longer PyTorch takes.
"""

import argparse
import os
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
RATE, MOMENTUM, OUTER_RATE, ENTROPY_WEIGHT = 1e-3, 0.9, 3e-3, 1e-3
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


def network(model: str) -> tuple[list[bilevel.BestResponse], tuple[jax.Array, jax.Array]]:
    """Layers with best response, and a batch."""
    *keys, last = jax.random.split(jax.random.key(0), 10)
    layers = [
        bilevel.best_response_init(key, shape, 3) for key, shape in zip(keys, SHAPES[model], strict=False)
    ]
    return layers, (jax.random.normal(last, INPUTS[model]), jnp.arange(BATCH) % CLASSES)


def tuned_loss(params: Any, hyperparameters: jax.Array, values: Any, batch: Any, key: Any) -> tuple[Any, Any]:
    """Training and validation loss, without a regulariser, and the hyper-parameters it was called with."""
    del values, key
    return loss(responding(hyperparameters), params, batch), hyperparameters


def tuner() -> bilevel.SelfTuning:
    """The steps of the self-tuning network."""
    return bilevel.self_tuning(
        tuned_loss,
        tuned_loss,
        inner=optax.sgd(RATE, momentum=MOMENTUM),
        outer=optax.adam(OUTER_RATE),
        scale=optax.adam(OUTER_RATE),
        entropy_weight=ENTROPY_WEIGHT,
        has_aux=True,
    )


def against_plain(model: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """The tables' rows: title, name, and what to call."""
    layers, batch = network(model)
    elementary: Any = [(layer.elementary_kernel, layer.elementary_bias) for layer in layers]
    optimiser, tuning, key = optax.sgd(RATE, momentum=MOMENTUM), tuner(), jax.random.key(1)

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

    state, velocity = tuning.init(layers, HYPERPARAMETERS), optimiser.init(elementary)
    twice, once = (jax.tree.map(lambda leaf, n=n: jnp.stack([leaf] * n), batch) for n in (2, 1))
    step, gradient, both = map(jax.jit, (plain_step, plain_gradient, plain_alternation))
    return {
        "training step": {
            "plain": lambda: step(elementary, velocity, batch),
            "self-tuning": lambda: tuning.train_step(state, batch, key),
        },
        "tuning step": {
            "plain validation gradient": lambda: gradient(elementary, batch),
            "self-tuning": lambda: tuning.tune_step(state, batch, key),
        },
        "alternation": {
            "two plain steps, one gradient": lambda: both(elementary, velocity, twice, batch),
            "self-tuning": lambda: tuning.step(state, twice, once, key),
        },
    }


def eager_twin(layers: list[bilevel.BestResponse], *, fused: bool = False) -> Any:
    """The steps of :func:`tuner` in eager PyTorch, which must be there; ``fused`` makes momentum one pass."""
    from benchmarks import self_tuning_torch

    return self_tuning_torch.SelfTuning(
        layers,
        HYPERPARAMETERS,
        rate=RATE,
        momentum=MOMENTUM,
        outer_rate=OUTER_RATE,
        entropy_weight=ENTROPY_WEIGHT,
        fused=fused,
    )


def against_torch(model: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """Likewise, for the steps in eager PyTorch; an ImportError without it, an AssertionError if unlike."""
    from benchmarks import self_tuning_torch

    layers, batch = network(model)
    eager, fused, images = eager_twin(layers), eager_twin(layers, fused=True), self_tuning_torch.images(batch)
    numbers = bilevel.perturb(HYPERPARAMETERS, jax.random.key(2), BATCH).unconstrained
    gradient = jax.jit(jax.value_and_grad(tuned_loss, (0, 1), has_aux=True))
    (value, _), derivatives = gradient(layers, numbers, None, batch, None)
    self_tuning_torch.check_agreement(eager.network, images, numbers, value, derivatives)
    # As many as XLA takes: all that this process may run on.
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    self_tuning_torch.torch.set_num_threads(threads)

    tuning, key = tuner(), jax.random.key(1)
    state = tuning.init(layers, HYPERPARAMETERS)
    name = f"eager PyTorch {self_tuning_torch.torch.__version__}, {threads} threads"
    return {
        "training step": {
            "self-tuning": lambda: tuning.train_step(state, batch, key),
            name: lambda: eager.train_step(images),
            f"{name}, fused SGD": lambda: fused.train_step(images),
        },
        "tuning step": {
            "self-tuning": lambda: tuning.tune_step(state, batch, key),
            name: lambda: eager.tune_step(images),
        },
    }


AGAINST = {"plain": against_plain, "torch": against_torch}


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.self_tuning", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=harness.at_least(2), default=30)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--against", nargs="+", choices=AGAINST, default=list(AGAINST))
    arguments = parser.parse_args()

    def run() -> None:
        for model in arguments.models:
            for against in arguments.against:
                try:
                    tables = AGAINST[against](model)
                except ImportError as error:
                    print(f"\n{model}: without the rows of eager PyTorch, which does not import: {error}.")
                    continue
                burst = 5 if against == "torch" else 1
                for title, rows in tables.items():
                    compared = harness.compare(rows, (), rounds=arguments.rounds, burst=burst)
                    harness.show(f"{model}, {title}", compared)

    harness.main("benchmarks.self_tuning", run)


if __name__ == "__main__":
    harness.quietly(main)
