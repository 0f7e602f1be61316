"""One step of projected gradient ascent against one gradient of the model in its input.

``python -m benchmarks.attacks [--rounds N]``. The ascent is timed with 1 and with 20 steps,
with and without drawing a random start, each against as many gradients.
"""

import argparse
import itertools
from functools import partial
from typing import Literal

import jax

from benchmarks import harness
from jaxreg import attacks

LAYERS = (784, 512, 512, 10)
BATCH, STEPS = 256, 20


def scores(weights: list[jax.Array], x: jax.Array) -> jax.Array:
    """A perceptron with three layers."""
    for weight in weights[:-1]:
        x = jax.nn.relu(x @ weight)
    return x @ weights[-1]


def run(rounds: int) -> None:
    """Print the table of each norm."""
    keys = jax.random.split(jax.random.key(0), len(LAYERS))
    sizes = list(itertools.pairwise(LAYERS))
    weights = [jax.random.normal(key, size) / size[0] ** 0.5 for key, size in zip(keys, sizes, strict=False)]
    x = jax.random.uniform(keys[-1], (BATCH, LAYERS[0]))
    labels = jax.random.randint(keys[-1], (BATCH,), 0, LAYERS[-1])

    def value(x: jax.Array, weights: list[jax.Array]) -> jax.Array:
        return attacks.score_margin(scores(weights, x), labels)

    def gradients(x: jax.Array, weights: list[jax.Array], count: int) -> jax.Array:
        # The next gradient depends on the one before, so that none is left out.
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return x + 1e-6 * jax.grad(lambda x: value(x, weights).sum())(x), None

        return jax.lax.scan(step, x, length=count)[0]

    def ascent(
        x: jax.Array, weights: list[jax.Array], norm: Literal["l_inf", "l_2"], steps: int, start: bool
    ) -> jax.Array:
        return attacks.projected_gradient_ascent(
            lambda x: value(x, weights),
            x,
            jax.random.key(0),
            radius=0.3,
            step_size=0.01,
            steps=steps,
            norm=norm,
            lower=0.0,
            upper=1.0,
            random_start=start,
        )

    for steps in (1, STEPS):
        rows = {f"{steps} x gradient": jax.jit(partial(gradients, count=steps))}
        for norm in ("l_inf", "l_2"):
            for start, title in ((True, "random start"), (False, "from the inputs")):
                rows[f"ascent, {norm}, {title}"] = jax.jit(
                    partial(ascent, norm=norm, steps=steps, start=start)
                )
        table = harness.compare(rows, (x, weights), rounds=rounds)
        harness.show(f"{steps} steps, batch {BATCH}, layers {LAYERS}", table)


def main() -> None:
    """Parse the command line and run under each allocator."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument(
        "--rounds", type=harness.at_least(2), default=30, help="interleaved rounds (default 30)"
    )
    harness.main("benchmarks.attacks", partial(run, parser.parse_args().rounds))


if __name__ == "__main__":
    harness.quietly(main)
