"""Two objectives: parameters fit the training loss, hyper-parameters lower the validation loss on the way.

The contract, which ``tests/test_bilevel_conformance.py`` tries on each public name:

* Hyper-parameters are a tree of ``Bounded``, ``Positive``, ``Integer`` and ``Unbounded``, each with an
  unconstrained number, a scale, and a range that is static. ``constrain``, ``unconstrain``, ``perturb``,
  ``entropy`` and ``scales`` take such a tree. Values change without recompilation.
* A layer with best response is ``best_response_*(params, x, hyperparameters=None)`` with parameters from
  ``best_response_*_init(key, sizes..., hyperparameters)``: unconstrained hyper-parameters of each example
  ``[B, h]``, one set for all ``[h]``, or None for the elementary part.
* A loss is ``loss(params, hyperparameters, values, batch, key)`` and returns a scalar: what the layers take,
  the tree of values that regularisers take, the batch, and a random key. Training and validation are two
  such functions; a validation loss leaves the regularisers off.
* ``self_tuning(train_loss, valid_loss, ...)`` is a tuple of functions, as optax's optimisers are: ``init``
  makes a state, and the state that comes back holds parameters and hyper-parameters.
* What is tuned, functions ``(key, x, rate) -> x`` of one random key, an array and a rate: ``dropout`` and its
  kinds, ``drop_connect``, ``embedding_dropout``, ``cutout``, ``color_jitter`` and its parts, ``input_scale``.
  The rate may be one number or one per example, traced or not; none passes a gradient on to it.
* Penalties with a weight: ``weight_decay``, ``activation_regularization``,
  ``temporal_activation_regularization``.
* References to judge a tuned network by: ``implicit_hypergradient`` and ``unrolled_hypergradient`` of any
  ``inner_loss(params, hyper)`` and ``outer_loss(params, hyper)``.
"""

from jaxreg.bilevel.alternation import History, SelfTuningState
from jaxreg.bilevel.augmentations import (
    color_jitter,
    cutout,
    input_scale,
    random_brightness,
    random_contrast,
    random_hue,
    random_saturation,
)
from jaxreg.bilevel.best_response import BestResponse, best_response_init
from jaxreg.bilevel.best_response_conv import best_response_conv, best_response_conv_init
from jaxreg.bilevel.best_response_dense import (
    best_response_dense,
    best_response_dense_init,
    best_response_embedding,
    best_response_embedding_init,
)
from jaxreg.bilevel.best_response_lstm import (
    BestResponseLSTM,
    best_response_lstm_cell,
    best_response_lstm_cell_init,
)
from jaxreg.bilevel.centred import NetworkLoss, linearised, recentre
from jaxreg.bilevel.hypergradients import Hypergradient, implicit_hypergradient, unrolled_hypergradient
from jaxreg.bilevel.hyperparameters import (
    Perturbed,
    constrain,
    entropy,
    perturb,
    scales,
    unconstrain,
    unperturbed,
)
from jaxreg.bilevel.kinds import Bounded, Integer, Positive, Unbounded
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
from jaxreg.bilevel.self_tuning import SelfTuning, self_tuning

__all__ = [
    "BestResponse",
    "BestResponseLSTM",
    "Bounded",
    "History",
    "Hypergradient",
    "Integer",
    "NetworkLoss",
    "Perturbed",
    "Positive",
    "SelfTuning",
    "SelfTuningState",
    "Unbounded",
    "activation_regularization",
    "best_response_conv",
    "best_response_conv_init",
    "best_response_dense",
    "best_response_dense_init",
    "best_response_embedding",
    "best_response_embedding_init",
    "best_response_init",
    "best_response_lstm_cell",
    "best_response_lstm_cell_init",
    "channel_dropout",
    "color_jitter",
    "constrain",
    "cutout",
    "drop_connect",
    "dropout",
    "embedding_dropout",
    "entropy",
    "implicit_hypergradient",
    "input_scale",
    "linearised",
    "perturb",
    "random_brightness",
    "random_contrast",
    "random_hue",
    "random_saturation",
    "recentre",
    "scales",
    "self_tuning",
    "temporal_activation_regularization",
    "unconstrain",
    "unperturbed",
    "unrolled_hypergradient",
    "variational_dropout",
    "weight_decay",
]
