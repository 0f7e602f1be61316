"""The classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models


def test_the_perceptron_is_two_layers_with_rectified_units():
    model = models.make("mlp", (4,), 8, 3)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    features = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
    hidden = np.maximum(features @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
    expected = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model.apply(params, jnp.asarray(features)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [(3, 3, 2, 4), (1, 1, 2, 3), (2, 4, 2, 3)])
def test_the_convolution_as_a_matrix_product_is_the_convolution(kernel):
    images = jax.random.normal(jax.random.key(0), (2, 8, 7, 2))
    weights = jax.random.normal(jax.random.key(1), kernel)
    around = [((size - 1) // 2, size // 2) for size in kernel[:2]]
    if all(size % 2 for size in kernel[:2]):
        order = ("NHWC", "HWIO", "NHWC")
        expected = jax.lax.conv_general_dilated(images, weights, (1, 1), around, dimension_numbers=order)
        np.testing.assert_allclose(
            models._product(images, weights, 1, "SAME"), expected, rtol=1e-4, atol=1e-4
        )
    else:
        assert models._product(images, weights, 1, "SAME").shape == (2, 8, 7, kernel[-1])


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_stacked_models_are_the_models_side_by_side(kind):
    model = models.make(kind, (8, 8, 1), 16, 10)
    keys, images = jax.random.split(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (5, 8, 8, 1))

    @jax.jit
    def scores(key, images):
        return model.apply(model.init(key), images)

    together = jax.jit(jax.vmap(scores, in_axes=(0, None)))(keys, images)
    for key, expected in zip(keys, together, strict=True):
        np.testing.assert_allclose(scores(key, images), expected, rtol=1e-4, atol=1e-5)


def test_a_convolutional_network_refuses_rows_that_are_no_images():
    with pytest.raises(ValueError, match="images"):
        models.make("cnn", (13,), 16, 3)
