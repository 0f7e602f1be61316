"""The hyper-parameters of an image classifier: their ranges, where they start, and random draws."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreg import bilevel

# Layers after which a share of the units is dropped; "input" drops pixels.
DROPOUTS = ("input", "first", "second", "hidden")
MAX_DROPOUT, MAX_SCALE, MAX_HOLES = 0.9, 0.3, 4
DECAYS = (1e-6, 1e-2)  # random draws of the weight decay, uniform in its logarithm
# Tuned is the logarithm of the weight decay over this: layers respond to it, and best to numbers around 0.
DECAY_UNIT = 1e-4
JITTERS = {"hue": 0.5, "contrast": 1.0, "saturation": 1.0, "brightness": 1.0}

Values = dict[str, Any]


def start(dropout: float, augment: bool) -> Values:
    """Where tuning starts, and the values of the contender that does nothing but this."""
    values: Values = {f"dropout_{layer}": dropout for layer in DROPOUTS}
    values |= {"input_scale": 0.02, "cutout_length": 0, "cutout_holes": 1, "weight_decay": 1e-5}
    return values | (dict.fromkeys(JITTERS, 0.02) if augment else {})


def usual(augment: bool) -> Values:
    """What one would take without tuning: half the hidden units dropped, some weight decay."""
    return start(0.0, augment) | {"dropout_hidden": 0.5, "input_scale": 0.0, "weight_decay": 1e-4}


def longest_cutout(side: int) -> int:
    """Half the side of an image."""
    return side // 2


def tree(values: Values, side: int, scale: float) -> dict[str, Any]:
    """Values as hyper-parameters that can be tuned, with the scale of their perturbation."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith("dropout"):
            made[name] = bilevel.Bounded(value, 0.0, MAX_DROPOUT, scale=scale)
        elif name == "input_scale":
            made[name] = bilevel.Bounded(value, 0.0, MAX_SCALE, scale=scale)
        elif name == "cutout_length":
            made[name] = bilevel.Integer(value, 0, longest_cutout(side), scale=scale)
        elif name == "cutout_holes":
            made[name] = bilevel.Integer(value, 0, MAX_HOLES, scale=scale)
        elif name == "weight_decay":
            made[name] = bilevel.Unbounded(jnp.log(value / DECAY_UNIT), scale=scale, shared=True)
        else:
            made[name] = bilevel.Bounded(value, 0.0, JITTERS[name], scale=scale)
    return made


def applied(values: Mapping[str, Any]) -> Values:
    """Values of tuned hyper-parameters as regularisers take them."""
    return {**values, "weight_decay": DECAY_UNIT * jnp.exp(values["weight_decay"])}


def random(seed: int, count: int, side: int, augment: bool) -> list[Values]:
    """Independent draws, uniform over the ranges."""
    generator = np.random.default_rng((seed, 4))
    return [_draw(generator, side, augment) for _ in range(count)]


def _draw(generator: np.random.Generator, side: int, augment: bool) -> Values:
    values: Values = {f"dropout_{layer}": generator.uniform(0, MAX_DROPOUT) for layer in DROPOUTS}
    values["input_scale"] = generator.uniform(0, MAX_SCALE)
    values["cutout_length"] = int(generator.integers(0, longest_cutout(side) + 1))
    values["cutout_holes"] = int(generator.integers(0, MAX_HOLES + 1))
    values["weight_decay"] = float(np.exp(generator.uniform(*np.log(DECAYS))))
    return values | ({name: generator.uniform(0, most) for name, most in JITTERS.items()} if augment else {})


def stacked(values: list[Values]) -> dict[str, np.ndarray]:
    """One array a hyper-parameter, with a leading axis of runs."""
    return {name: np.array([one[name] for one in values], np.float32) for name in values[0]}
