"""Steps a second of large-step logistic regression: compiled loops against NumPy, on one problem in one
process.

``python -m benchmarks.large_step [--rows N] [--features D] [--steps T] [--rounds N]``

A step multiplies the matrix with a vector from both sides. A loop that does one after the other reads the
matrix twice; one that takes both products of a block of rows while the block is in cache reads it once. XLA
takes the products of a block on one core: for all cores the rows are spread over as many CPU devices, and a
row of the table without "devices" uses the first. Bandwidths count these reads, and that of the copy its read
and write; where they are above the copy's, part of the matrix was still in cache.
"""

import argparse
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import harness
from jaxreg.theory.large_step import separate


def numpy_loop(examples: np.ndarray, steps: int) -> np.ndarray:
    """Normalized LR+GD, a NumPy call for every product."""
    theta = np.zeros(examples.shape[1], examples.dtype)
    for _ in range(steps):
        slopes = 1 / (1 + np.exp(np.clip(examples @ theta, -80, 80)))
        theta = theta + (slopes @ examples) / slopes.sum()
    return theta


def two_passes(examples: jax.Array, steps: int) -> jax.Array:
    """The same as one compiled scan over the gradient of the loss, as automatic differentiation gives it."""

    def step(theta: jax.Array, _: None) -> tuple[jax.Array, None]:
        def loss(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
            margins = examples @ theta
            return jax.nn.softplus(-margins).mean(), jax.nn.sigmoid(-margins).mean()

        gradient, slope = jax.grad(loss, has_aux=True)(theta)
        return theta - gradient / slope, None

    return jax.lax.scan(step, jnp.zeros(examples.shape[1], examples.dtype), length=steps)[0]


def run(rows: int, features: int, steps: int, rounds: int) -> None:
    """Print the table, the bandwidths, and the cost of ten step sizes at once."""
    generator = np.random.default_rng(0)
    host = generator.normal(size=(rows, features)).astype(np.float32)
    # Two equal and opposite rows: nothing separates them, so that every loop takes all its steps.
    host[-1] = -host[0]
    device, ones, other = jnp.asarray(host), jnp.ones(rows, jnp.int32), np.empty_like(host)

    def loop(
        sizes: jax.Array | float, block: int | None, features: jax.Array = device
    ) -> Callable[[], jax.Array]:
        # separate looks at one more iterate than it takes steps.
        options = {"step_size": sizes, "max_steps": steps - 1, "block_rows": block}
        return lambda: separate(features, ones, **options).iterate

    def copy() -> None:
        for _ in range(steps):
            np.copyto(other, host)

    count, ten = jax.device_count(), jnp.logspace(-3, 6, 10)
    blocks = [block for block in (100, 250, 500) if rows % (count * block) == 0]
    spread = jax.device_put(device, NamedSharding(jax.make_mesh((count,), ("rows",)), PartitionSpec("rows")))
    scan = jax.jit(two_passes, static_argnums=1)
    functions = {
        "NumPy loop": lambda: numpy_loop(host, steps),
        # Here, for NumPy's threads go on turning for a while after a product.
        "copy of the matrix": copy,
        "compiled scan, two passes": lambda: scan(device, steps),
        "separate, two passes": loop(1.0, None),
        **{f"separate, blocks of {block} rows": loop(1.0, block) for block in blocks},
        **{f"separate, blocks, {count} devices: {block}": loop(1.0, block, spread) for block in blocks},
        "separate, ten step sizes": loop(ten, None),
        **{
            f"ten step sizes, blocks, {count} devices: {block}": loop(ten, block, spread)
            for block in blocks[-1:]
        },
    }
    table = harness.compare(functions, (), rounds=rounds)
    harness.show(f"{steps} steps, ({rows}, {features}) float32", table)
    print("\n  reads of the matrix, GB/s, and steps a second")
    for name, (milliseconds, *_) in table.items():
        passes = 1 if "blocks" in name else 2
        rate = passes * host.nbytes * steps / milliseconds / 1e6
        print(f"  {name:44s} {rate:9.1f} {1e3 * steps / milliseconds:12.0f}")
    times = {name: milliseconds for name, (milliseconds, *_) in table.items()}
    best = min((name for name in times if name.startswith("separate, blocks")), key=times.__getitem__)
    print(f"\n  {best}: {times['NumPy loop'] / times[best]:.2f} times as many steps a second as NumPy")
    ratio = times["separate, ten step sizes"] / times["separate, two passes"]
    print(f"  ten step sizes take {ratio:.2f} times as long as one, two passes each", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_step", description=__doc__)
    parser.add_argument(
        "--rows", type=harness.at_least(1), default=10_000, help="rows of the matrix (default 10000)"
    )
    parser.add_argument(
        "--features", type=harness.at_least(1), default=784, help="columns of the matrix (default 784)"
    )
    parser.add_argument(
        "--steps", type=harness.at_least(1), default=200, help="steps of one timing (default 200)"
    )
    parser.add_argument(
        "--rounds", type=harness.at_least(2), default=10, help="interleaved rounds (default 10)"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    run(arguments.rows, arguments.features, arguments.steps, arguments.rounds)


if __name__ == "__main__":
    harness.quietly(main)
