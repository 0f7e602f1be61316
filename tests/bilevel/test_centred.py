"""Networks linearised in their response, and moves of the centre."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg.bilevel import (
    NetworkLoss,
    best_response_dense,
    best_response_dense_init,
    linearised,
    recentre,
)

key = jax.random.key(0)
NETWORK = {
    "first": best_response_dense_init(key, 3, 4, 2, gate_scale=1.0),
    "last": best_response_dense_init(jax.random.key(1), 4, 2, 2, gate_scale=1.0, use_elementary_scale=True),
    "offset": jnp.float32(0.5),
}
X, DEVIATION = np.random.default_rng(0).normal(size=(5, 3)), np.random.default_rng(1).normal(size=(5, 2))


@pytest.fixture(scope="module", autouse=True)
def network(numerics):
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), NETWORK)
    return {**tree, "last": tree["last"]._replace(elementary_scale=jnp.asarray(1.5))}


def apply(tree, deviation):
    hidden = jnp.tanh(best_response_dense(tree["first"], X, deviation))
    return best_response_dense(tree["last"], hidden, deviation) + tree["offset"]


def plain(weights, x):
    """The network of one example by its kernels and biases."""
    (w1, b1), (w2, b2), offset = weights
    return jnp.tanh(x @ w1 + b1) @ w2 + b2 + offset


def by_weights(responding, held, deviation):
    """Elementary outputs plus the Jacobian in all weights, written out, times the change of the weights."""
    names = ("first", "last")
    centre = [held[name].weights() for name in names]

    def change(name):
        layer = responding[name]
        gate = deviation @ layer.gate
        n = layer.outputs
        return gate[:, None, :n] * layer.response_kernel, gate[:, n:] * layer.response_bias

    weights = ([*centre, held["offset"]], [*map(change, names), jnp.zeros(5)])
    jacobian = jax.vmap(lambda x: jax.jacfwd(plain)(weights[0], x))(X)
    moved = jax.tree.map(
        lambda j, d: jnp.sum((j * d.reshape(5, 1, *d.shape[1:])).reshape(5, 2, -1), axis=-1),
        jacobian,
        weights[1],
    )
    return jax.vmap(plain, (None, 0))(weights[0], X) + sum(jax.tree.leaves(moved))


def test_linearised_outputs_and_their_gradient_are_those_of_the_jacobian_in_all_weights(network):
    def loss(outputs):
        return jnp.sum(jnp.sin(outputs))

    found = jax.jit(jax.value_and_grad(lambda tree: loss(linearised(apply, tree, DEVIATION))))(network)
    wanted = jax.jit(jax.value_and_grad(lambda tree: loss(by_weights(tree, network, DEVIATION))))(network)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
    for mine, theirs in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    assert np.all(found[1]["first"].elementary_kernel == 0) and found[1]["offset"] == 0
    assert np.any(found[1]["first"].response_kernel != 0)


def test_the_error_of_the_linearisation_is_of_second_order(network):
    error = jax.jit(
        lambda size: jnp.max(
            jnp.abs(apply(network, size * DEVIATION) - linearised(apply, network, size * DEVIATION))
        )
    )
    assert error(1e-3) / error(5e-4) == pytest.approx(4, rel=0.02)


def test_integer_outputs_are_passed_on(network):
    both = jax.jit(lambda tree: linearised(lambda tree, d: (apply(tree, d), jnp.arange(3)), tree, DEVIATION))
    outputs = both(network)
    np.testing.assert_array_equal(outputs[1], [0, 1, 2])


def test_the_optimal_response_of_ridge_regression_is_stationary(network):
    # With penalty exp(u) |b|^2 and perturbations of deviation s the best Theta is
    # -kappa q (G + kappa (1 + s^2) q)^-1 b, q = exp(s^2 / 2). Gauss-Hermite nodes stand for examples.
    del network
    generator, sigma, log_kappa = np.random.default_rng(2), 0.7, 0.4
    x, t = generator.normal(size=(9, 4)), generator.normal(size=9)
    kappa, q = np.exp(log_kappa), np.exp(sigma**2 / 2)
    best = np.linalg.solve(x.T @ x + kappa * np.eye(4), x.T @ t)
    theta = -kappa * q * np.linalg.solve(x.T @ x + kappa * (1 + sigma**2) * q * np.eye(4), best)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    layer = best_response_dense_init(key, 4, 1, 1, dtype=jnp.float64, use_bias=False)
    layer = layer._replace(kernel=jnp.stack([best, theta], axis=1), gate=jnp.ones((1, 1)))

    def coefficients(layer, deviation):
        return best_response_dense(layer, jnp.broadcast_to(jnp.eye(4), (60, 4, 4)), deviation)[..., 0]

    def objective(layer):
        b = linearised(coefficients, layer, sigma * nodes[:, None])
        ridge = jnp.sum((b @ x.T - t) ** 2, axis=1) + jnp.exp(log_kappa + sigma * nodes) * jnp.sum(
            b**2, axis=1
        )
        return jnp.sum(weights * ridge) / np.sqrt(2 * np.pi)

    gradient = jax.jit(jax.grad(objective))(layer)
    np.testing.assert_allclose(gradient.response_kernel, 0, atol=1e-11)
    assert np.all(gradient.elementary_kernel == 0)
    off = jax.jit(jax.grad(objective))(layer._replace(kernel=layer.kernel * jnp.array([1, 1.01])))
    assert np.max(np.abs(off.response_kernel)) > 1e-3


def test_recentring_leaves_the_function_unchanged(network):
    shift = jnp.array([0.3, -1.2])
    run = jax.jit(apply)
    moved = jax.jit(recentre)(network, shift)
    np.testing.assert_allclose(run(moved, DEVIATION), run(network, DEVIATION + shift), rtol=1e-12)
    assert moved["offset"] == network["offset"]
    without = network["first"]._replace(bias=None, gate=network["first"].gate[:, :4])
    assert recentre(without, shift).bias is None
    with pytest.raises(ValueError, match="shift"):
        recentre(network, jnp.zeros(3))
    with pytest.raises(TypeError, match="shift"):
        recentre(network, jnp.zeros(2, int))


def test_a_network_loss_is_the_loss_of_the_outputs():
    def scale(params, hyperparameters, values, batch, key):
        del key
        return params * hyperparameters * values * batch

    loss = NetworkLoss(scale, lambda outputs, values, batch: outputs + values + batch)
    assert loss(2.0, 3.0, 5.0, 7.0, key) == 2 * 3 * 5 * 7 + 5 + 7
