"""The language model of ptb_lstm: without response, or where responses are centred, it is the plain model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.ptb_lstm import language, tasks
from jaxreg import bilevel

SIZES = language.Sizes(words=7, units=4, layers=2)
ROWS, TIMES, RATE = 3, 5, 0.5


def plain_loss(weights, words, name, value, key):
    """Cross-entropy of an LSTM written out, and one regulariser; masks from the keys that the model uses."""
    keys = jax.random.split(key, 3 + 2 * SIZES.layers)
    table, cells, bias = weights
    rows = bilevel.embedding_dropout(keys[0], table, value) if name == "embedding" else table
    inputs = [rows[words[:, time]] for time in range(TIMES)]
    for index, (into, within, from_input, from_hidden) in enumerate(cells):
        if name == "drop_connect":
            within = bilevel.drop_connect(keys[3 + 2 * index], within, value)
        cell = hidden = jnp.zeros((ROWS, SIZES.units))
        outputs = []
        for x in inputs:
            enter, forget, update, leave = jnp.split(
                x @ into + from_input + hidden @ within + from_hidden, 4, axis=1
            )
            cell = cell / (1 + jnp.exp(-forget)) + jnp.tanh(update) / (1 + jnp.exp(-enter))
            hidden = jnp.tanh(cell) / (1 + jnp.exp(-leave))
            outputs.append(hidden)
        inputs = outputs
    states = jnp.stack(inputs, axis=1)
    scores = states @ table.T + bias
    picked = jnp.take_along_axis(jax.nn.log_softmax(scores), words[:, 1:, None], axis=2)
    loss = -jnp.mean(picked)
    if name == "activation":
        loss += value * jnp.mean(states**2)
    if name == "temporal":
        loss += value * jnp.mean((states[:, 1:] - states[:, :-1]) ** 2)
    return loss


def elementary(params):
    """The model's elementary parts, as the plain loss takes them."""
    cells = [
        (c.input.elementary_kernel, c.hidden.elementary_kernel, c.input.elementary_bias,
         c.hidden.elementary_bias)
        for c in params["cells"]
    ]  # fmt: skip
    return params["embedding"].elementary_kernel, cells, params["bias"]


def without_response(params):
    """The same with gates and responses of 0, a saddle that no gradient leaves."""

    def node(layer):
        if not isinstance(layer, bilevel.BestResponse):
            return layer
        first = jnp.arange(layer.kernel.shape[-1]) < layer.outputs
        bias = None if layer.bias is None else layer.bias * first
        return layer._replace(kernel=layer.kernel * first, gate=0 * layer.gate, bias=bias)

    return jax.tree.map(node, params, is_leaf=lambda leaf: isinstance(leaf, bilevel.BestResponse))


@pytest.mark.parametrize(
    ("name", "value"), [("embedding", 0.4), ("drop_connect", 0.4), ("activation", 2.0), ("temporal", 3.0)]
)
def test_without_response_and_perturbation_it_trains_as_a_plain_model_with_the_regulariser(name, value):
    tuner = bilevel.self_tuning(
        tasks.training_loss, tasks.validation_loss, inner=optax.sgd(RATE), outer=optax.set_to_zero(),
        scale=None, has_aux=True, batch_size=ROWS,
    )  # fmt: skip
    params = without_response(language.init(jax.random.key(0), SIZES, 1))
    weights, state = elementary(params), tuner.init(params, language.tree({name: value}, 1e-30))
    gradient = jax.jit(jax.value_and_grad(plain_loss), static_argnums=2)
    for step in range(3):
        key = jax.random.key(step)
        words = jax.random.randint(key, (ROWS, TIMES + 1), 0, SIZES.words)
        batch = {"words": words, "carry": language.nothing(SIZES, ROWS)}
        state, (loss, _) = tuner.train_step(state, batch, key)
        wanted, slope = gradient(weights, words, name, value, jax.random.split(key)[1])
        weights = jax.tree.map(lambda w, g: w - RATE * g, weights, slope)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    jax.tree.map(
        lambda found, plain: np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6),
        elementary(state.params), weights,
    )  # fmt: skip


def test_centred_responses_are_nothing_where_tuning_starts():
    problem = tasks.Problem(SIZES, ROWS, TIMES, 0.01, 1.0, visits=1, steps_per_visit=tasks.CYCLE)
    words = np.random.default_rng(0).integers(0, SIZES.words, (3, ROWS, 2 * TIMES + 1), dtype=np.int32)
    shared = tasks.Streams(*map(jnp.asarray, words))
    run = {"seed": jnp.int32(0), "values": {"output": jnp.full(1, 0.05), "activation": jnp.full(1, 0.01)}}
    found = {}
    for centred in (True, False):
        task = tasks.tuned_task(problem, tasks.Options(0.5, 0.02, 0.001, 0, centred))
        state = task.init(run)
        plain = tasks.evaluate(problem, state["tuner"].params, None, shared)["validation_loss"]
        found[centred] = task.evaluate(state, run, shared)["validation_loss"] - plain
    assert found[True] == 0
    assert abs(found[False]) > 1e-6
