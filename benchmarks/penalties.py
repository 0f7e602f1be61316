"""Training steps with a penalty over domains against the plain step, on one network and batch in one process.

``python -m benchmarks.penalties [--rows N] [--width W] [--rounds N] [--only full|minibatch|hessians|twins]``

A step is the gradient and Adam's update of a perceptron 392-W-W-1 with one logit, on two domains of N/2 rows
(full batch) and on three domains of 64 (minibatch). Each penalty is added to the mean loss; the closed forms
stand beside double back-propagation of the same objective. The twins that take any loss are timed against the
closed forms on a linear head. Memory is the compiler's count.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from jaxreg import penalties
from jaxreg.penalties import general, head_moments

Penalty = Callable[..., jax.Array]
INPUTS = 392


def network(key: jax.Array, width: int) -> dict[str, Any]:
    """Two hidden layers and a head, He's initialisation."""
    sizes, keys = (INPUTS, width, width, 1), jax.random.split(key, 3)
    layers = [
        {"kernel": jax.random.normal(k, (m, n)) * np.sqrt(2 / m), "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    return {"hidden": layers[:-1], "head": layers[-1]}


def features_of(params: dict[str, Any], inputs: jax.Array) -> jax.Array:
    """What the head sees, ``[E, B, W]``."""
    for layer in params["hidden"]:
        inputs = jax.nn.relu(inputs @ layer["kernel"] + layer["bias"])
    return inputs


def domain_losses(head: dict[str, jax.Array], features: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean logistic loss of each domain, ``[E]``."""
    logits = (features @ head["kernel"] + head["bias"])[..., 0]
    return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, labels), axis=1)


def double_backpropagation(head: dict, features: jax.Array, labels: jax.Array) -> jax.Array:
    """The HGP penalty as the gradient of half the squared norm of the gradient, with the pooled reference."""

    def loss(head: dict, features: jax.Array, labels: jax.Array) -> jax.Array:
        return domain_losses(head, features[None], labels[None])[0]

    def pooled_loss(head: dict) -> jax.Array:
        return jnp.mean(domain_losses(head, features, labels))

    def both(function: Callable[[dict], jax.Array]) -> tuple[Any, Any]:
        def half_square(head: dict) -> tuple[jax.Array, Any]:
            gradient = jax.grad(function)(head)
            squares = (jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
            return functools.reduce(jnp.add, squares) / 2, gradient

        product, gradient = jax.grad(half_square, has_aux=True)(head)
        return gradient, product

    own = jax.vmap(lambda z, y: both(lambda head: loss(head, z, y)))(features, labels)
    reference = jax.lax.stop_gradient(both(pooled_loss))
    squares = jax.tree.map(
        lambda a, b: jnp.mean(jnp.sum((a - b) ** 2, tuple(range(1, a.ndim)))), own, reference
    )
    return functools.reduce(jnp.add, jax.tree.leaves(squares))


def step_with(penalty: Penalty | None, optimiser: optax.GradientTransformation) -> Callable:
    """One compiled training step; state in, state out."""

    def objective(params: dict, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        features = features_of(params, inputs)
        loss = jnp.mean(domain_losses(params["head"], features, labels))
        return loss if penalty is None else loss + penalty(params["head"], features, labels)

    def step(params: dict, state: Any, inputs: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        updates, state = optimiser.update(jax.grad(objective)(params, inputs, labels), state)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def peak(function: Any, arguments: tuple) -> float:
    """Memory that a compiled function needs beside its arguments, MiB; results may serve as scratch space."""
    analysis = function.lower(*arguments).compile().memory_analysis()
    return (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20


def training(domains: int, examples: int, width: int, rounds: int) -> None:
    """Print times, ratios and memory of the steps on one batch."""
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(generator.uniform(size=(domains, examples, INPUTS)) < 0.2, jnp.float32)
    labels = jnp.asarray(generator.integers(2, size=(domains, examples)))
    params, optimiser = network(jax.random.key(0), width), optax.adam(1e-3)
    contenders: dict[str, Penalty | None] = {
        "plain step": None,
        "hessian_gradient_alignment": penalties.hessian_gradient_alignment,
        "hessian_diagonal_alignment": penalties.hessian_diagonal_alignment,
        "hessian_alignment": penalties.hessian_alignment,
        "HGP by double back-propagation": double_backpropagation,
        "plain step again": None,
    }
    arguments = params, optimiser.init(params), inputs, labels
    steps = {name: step_with(penalty, optimiser) for name, penalty in contenders.items()}
    title = f"{domains} x {examples}, perceptron {INPUTS}-{width}-{width}-1, float32"
    harness.show(title, harness.compare(steps, arguments, rounds=rounds))
    print("\n  memory of a step beside its arguments, MiB")
    for name, step in steps.items():
        print(f"  {name:44s} {peak(step, arguments):9.1f}", flush=True)


def materialised(head: dict, features: jax.Array) -> jax.Array:
    """Distance of two domains' Hessians, which are formed by automatic differentiation."""
    classes = head["kernel"].shape[1]

    def loss(flat: jax.Array, features: jax.Array) -> jax.Array:
        kernel, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        return jnp.mean(jax.nn.logsumexp(features @ kernel + bias, axis=-1))

    flat = jnp.concatenate([head["kernel"].ravel(), head["bias"]])
    hessians = [jax.hessian(loss)(flat, domain) for domain in features]
    return jnp.linalg.norm(hessians[0] - hessians[1])


def hessians(rounds: int) -> None:
    """Print the exact diagonal against 300 probes, and the Gram form against the materialised Hessians."""
    generator = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)  # noqa: E731
    head = {"kernel": normal(512, 10) / 20, "bias": normal(10)}
    features = jax.nn.relu(normal(3, 256, 512))
    labels = jnp.asarray(generator.integers(10, size=(3, 256)))

    def gradient(penalty: Penalty) -> Callable:
        return jax.jit(jax.value_and_grad(penalty, argnums=(0, 1)))

    def sampled(head: dict, features: jax.Array, labels: jax.Array) -> jax.Array:
        return penalties.hutchinson_alignment(head, features, labels, key=jax.random.key(0))

    functions = {
        "hessian_diagonal_alignment": gradient(penalties.hessian_diagonal_alignment),
        "hutchinson_alignment, 300 probes": gradient(sampled),
    }
    table = harness.compare(functions, (head, features, labels), rounds=max(rounds // 4, 3))
    harness.show("value and gradient, 3 x 256, D = 512, K = 10", table)
    pair = features[:2]

    def distance(head: dict, features: jax.Array) -> jax.Array:
        return head_moments.hessian_frobenius_distances(head, features)[0, 1]

    functions = {"hessian_frobenius_distances": jax.jit(distance), "of materialised": jax.jit(materialised)}
    table = harness.compare(functions, (head, pair), rounds=max(rounds // 4, 3))
    harness.show("Frobenius distance of two Hessians, B = 256, D = 512, K = 10", table)
    for name, function in functions.items():
        print(f"  {name:44s} {peak(function, (head, pair)):9.1f} MiB", flush=True)


def twins(rounds: int) -> None:
    """Print each closed form against its twin for any loss, value and gradient, on one linear head."""
    generator = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)  # noqa: E731
    head = {"kernel": normal(128, 10) / 10, "bias": normal(10)}
    batch = jax.nn.relu(normal(3, 64, 128)), jnp.asarray(generator.integers(10, size=(3, 64)))

    def loss_fn(head: dict, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = batch[0] @ head["kernel"] + head["bias"]
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    rows, memory = {}, {}
    for name in general.__all__:
        if name == "gradient_variances":
            continue  # what fishr compares
        options = {"key": jax.random.key(0), "probes": 30} if name == "hutchinson_alignment" else {}

        def closed(
            head: dict, features: jax.Array, labels: jax.Array, name: str = name, options: dict = options
        ) -> jax.Array:
            return getattr(penalties, name)(head, features, labels, **options)

        def twin(
            head: dict, features: jax.Array, labels: jax.Array, name: str = name, options: dict = options
        ) -> jax.Array:
            return getattr(general, name)(loss_fn, head, (features, labels), **options)

        both = {name: closed, f"general.{name}": twin}
        functions = {key: jax.jit(jax.value_and_grad(one, argnums=(0, 1))) for key, one in both.items()}
        rows |= harness.compare(functions, (head, *batch), rounds=rounds)
        memory |= {key: peak(function, (head, *batch)) for key, function in functions.items()}
    title = "value and gradient in head and features, 3 x 64, D = 128, K = 10; ratios to the closed form"
    harness.show(title, rows)
    print("\n  memory beside the arguments, MiB")
    for name, size in memory.items():
        print(f"  {name:44s} {size:9.1f}", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.penalties", description=__doc__)
    parser.add_argument(
        "--rows", type=harness.at_least(2), default=50_000, help="examples of the full batch (default 50000)"
    )
    parser.add_argument(
        "--width", type=harness.at_least(1), default=390, help="hidden units of a layer (default 390)"
    )
    parser.add_argument(
        "--rounds",
        type=harness.at_least(2),
        default=5,
        help="interleaved rounds of the full batch (default 5)",
    )
    parser.add_argument(
        "--only", choices=("full", "minibatch", "hessians", "twins"), help="one part (default all)"
    )
    given = parser.parse_args()
    if given.only in (None, "minibatch"):
        training(3, 64, given.width, 20 * given.rounds)
    if given.only in (None, "hessians"):
        hessians(2 * given.rounds)
    if given.only in (None, "twins"):
        twins(2 * given.rounds)
    if given.only in (None, "full"):
        training(2, given.rows // 2, given.width, given.rounds)


if __name__ == "__main__":
    harness.quietly(main)
