"""Two objectives: regularisation that is tuned on validation data while the network trains.

* What is tuned, functions ``(key, x, rate) -> x`` of one random key, an array and a rate: ``dropout`` and its
  kinds, ``drop_connect``, ``embedding_dropout``, ``cutout``, ``color_jitter`` and its parts, ``input_scale``.
  The rate may be one number or one per example, traced or not; none passes a gradient on to it.
* Penalties with a weight: ``weight_decay``, ``activation_regularization``,
  ``temporal_activation_regularization``.
* References to judge a tuned network by: ``implicit_hypergradient`` and ``unrolled_hypergradient`` of any
  ``inner_loss(params, hyper)`` and ``outer_loss(params, hyper)``.
"""

from jaxreg.bilevel.augmentations import (
    color_jitter,
    cutout,
    input_scale,
    random_brightness,
    random_contrast,
    random_hue,
    random_saturation,
)
from jaxreg.bilevel.hypergradients import Hypergradient, implicit_hypergradient, unrolled_hypergradient
from jaxreg.bilevel.regularizers import (
    activation_regularization,
    channel_dropout,
    drop_connect,
    dropout,
    embedding_dropout,
    temporal_activation_regularization,
    variational_dropout,
    weight_decay,
)

__all__ = [
    "Hypergradient",
    "activation_regularization",
    "channel_dropout",
    "color_jitter",
    "cutout",
    "drop_connect",
    "dropout",
    "embedding_dropout",
    "implicit_hypergradient",
    "input_scale",
    "random_brightness",
    "random_contrast",
    "random_hue",
    "random_saturation",
    "temporal_activation_regularization",
    "unrolled_hypergradient",
    "variational_dropout",
    "weight_decay",
]
