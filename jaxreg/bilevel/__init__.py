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
"""

from jaxreg.bilevel.best_response import (
    BestResponse,
    best_response_conv,
    best_response_conv_init,
    best_response_dense,
    best_response_dense_init,
    best_response_embedding,
    best_response_embedding_init,
    best_response_init,
)
from jaxreg.bilevel.best_response_lstm import (
    BestResponseLSTM,
    best_response_lstm_cell,
    best_response_lstm_cell_init,
)
from jaxreg.bilevel.centred import NetworkLoss, linearised, recentre
from jaxreg.bilevel.hyperparameters import (
    Bounded,
    Integer,
    Perturbed,
    Positive,
    Unbounded,
    constrain,
    entropy,
    perturb,
    scales,
    unconstrain,
    unperturbed,
)
from jaxreg.bilevel.self_tuning import History, SelfTuning, SelfTuningState, self_tuning

__all__ = [
    "BestResponse",
    "BestResponseLSTM",
    "Bounded",
    "History",
    "Integer",
    "NetworkLoss",
    "Perturbed",
    "Positive",
    "SelfTuning",
    "SelfTuningState",
    "Unbounded",
    "best_response_conv",
    "best_response_conv_init",
    "best_response_dense",
    "best_response_dense_init",
    "best_response_embedding",
    "best_response_embedding_init",
    "best_response_init",
    "best_response_lstm_cell",
    "best_response_lstm_cell_init",
    "constrain",
    "entropy",
    "linearised",
    "perturb",
    "recentre",
    "scales",
    "self_tuning",
    "unconstrain",
    "unperturbed",
]
