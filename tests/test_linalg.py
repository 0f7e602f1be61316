"""Products, diagonals and norms on trees, against dense matrices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxreg import linalg
from jaxreg.theory.oracles import quick_jit

GENERATOR = np.random.default_rng(12)
PARAMS = {"a": GENERATOR.normal(size=(3, 2)), "b": (GENERATOR.normal(size=4), np.float64(0.5))}
SIZE = 11


def function(params, scale):
    flat = ravel_pytree(params)[0]
    return scale * jnp.sum(jnp.sin(flat) * jnp.cumsum(flat) ** 2)


def dense(scale=2.0):
    flat, unravel = ravel_pytree(PARAMS)
    return np.asarray(quick_jit(jax.hessian(lambda flat: function(unravel(flat), scale)))(flat))


def test_products_and_diagonals_are_those_of_the_dense_hessian():
    vector = ravel_pytree(PARAMS)[1](GENERATOR.normal(size=SIZE))

    @quick_jit
    def both(params, vector):
        return (
            linalg.hessian_vector_product(function, params, vector, 2.0),
            linalg.hessian_diagonal(function, params, 2.0, batch_size=3),
        )

    product, diagonal = both(PARAMS, vector)
    assert jax.tree.structure(product) == jax.tree.structure(diagonal) == jax.tree.structure(PARAMS)
    np.testing.assert_allclose(ravel_pytree(product)[0], dense() @ ravel_pytree(vector)[0], rtol=1e-12)
    np.testing.assert_allclose(ravel_pytree(diagonal)[0], np.diag(dense()), rtol=1e-12)


def symmetric(values):
    basis = np.linalg.qr(GENERATOR.normal(size=(len(values),) * 2))[0]
    return basis * values @ basis.T


def test_lanczos_finds_the_spectral_norm_of_indefinite_singular_and_zero_matrices():
    size = 30
    spectra = [
        np.linspace(-3, 2, size),
        np.concatenate([[5.0, -5.0], np.zeros(size - 2)]),
        np.concatenate([[1e-8], np.zeros(size - 1)]),
        np.zeros(size),
        np.full(size, 2.0),
    ]
    matrices = np.stack([symmetric(values) for values in spectra])
    like = {"a": jnp.zeros((5, 5)), "b": jnp.zeros(5)}
    unravel = ravel_pytree(like)[1]

    def norm(matrix, steps):
        def product(tree):
            return unravel(matrix @ ravel_pytree(tree)[0])

        return linalg.spectral_norm(product, like, steps=steps)

    expected = np.max(np.abs(spectra), axis=1)
    found = quick_jit(jax.vmap(lambda matrix: norm(matrix, 100)))(matrices)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    early = quick_jit(jax.vmap(lambda matrix: norm(matrix, 12)))(matrices)
    assert np.all(early <= expected * (1 + 1e-12))
    np.testing.assert_allclose(early, expected, rtol=1e-2)
    slope = quick_jit(jax.grad(lambda matrix: norm(matrix, 100)))(matrices[0])
    values, vectors = np.linalg.eigh(matrices[0])
    leading = vectors[:, np.argmax(np.abs(values))]
    np.testing.assert_allclose(slope, -np.outer(leading, leading), atol=1e-10)


def test_many_spectral_norms_decompose_one_matrix_after_the_other():
    matrices = np.random.default_rng(0).normal(size=(2, 3, 7, 7))
    matrices += matrices.swapaxes(-1, -2)
    norms = jax.vmap(jax.vmap(lambda a: linalg.spectral_norm(lambda v: a @ v, a[0])))
    program = quick_jit(norms).lower(matrices)
    np.testing.assert_allclose(
        program.compile()(matrices), np.abs(np.linalg.eigvalsh(matrices)).max(-1), rtol=1e-9
    )
    # A batch of decompositions can wait for ever on a CPU.
    batches = re.findall(r'syevd_ffi.*num_batch_dims = "(\d)"', program.as_text())
    assert batches == ["0"]


def test_one_probe_is_unbiased_for_the_squared_frobenius_norm_and_for_the_diagonal():
    matrix = symmetric(np.linspace(-1, 2, 8))

    def sample(key):
        def product(vector):
            return matrix @ vector

        like = jnp.zeros(8)
        return jnp.append(
            linalg.hutchinson_diagonal(product, like, key=key, probes=2),
            linalg.squared_frobenius_norm(product, like, key=key),
        )

    samples = np.asarray(quick_jit(jax.vmap(sample))(jax.random.split(jax.random.key(1), 20_000)))
    exact = np.append(np.diag(matrix), np.sum(matrix**2))
    errors = samples - exact
    assert np.all(np.abs(errors.mean(0)) < 5 * errors.std(0) / np.sqrt(len(errors)))
    off = np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)
    assert abs(np.mean(np.sum(errors[:, :-1] ** 2, 1)) / (off / 2) - 1) < 0.05


def test_norms_accumulate_in_single_precision_and_have_gradient_zero_at_zero():
    half = [jnp.full(4096, 0.1, jnp.bfloat16), jnp.ones(1, jnp.float16)]
    found = linalg.norm(half)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.sqrt(4096 * float(half[0][0]) ** 2 + 1), rtol=1e-6)
    assert linalg.inner_product([jnp.ones(2, jnp.float32)], [jnp.ones(2, jnp.float64)]).dtype == jnp.float64
    assert linalg.norm({}) == 0
    assert not np.any(jax.grad(linalg.norm)(jnp.zeros(3)))


def test_mistakes_are_refused_by_name():
    with pytest.raises(ValueError, match="right"):
        linalg.inner_product({"a": jnp.ones(2)}, {"b": jnp.ones(2)})
    with pytest.raises(ValueError, match="vector"):
        linalg.hessian_vector_product(function, jnp.ones(2), jnp.ones(3), 1.0)
    with pytest.raises(ValueError, match="batch_size"):
        linalg.hessian_diagonal(function, jnp.ones(2), 1.0, batch_size=0)
    with pytest.raises(ValueError, match="probes"):
        linalg.hutchinson_diagonal(lambda v: v, jnp.ones(2), key=jax.random.key(0), probes=0)
    with pytest.raises(ValueError, match="steps"):
        linalg.spectral_norm(lambda v: v, jnp.ones(2), steps=0)
    with pytest.raises(ValueError, match="like"):
        linalg.spectral_norm(lambda v: v, jnp.ones(0))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_norms_whose_squares_single_precision_cannot_hold_are_accurate(scale):
    vector = (scale * np.array([3.0, -4.0, 12.0])).astype(np.float32)
    value, slope = jax.value_and_grad(linalg.norm)(jnp.asarray(vector))
    np.testing.assert_allclose(value, 13 * scale, rtol=1e-6)
    np.testing.assert_allclose(slope, np.array([3, -4, 12]) / 13, rtol=1e-6)
    matrix = (scale * symmetric(np.linspace(-2, 1, 6))).astype(np.float32)
    found = linalg.spectral_norm(lambda v: jnp.asarray(matrix) @ v, jnp.zeros(6, jnp.float32))
    np.testing.assert_allclose(found, 2 * scale, rtol=1e-5)
    assert jnp.isinf(linalg.norm(jnp.array([jnp.inf, 1.0])))
