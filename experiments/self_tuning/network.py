"""A convolutional network whose layers respond to hyper-parameters, or do not.

A convolution is a dense layer on patches: a matrix product is several times faster than XLA's convolution on
a CPU, and one best-response layer serves all.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.self_tuning import space
from jaxreg import bilevel

Params = dict[str, Any]


class Layer(NamedTuple):
    """One layer."""

    name: str
    side: int  # kernel height and width of a convolution; 0 for a dense layer
    stride: int
    units: int


def layers(size: str, width: int, classes: int) -> tuple[Layer, ...]:
    """The layers of a network: ``small``, or ``alexnet`` with five convolutions and two hidden layers."""
    if size == "small":
        body = (Layer("first", 3, 2, 16), Layer("second", 3, 2, 32), Layer("hidden", 0, 1, width))
    else:
        body = (
            Layer("first", 3, 2, 64), Layer("second", 3, 2, 192), Layer("third", 3, 1, 384),
            Layer("fourth", 3, 1, 256), Layer("fifth", 3, 2, 256), Layer("hidden", 0, 1, width),
            Layer("dense", 0, 1, width),
        )  # fmt: skip
    return (*body, Layer("head", 0, 1, classes))


def fan_ins(body: tuple[Layer, ...], shape: tuple[int, ...]) -> dict[str, int]:
    """Inputs of one unit of every layer, for images of a shape (height, width, channels)."""
    height, breadth, channels = shape
    found = {}
    for layer in body:
        if layer.side:
            found[layer.name] = layer.side**2 * channels
            height, breadth = -(-height // layer.stride), -(-breadth // layer.stride)
        else:
            found[layer.name] = height * breadth * channels
            height, breadth = 1, 1
        channels = layer.units
    return found


def init(key: jax.Array, body: tuple[Layer, ...], shape: tuple[int, ...], hyper_count: int) -> Params:
    """Parameters of every layer; ``hyper_count`` of 0 makes layers that do not respond."""
    params: Params = {}
    he = jax.nn.initializers.he_normal()
    for index, (layer, inputs) in enumerate(zip(body, fan_ins(body, shape).values(), strict=True)):
        own = jax.random.fold_in(key, index)
        if hyper_count:
            made = bilevel.best_response_dense_init(own, inputs, layer.units, hyper_count, kernel_init=he)
        else:
            made = {"kernel": he(own, (inputs, layer.units)), "bias": jnp.zeros(layer.units)}
        params[layer.name] = made
    return params


def kernels(params: Params, response: jax.Array | None) -> dict[str, jax.Array]:
    """The kernels in use, for weight decay; of a batch of responses those at its mean."""
    mean = None if response is None else response.reshape(-1, response.shape[-1]).mean(axis=0)

    def kernel(layer: Any) -> jax.Array:
        if isinstance(layer, dict):
            return layer["kernel"]
        if mean is None:
            return layer.elementary_kernel
        return layer.elementary_kernel + (mean @ layer.gate[:, : layer.outputs]) * layer.response_kernel

    return {name: kernel(layer) for name, layer in params.items()}


def _apply_layer(params: Any, inputs: jax.Array, response: jax.Array | None) -> jax.Array:
    if isinstance(params, dict):
        return inputs @ params["kernel"] + params["bias"]
    return bilevel.best_response_dense(params, inputs, response)


def patches(images: jax.Array, side: int, stride: int) -> jax.Array:
    """Neighbourhoods of pixels, ``[B, H / stride, W / stride, side^2 C]``, zeros beyond the border."""
    height, breadth = images.shape[1:3]
    before, after = (side - 1) // 2, side // 2
    padded = jnp.pad(images, ((0, 0), (before, after + stride), (before, after + stride), (0, 0)))
    rows, columns = -(-height // stride), -(-breadth // stride)
    shifted = [
        padded[:, row : row + stride * rows : stride, column : column + stride * columns : stride]
        for row in range(side)
        for column in range(side)
    ]
    return jnp.concatenate(shifted, axis=-1)


def scores(
    params: Params,
    images: jax.Array,
    *,
    body: tuple[Layer, ...],
    response: jax.Array | None,
    regularize: tuple[jax.Array, Mapping[str, jax.Array]] | None,
) -> jax.Array:
    """Scores of images.

    Args:
      params: from :func:`init`.
      images: float32 ``[B, height, width, channels]``.
      body: from :func:`layers`.
      response: what layers respond to, ``[h]`` or ``[B, h]``; ``None`` for plain layers or elementary parts.
      regularize: a random key and the values of the hyper-parameters, one or one an example, in training.

    Returns:
      ``[B, K]``.
    """
    hidden = images
    for index, layer in enumerate(body):
        if layer.side:
            inputs = patches(hidden, layer.side, layer.stride)
        else:
            inputs = hidden.reshape(hidden.shape[0], -1)
        hidden = _apply_layer(params[layer.name], inputs, response)
        if layer.name != "head":
            hidden = jax.nn.relu(hidden)
        name = f"dropout_{_group(layer)}"
        if regularize is not None and layer.name != "head":
            drop = bilevel.channel_dropout if layer.side else bilevel.dropout
            hidden = drop(jax.random.fold_in(regularize[0], index), hidden, regularize[1][name])
    return hidden


def _group(layer: Layer) -> str:
    """Layers that share a rate: those of the small network have one each."""
    if layer.name in space.DROPOUTS:
        return layer.name
    return "second" if layer.side else "hidden"


def augmented(key: jax.Array, images: jax.Array, values: Mapping[str, jax.Array]) -> jax.Array:
    """Images changed at random, with pixels dropped."""
    keys = jax.random.split(key, 4)
    jitters = {name: values[name] for name in space.JITTERS if name in values}
    if jitters:
        images = bilevel.color_jitter(keys[0], images, **jitters)
    images = bilevel.input_scale(keys[1], images, values["input_scale"])
    images = bilevel.cutout(
        keys[2], images, values["cutout_length"], values["cutout_holes"], max_holes=space.MAX_HOLES
    )
    return bilevel.dropout(keys[3], images, values["dropout_input"])
