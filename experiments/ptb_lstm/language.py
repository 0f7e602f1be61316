"""A recurrent language model whose weights respond to hyper-parameters.

The decoder is the embedding's elementary part, transposed; everything else responds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg import bilevel

Params = dict[str, Any]
Carry = list[tuple[jax.Array, jax.Array]]

MAX_DROPOUT = 0.95
# Names of hyper-parameters, and whether one value serves the whole batch.
SHARED = {
    "input": False, "hidden": False, "output": False, "embedding": True, "drop_connect": True,
    "activation": True, "temporal": True,
}  # fmt: skip
PENALTIES = ("activation", "temporal")


class Sizes(NamedTuple):
    """Sizes of the model."""

    words: int
    units: int  # of the embedding and of every layer
    layers: int


def tree(values: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Values as hyper-parameters that can be tuned."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name in PENALTIES:
            made[name] = bilevel.Positive(value, scale=scale, shared=True)
        else:
            made[name] = bilevel.Bounded(value, 0.0, MAX_DROPOUT, scale=scale, shared=SHARED[name])
    return made


def init(key: jax.Array, sizes: Sizes, hyper_count: int) -> Params:
    """Parameters of a model that responds to ``hyper_count`` numbers, at least 1."""
    keys = jax.random.split(key, sizes.layers + 1)
    embedding = bilevel.best_response_embedding_init(keys[0], sizes.words, sizes.units, hyper_count)
    cells = [
        bilevel.best_response_lstm_cell_init(own, sizes.units, sizes.units, hyper_count) for own in keys[1:]
    ]
    return {"embedding": embedding, "cells": cells, "bias": jnp.zeros(sizes.words)}


def nothing(sizes: Sizes, rows: int) -> Carry:
    """The state before the first word."""
    zeros = jnp.zeros((rows, sizes.units))
    return [(zeros, zeros)] * sizes.layers


class Said(NamedTuple):
    """What a model says about the words of some streams."""

    scores: jax.Array  # [B, T, words]
    raw: jax.Array  # hidden states of the last layer [B, T, units]
    dropped: jax.Array  # the same after dropout
    carry: Carry


def read(
    params: Params,
    words: jax.Array,
    carry: Carry,
    *,
    response: jax.Array | None,
    regularize: tuple[jax.Array, Mapping[str, jax.Array]] | None,
) -> Said:
    """Scores of the next word after each word.

    Args:
      params: from :func:`init`.
      words: int32 ``[B, T]``.
      carry: state before them.
      response: ``[h]`` or ``[B, h]``; ``None`` for the elementary parts alone.
      regularize: a random key and the values of hyper-parameters, in training; those left out do nothing.

    Returns:
      Scores, hidden states and the state after the last word.
    """
    key, values = regularize if regularize is not None else (jax.random.key(0), {})
    keys = jax.random.split(key, 3 + 2 * len(params["cells"]))
    embedding = params["embedding"]
    table = embedding
    if "embedding" in values:
        dropped = bilevel.embedding_dropout(keys[0], embedding.kernel, values["embedding"])
        table = embedding._replace(kernel=dropped)
    hidden = bilevel.best_response_embedding(table, words, response)
    if "input" in values:
        hidden = bilevel.variational_dropout(keys[1], hidden, values["input"])
    after, raw = [], hidden
    for index, cell in enumerate(params["cells"]):
        if "drop_connect" in values:
            cell = _disconnected(keys[3 + 2 * index], cell, values["drop_connect"])
        if index > 0 and "hidden" in values:
            hidden = bilevel.variational_dropout(keys[4 + 2 * index], hidden, values["hidden"])
        state, raw = _layer(cell, carry[index], hidden, response)
        after.append(state)
        hidden = raw
    if "output" in values:
        hidden = bilevel.variational_dropout(keys[2], hidden, values["output"])
    scores = hidden @ embedding.elementary_kernel.T + params["bias"]
    return Said(scores, raw, hidden, after)


def _disconnected(key: jax.Array, cell: Any, rate: jax.Array) -> Any:
    """The same weights between hidden states dropped in the elementary part and in the response."""
    halves = jnp.split(cell.hidden.kernel, 2, axis=-1)
    kernel = jnp.concatenate(bilevel.drop_connect(key, halves, rate), axis=-1)
    return cell._replace(hidden=cell.hidden._replace(kernel=kernel))


def _layer(cell: Any, state: Any, inputs: jax.Array, response: jax.Array | None) -> tuple[Any, jax.Array]:
    """One layer over time, ``[B, T, units]``."""

    def step(state: Any, part: jax.Array) -> tuple[Any, jax.Array]:
        return bilevel.best_response_lstm_cell(cell, state, part, response)

    state, outputs = jax.lax.scan(step, state, jnp.swapaxes(inputs, 0, 1))
    return state, jnp.swapaxes(outputs, 0, 1)


def cross_entropy(scores: jax.Array, words: jax.Array) -> jax.Array:
    """Mean in nats over all words."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, words))


def penalty(said: Said, values: Mapping[str, jax.Array]) -> jax.Array:
    """Activation and temporal activation regularisation of the last layer."""
    total = jnp.zeros(())
    if "activation" in values:
        total += bilevel.activation_regularization(said.dropped, values["activation"])
    if "temporal" in values:
        total += bilevel.temporal_activation_regularization(said.raw, values["temporal"])
    return total
