"""Value and gradient of each loss against optax's cross-entropy and against one read and one write.

``python -m benchmarks.losses [--loss NAME ...] [--rounds N]``
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import optax

from benchmarks import harness
from jaxreg import losses

SHAPES = ((65536, 10), (4096, 1000), (256, 50257))

# What is timed beside the defaults: hyper-parameters that take another path through the code.
VARIANTS = {
    "ldr_top_k": {"k=5": {"k": 5}, "k=5, temperature=1": {"k": 5, "temperature": 1.0}},
    "ldr_kl": {
        "temperature=0.5, margin=0.1": {"temperature": 0.5, "margin": 0.1},
        "temperature traced": {"temperature": jnp.float32(0.5)},
        "temperature and margin traced": {"temperature": jnp.float32(0.5), "margin": jnp.float32(0.1)},
        "temperature=inf": {"temperature": float("inf")},
    },
    "comp_sum": {"tau=0.5": {"tau": 0.5}, "tau traced": {"tau": jnp.float32(0.5)}},
    "generalized_cross_entropy": {"q traced": {"q": jnp.float32(0.7)}},
}

REQUIRED = {"ldr_top_k"}
"""Losses with a hyper-parameter that has no default."""

NOT_LOSSES = {
    "aldr_temperature",
    "expected",
    "ldr_weights",
    "margin_adversarial_comp_sum",
    "mart",
    "smooth_adversarial_comp_sum",
    "trades",
}


def value_and_gradient(loss, hyper):
    """The mean loss and its gradient, as a function of scores, labels and array hyper-parameters."""
    fixed = {name: value for name, value in hyper.items() if not isinstance(value, jax.Array)}

    def mean(logits, labels, traced):
        return jnp.mean(loss(logits, labels, **fixed, **traced))

    traced = {name: value for name, value in hyper.items() if isinstance(value, jax.Array)}
    # Passed as an argument and not closed over: a constant could be folded into the program.
    compiled = jax.jit(jax.value_and_grad(mean))
    return lambda logits, labels: compiled(logits, labels, traced)


def run(names: list[str], rounds: int) -> None:
    """Print the table of each shape."""
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
    for batch, classes in SHAPES:
        key = jax.random.key(0)
        logits = 3 * jax.random.normal(key, (batch, classes))
        labels = jax.random.randint(key, (batch,), 0, classes)
        rows = {
            "optax cross-entropy": value_and_gradient(cross_entropy, {}),
            "v * 2": jax.jit(lambda v, _: v * 2),
        }
        for name in names:
            plain = {} if name in REQUIRED else {"": {}}
            for variant, hyper in {**plain, **VARIANTS.get(name, {})}.items():
                rows[f"{name} {variant}".strip()] = value_and_gradient(getattr(losses, name), hyper)
        table = harness.compare(rows, (logits, labels), rounds=rounds)
        harness.show(f"value and gradient, ({batch}, {classes}) float32", table)


def main() -> None:
    """Parse the command line and run under each allocator."""
    names = [name for name in losses.__all__ if name not in NOT_LOSSES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses", description=__doc__)
    parser.add_argument("--loss", nargs="+", choices=names, default=names, help="losses to time")
    parser.add_argument(
        "--rounds", type=harness.at_least(2), default=30, help="interleaved rounds (default 30)"
    )
    arguments = parser.parse_args()
    harness.main("benchmarks.losses", partial(run, arguments.loss, arguments.rounds))


if __name__ == "__main__":
    harness.quietly(main)
