"""Layers that respond to hyper-parameters, their centred form, and the maps of constrained ones."""

import decimal
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import stats

from jaxreg import bilevel
from jaxreg.bilevel.maps import inverse_softplus
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit

PAPER = "MacKay et al. (2019)"


def _layer(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> bilevel.BestResponse:
    """A layer with all of its parts at random, of no special size."""
    outputs = shape[-1]
    parts = [shape, shape, (count, outputs), (outputs,), (outputs,), (count, outputs)]
    return bilevel.BestResponse.from_parts(*(jnp.asarray(0.5 * rng.normal(size=part)) for part in parts))


def _materialised(layer: bilevel.BestResponse, numbers: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias at one set of hyper-parameters by the definition, ``W + diag(V l) W'`` and its like."""
    gate = np.asarray(numbers, np.float64) @ np.asarray(layer.gate, np.float64)
    kernel, bias = np.asarray(layer.kernel, np.float64), np.asarray(layer.bias, np.float64)
    n = layer.outputs
    return kernel[..., :n] + kernel[..., n:] * gate[:n], bias[:n] + bias[n:] * gate[n:]


def _convolution(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A valid convolution of one image ``[H, W, C]``, window by window."""
    size = kernel.shape[0]
    steps = [range(0, length - size + 1, stride) for length in image.shape[:2]]
    windows = [[image[i : i + size, j : j + size] for j in steps[1]] for i in steps[0]]
    return np.tensordot(np.array(windows), kernel, axes=3)


def layers_are_those_of_materialised_weights(seed: int, examples: int = 6, count: int = 3) -> Check:
    """Dense, convolutional, embedding and recurrent layers, each example with weights of its own."""
    rng = np.random.default_rng(seed)
    numbers, x = rng.normal(size=(examples, count)), rng.normal(size=(examples, 5))
    images, tokens = rng.normal(size=(examples, 7, 6, 2)), rng.integers(9, size=examples)
    state = rng.normal(size=(2, examples, 4))
    dense, conv = _layer(rng, (5, 4), count), _layer(rng, (3, 3, 2, 4), count)
    table = _layer(rng, (9, 4), count)._replace(bias=None)
    table = table._replace(gate=table.gate[:, :4])
    cell = bilevel.BestResponseLSTM(_layer(rng, (5, 16), count), _layer(rng, (4, 16), count))

    def layers(numbers, x, images, state):
        return [
            bilevel.best_response_dense(dense, x, numbers),
            bilevel.best_response_conv(conv, images, numbers, strides=2, padding="VALID"),
            bilevel.best_response_embedding(table, tokens, numbers),
            bilevel.best_response_lstm_cell(cell, (state[0], state[1]), x, numbers)[0],
        ]

    found = quick_jit(layers)(*(jnp.asarray(part) for part in (numbers, x, images, state)))
    wanted = [[], [], [], [], []]
    for i, number in enumerate(numbers):
        kernel, bias = _materialised(dense, number)
        wanted[0].append(x[i] @ kernel + bias)
        kernel, bias = _materialised(conv, number)
        wanted[1].append(_convolution(images[i], kernel, 2) + bias)
        whole = np.asarray(table.kernel)
        gated = whole[:, :4] + whole[:, 4:] * (number @ np.asarray(table.gate))
        wanted[2].append(gated[tokens[i]])
        c, h = _lstm(cell, state[0, i], state[1, i], x[i], number)
        wanted[3].append(c)
        wanted[4].append(h)
    flat = [np.ravel(leaf) for leaf in jax.tree.leaves(found)]
    return Check(
        "layers-are-those-of-materialised-weights",
        PAPER,
        "W + diag(V l) W', b + C l * b' for each example: dense, convolution, embedding, LSTM cell",
        np.concatenate(flat),
        "==",
        np.concatenate([np.ravel(part) for part in wanted]),
        scale=10.0,
        tolerance_float32=1e-5,
    )


def _lstm(
    cell: bilevel.BestResponseLSTM, c: np.ndarray, h: np.ndarray, x: np.ndarray, number: np.ndarray
) -> tuple:
    """One step of an LSTM by its formula, with the weights at one set of hyper-parameters."""
    (kernel, bias), (hidden, hidden_bias) = (_materialised(part, number) for part in cell)
    enter, forget, update, leave = np.split(x @ kernel + bias + h @ hidden + hidden_bias, 4)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    new = sigmoid(forget) * c + sigmoid(enter) * np.tanh(update)
    return new, sigmoid(leave) * np.tanh(new)


def one_layer_is_affine(seed: int) -> Check:
    """In the hyper-parameters one layer is affine and two with a non-linearity between are not."""
    rng = np.random.default_rng(seed)
    first, second = _layer(rng, (5, 8), 3), _layer(rng, (8, 4), 3)
    x = jnp.asarray(rng.normal(size=5))
    a, b = (jnp.asarray(rng.normal(size=3)) for _ in range(2))

    @quick_jit
    def gaps(a, b):
        def bend(function):
            return function((a + b) / 2) - (function(a) + function(b)) / 2

        def deep(number):
            hidden = jnp.tanh(bilevel.best_response_dense(first, x, number))
            return bilevel.best_response_dense(second, hidden, number)

        return bend(functools.partial(bilevel.best_response_dense, first, x)), jnp.abs(
            bend(deep)
        ).max() > 1e-3

    layer, network = gaps(a, b)
    return Check(
        "one-layer-is-affine",
        PAPER,
        "a layer is affine in lambda; a network of two is not",
        jnp.append(layer, network.astype(layer.dtype)),
        "==",
        jnp.append(jnp.zeros_like(layer), 1),
        scale=10.0,
        tolerance_float32=1e-6,
    )


def number_of_parameters() -> Check:
    """Twice the plain layer's, and two gates for each output and hyper-parameter."""
    sizes = [(7, 5, 3), (784, 512, 1), (10, 1, 4)]
    found = [
        sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
            lambda key, size=size: bilevel.best_response_dense_init(key, *size), jax.random.key(0))))
        for size in sizes
    ]  # fmt: skip
    return Check(
        "number-of-parameters",
        PAPER,
        "2 D_out D_in + 2 D_out + 2 D_out h",
        np.array(found, np.float64),
        "==",
        np.array([2 * m * n + 2 * m + 2 * m * h for n, m, h in sizes], np.float64),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def recentring_leaves_the_function(seed: int) -> Check:
    """The centred form is another parametrisation of the same functions, wherever the centre is moved."""
    rng = np.random.default_rng(seed)
    layers = [_layer(rng, (5, 8), 3), _layer(rng, (8, 4), 3)]
    x, numbers = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 5), (6, 3)))
    centres = jnp.asarray(2 * rng.normal(size=(2, 3)))

    def network(layers, numbers):
        hidden = jnp.tanh(bilevel.best_response_dense(layers[0], x, numbers))
        return bilevel.best_response_dense(layers[1], hidden, numbers)

    @quick_jit
    def outputs(numbers, centres):
        first = bilevel.recentre(layers, centres[0])
        second = bilevel.recentre(first, centres[1] - centres[0])
        stale = network(first, numbers - centres[1])
        moved = [network(first, numbers - centres[0]), network(second, numbers - centres[1])]
        return (
            jnp.stack(moved),
            network(layers, numbers),
            jnp.abs(stale - network(layers, numbers)).max() > 0.1,
        )

    moved, plain, differs = outputs(numbers, centres)
    return Check(
        "recentring-leaves-the-function",
        "Bae, Grosse (2020), derived",
        "w_0 + Theta (l_1 - l_0) with deviations from l_1: same function; without, another one",
        jnp.append(moved.ravel(), differs.astype(moved.dtype)),
        "==",
        jnp.append(jnp.broadcast_to(plain, moved.shape).ravel(), 1),
        scale=10.0,
        tolerance_float32=1e-5,
    )


