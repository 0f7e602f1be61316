"""Small classifiers from flax nnx, used as pure functions over plain dictionaries of parameters.

A dictionary with a leading axis of runs goes through :func:`jax.vmap` as it is, so many models train side by
side.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

Params = dict[str, Any]


class Model(NamedTuple):
    """A classifier as two pure functions."""

    init: Callable[[jax.Array], Params]  # random key -> parameters
    apply: Callable[[Params, jax.Array], jax.Array]  # parameters, features [B, ...] -> scores [B, K]


class Perceptron(nnx.Module):
    """Two layers: a hidden one with rectified linear units, then one score a class."""

    def __init__(self, inputs: int, width: int, classes: int, *, rngs: nnx.Rngs):
        he = nnx.initializers.he_normal()
        self.hidden = nnx.Linear(inputs, width, kernel_init=he, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Scores ``[B, K]`` of features ``[B, ...]``."""
        return self.head(jax.nn.relu(self.hidden(features.reshape(features.shape[0], -1))))


def _product(images: jax.Array, kernel: jax.Array, strides, padding, **_) -> jax.Array:
    """Convolution of stride 1 that keeps the size, as one matrix product.

    Under ``vmap`` over parameters a convolution turns into a grouped one, which is slow on most devices; a
    matrix product turns into a batch of them.
    """
    height, breadth = images.shape[1:3]
    rows, columns = kernel.shape[:2]
    around = ((rows // 2, (rows - 1) // 2), (columns // 2, (columns - 1) // 2))
    padded = jnp.pad(images, ((0, 0), *around, (0, 0)))
    shifted = [
        padded[:, row : row + height, column : column + breadth]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class ConvolutionalNetwork(nnx.Module):
    """Two 3x3 convolutions, each followed by 2x2 mean pooling, a hidden layer, then one score a class."""

    def __init__(self, shape: tuple[int, int, int], width: int, classes: int, *, rngs: nnx.Rngs):
        he = nnx.initializers.he_normal()
        height, breadth, channels = shape
        self.first = nnx.Conv(channels, 16, (3, 3), kernel_init=he, conv_general_dilated=_product, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), kernel_init=he, conv_general_dilated=_product, rngs=rngs)
        self.hidden = nnx.Linear((height // 4) * (breadth // 4) * 32, width, kernel_init=he, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Scores ``[B, K]`` of images ``[B, height, width, channels]``."""
        for layer in (self.first, self.second):
            features = nnx.avg_pool(jax.nn.relu(layer(features)), (2, 2), strides=(2, 2))
        return self.head(jax.nn.relu(self.hidden(features.reshape(features.shape[0], -1))))


def make(kind: Literal["mlp", "cnn"], shape: tuple[int, ...], width: int, classes: int) -> Model:
    """Builds a classifier.

    Args:
      kind: ``mlp`` for :class:`Perceptron`, ``cnn`` for :class:`ConvolutionalNetwork`.
      shape: shape of one row of features; ``cnn`` needs (height, width, channels), both sides at least 4.
      width: units of the hidden layer.
      classes: number of classes.

    Returns:
      Its pure functions.

    Raises:
      ValueError: if ``cnn`` is asked for rows that are not images of at least 4 by 4.

    >>> model = make("mlp", (8, 8, 1), width=16, classes=10)
    >>> params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
    >>> params["hidden"]["kernel"].shape
    (3, 64, 16)
    >>> jax.vmap(model.apply, in_axes=(0, None))(params, jnp.ones((5, 8, 8, 1))).shape
    (3, 5, 10)
    """

    def build(rngs: nnx.Rngs) -> nnx.Module:
        if kind == "mlp":
            return Perceptron(math.prod(shape), width, classes, rngs=rngs)
        if len(shape) != 3 or min(shape[:2]) < 4:
            raise ValueError(f"model cnn needs images of at least 4x4 pixels; rows have shape {shape}")
        return ConvolutionalNetwork((shape[0], shape[1], shape[2]), width, classes, rngs=rngs)

    graph = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def apply(params: Params, features: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(jnp.asarray(features))

    return Model(init, apply)
