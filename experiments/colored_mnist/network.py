"""A perceptron of two hidden layers on images of one colour, as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]


def init(key: jax.Array, pixels: int, width: int, outputs: int, *, grey: bool = False) -> Params:
    """Xavier weights and zero biases.

    Args:
      key: random key.
      pixels: pixels of an image.
      width: units of each hidden layer.
      outputs: scores: 1 for the logistic form, 2 for the softmax form.
      grey: whether the network reads one grey channel; the weights of the other one are 0 then.

    Returns:
      ``first``, whose kernel ``[2, pixels, width]`` has a channel for each colour, ``second`` and ``head``.
    """
    xavier = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, 3)
    channels = 1 if grey else 2
    kernel = xavier(keys[0], (channels * pixels, width)).reshape(channels, pixels, width)
    return {
        "first": {
            "kernel": jnp.pad(kernel, ((0, 2 - channels), (0, 0), (0, 0))),
            "bias": jnp.zeros(width),
        },
        "second": {"kernel": xavier(keys[1], (width, width)), "bias": jnp.zeros(width)},
        "head": {"kernel": xavier(keys[2], (width, outputs)), "bias": jnp.zeros(outputs)},
    }


def features(params: Params, images: jax.Array, *, grey: jax.Array | bool = False) -> jax.Array:
    """What the head reads.

    Args:
      params: from :func:`init`.
      images: ``[2, E, P, pixels]``, the rows of each colour.
      grey: whether the colours are ignored: every image goes into the first channel. A boolean scalar.

    Returns:
      ``[E, 2 P, width]``.
    """
    first, second = params["first"]["kernel"]
    return _hidden(params, images, (first, jnp.where(grey, first, second)))


def features_of_both_channels(params: Params, images: jax.Array) -> jax.Array:
    """The same for images without a colour: both channels hold the digit.

    A network that reads one channel has no weights in the other.
    """
    both = params["first"]["kernel"].sum(0)
    return _hidden(params, images, (both, both))


def _hidden(params: Params, images: jax.Array, kernels: tuple[jax.Array, jax.Array]) -> jax.Array:
    _, domains, rows, pixels = images.shape
    flat = images.reshape(2, domains * rows, pixels)
    parts = [(flat[colour] @ kernels[colour]).reshape(domains, rows, -1) for colour in range(2)]
    hidden = jax.nn.relu(jnp.concatenate(parts, axis=1) + params["first"]["bias"])
    return jax.nn.relu(hidden @ params["second"]["kernel"] + params["second"]["bias"])


def scores(params: Params, features: jax.Array) -> jax.Array:
    """Scores ``[..., 1]`` or ``[..., 2]`` of features ``[..., width]``."""
    return features @ params["head"]["kernel"] + params["head"]["bias"]


def margins(scores: jax.Array) -> jax.Array:
    """Log odds of label 1 ``[...]``, whichever form the head has."""
    return scores[..., 0] if scores.shape[-1] == 1 else scores[..., 1] - scores[..., 0]