def maps_and_inverses() -> Check:
    """Values by the formulas, and there and back over the whole range."""
    u = np.linspace(-12, 12, 97)
    sigmoid, softplus = 1 / (1 + np.exp(-u)), np.log1p(np.exp(u))
    nodes = [bilevel.Bounded(0.5, -1.0, 3.0), bilevel.Bounded(2.0, low=1.0), bilevel.Bounded(-2.0, high=4.0),
             bilevel.Positive(1.0), bilevel.Unbounded(0.0)]  # fmt: skip
    formulas = [-1 + 4 * sigmoid, 1 + softplus, 4 - softplus, softplus, u]
    forward = quick_jit(lambda u: jnp.stack([node.constrain(u) for node in nodes]))(jnp.asarray(u))
    # Back from values that the dtype can tell apart.
    inner = jnp.asarray(u[np.abs(u) < 4])
    back = quick_jit(lambda u: jnp.stack([node.unconstrain(node.constrain(u)) for node in nodes]))(inner)
    return Check(
        "maps-and-inverses",
        f"{PAPER}, derived",
        "(a, b): a + (b - a) s(u); (a, inf): a + softplus(u); (-inf, b): b - softplus(u); inverses",
        jnp.concatenate([forward.ravel(), back.ravel()]),
        "==",
        np.concatenate([np.ravel(formulas), np.broadcast_to(inner, back.shape).ravel()]),
        scale=4.0,
        tolerance_float32=1e-5,
    )


