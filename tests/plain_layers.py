"""Layers of one example by their definitions, in NumPy and float64, and the weights of a best response.

Nothing here is shared with the library. ``weights`` is a list of (kernel, bias), bias None for none.
"""

import itertools

import numpy as np


def responding(layer, numbers):
    """Kernel and bias of a layer's best response at the hyper-parameters of one example, written out."""
    kernel, gate = np.asarray(layer.kernel, np.float64), np.asarray(layer.gate, np.float64)
    outputs = kernel.shape[-1] // 2
    scale = 1.0 if layer.elementary_scale is None else float(layer.elementary_scale)
    lam = np.asarray(numbers, np.float64)
    weights = np.empty((*kernel.shape[:-1], outputs))
    for output in range(outputs):
        along = sum(lam[j] * gate[j, output] for j in range(len(lam)))
        weights[..., output] = scale * kernel[..., output] + along * kernel[..., outputs + output]
    if layer.bias is None:
        return weights, None
    bias = np.asarray(layer.bias, np.float64)
    return weights, scale * bias[:outputs] + (lam @ gate[:, outputs:]) * bias[outputs:]


def dense(weights, x):
    """``x W + b``."""
    ((kernel, bias),) = weights
    return x @ kernel + bias


def embedding(weights, tokens):
    """Rows."""
    return weights[0][0][tokens]


def convolution(weights, x, strides, padding, *, input_dilation, kernel_dilation, groups):
    """Tap by tap over an input with zeros put in and around; channels last."""
    ((kernel, bias),) = weights
    space = kernel.ndim - 2
    for axis in range(space):
        wide = np.zeros(
            (*x.shape[:axis], (x.shape[axis] - 1) * input_dilation[axis] + 1, *x.shape[axis + 1 :])
        )
        wide[(slice(None),) * axis + (slice(None, None, input_dilation[axis]),)] = x
        x = np.pad(wide, [padding[axis] if a == axis else (0, 0) for a in range(space + 1)])
    reach = [(kernel.shape[a] - 1) * kernel_dilation[a] for a in range(space)]
    sizes = [(x.shape[a] - reach[a] - 1) // strides[a] + 1 for a in range(space)]
    inputs, outputs = kernel.shape[-2], kernel.shape[-1] // groups
    y = np.zeros((*sizes, groups * outputs)) + bias
    for place in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, kernel.shape[:space])):
            at = tuple(p * s + t * d for p, s, t, d in zip(place, strides, tap, kernel_dilation, strict=True))
            for group in range(groups):
                into = slice(group * outputs, (group + 1) * outputs)
                y[place][into] += x[at][group * inputs : (group + 1) * inputs] @ kernel[tap][:, into]
    return y


def lstm_cell(weights, x):
    """The hidden state after a step from inputs, cell and hidden state side by side."""
    (from_input, input_bias), (from_hidden, hidden_bias) = weights
    inputs, features = from_input.shape[0], from_hidden.shape[0]
    cell, hidden = x[inputs : inputs + features], x[inputs + features :]
    gates = x[:inputs] @ from_input + input_bias + hidden @ from_hidden + hidden_bias
    enter, forget, update, leave = np.split(gates, 4)
    new = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(update)
    return sigmoid(leave) * np.tanh(new)


def sigmoid(x):
    """The logistic function."""
    return 1 / (1 + np.exp(-x))