def inverse_softplus_at_every_size() -> Check:
    """In float32 the inverse is right from 1e-30 to 1e30, where ``log(exp(x) - 1)`` is from 1e-4 to 88."""
    x = np.logspace(-30, 30, 241).astype(np.float32)
    with decimal.localcontext() as context:
        context.prec = 60

        def exact(value: np.float32) -> float:
            # Beyond 200 the two agree to 80 digits.
            number = decimal.Decimal(float(value))
            return float((number.exp() - 1).ln()) if value < 200 else float(value)

        wanted = np.array([exact(value) for value in x])
    return Check(
        "inverse-softplus-at-every-size",
        "derived",
        "float32 inverse x + log(-expm1(-x)) for x = 1e-30 ... 1e30 against 60-digit arithmetic",
        np.asarray(jax.jit(inverse_softplus)(jnp.asarray(x)), np.float64),
        "==",
        wanted,
        scale=np.maximum(np.abs(wanted), 1.0),
        tolerance=5e-7,
        tolerance_float32=5e-7,
    )


def integers_reach_both_ends(low: int = -2, high: int = 5) -> Check:
    """The floor of a range one longer than the integers meets all of them, the last included."""
    node = bilevel.Integer(0, low, high)
    wanted = np.arange(low, high + 1)
    reached = np.unique(node.constrain(jnp.linspace(-20, 20, 2001)))
    back = node.constrain(node.unconstrain(jnp.asarray(wanted)))
    return Check(
        "integers-reach-both-ends",
        "derived",
        "floor of (low, high + 1): every integer low..high is reached, and is its inverse's image",
        np.concatenate([np.pad(reached, (0, max(0, wanted.size - reached.size))), back]).astype(float),
        "==",
        np.concatenate([wanted, wanted]).astype(float),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def entropy_is_that_of_a_gaussian(seed: int) -> Check:
    """The entropy of the perturbed hyper-parameters is that of independent normal ones, without a map."""
    scales = 10 ** np.random.default_rng(seed).uniform(-3, 1, 4)
    tree = {
        "a": bilevel.Bounded(np.full(2, 0.5), 0.0, 1.0, scale=scales[:2]),
        "b": bilevel.Positive(0.3, scale=scales[2]),
        "c": bilevel.Unbounded(0.0, scale=scales[3], shared=True),
    }
    return Check(
        "entropy-is-that-of-a-gaussian",
        PAPER,
        "H = sum_j log(sigma_j sqrt(2 pi e)), of the unconstrained numbers",
        bilevel.entropy(tree),
        "==",
        sum(float(stats.norm(0, scale).entropy()) for scale in scales),
        scale=10.0,
        tolerance_float32=1e-6,
    )


def statements(seed: int) -> Iterator[Check]:
    """Layers and parametrisations."""
    yield layers_are_those_of_materialised_weights(seed)
    yield one_layer_is_affine(seed)
    yield number_of_parameters()
    yield recentring_leaves_the_function(seed)
    yield maps_and_inverses()
    yield inverse_softplus_at_every_size()
    yield integers_reach_both_ends()
    yield entropy_is_that_of_a_gaussian(seed)
