"""The penalties and their two references; one logit against two classes."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment import distances, hutchinson
from jaxreg.theory.hessian_alignment.problems import (
    Derivatives,
    Domains,
    called,
    derivatives,
    draw,
    flat,
    plain_loss,
    size_of,
)
from jaxreg.theory.oracles import quick_jit

HGP = penalties.hessian_gradient_alignment
VARIANTS = tuple(itertools.product(("pooled", "mean"), (True, False)))


def value_and_gradient(
    penalty: Any, domains: Domains, **options: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A penalty, and its gradients in the flattened head ``[n]`` and in the features; traceable."""

    def function(head: Any, features: jax.Array) -> jax.Array:
        return penalty(head, features, domains.targets, weights=domains.weights, **options)

    value, (head, features) = jax.value_and_grad(function, (0, 1))(domains.head, domains.features)
    return value, flat(head), features


def references_differ_by_a_covariance(dense: Derivatives) -> Check:
    """HA-7: the mean of the products less the product of the means."""
    g, h = np.asarray(dense.gradient), np.asarray(dense.hessian)
    products = np.einsum("ceij,cej->cei", h, g).mean(1)
    pooled = np.einsum("cij,cj->ci", h.mean(1), g.mean(1))
    deviations = h - h.mean(1, keepdims=True), g - g.mean(1, keepdims=True)
    return Check(
        "references-differ-by-a-covariance",
        "derived",
        "HA-7: mean_e H_e g_e - H g (means) = mean_e (H_e - H)(g_e - g)",
        products - pooled,
        "==",
        np.einsum("ceij,cej->cei", *deviations).mean(1),
        scale=size_of(products),
        tolerance_float32=1e-5,
    )


def objective_by_definition(matrix: jax.Array, domains: Domains, reference: str, detach: bool) -> jax.Array:
    """HGP with weights 1, back-propagated twice, without the norm, so that g = 0 is no trouble."""

    def product(loss: Any, at: jax.Array) -> jax.Array:
        return jax.jvp(jax.grad(loss), (at,), (jax.grad(loss)(at),))[1]

    def risk(at: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(lambda *data: plain_loss(at, *data))(*domains[2:]))

    data = domains[2:]
    each = jax.vmap(lambda *one: product(lambda at: plain_loss(at, *one), matrix))(*data)
    gradients = jax.vmap(lambda *one: jax.grad(plain_loss)(matrix, *one))(*data)
    target = product(risk, matrix) if reference == "pooled" else each.mean(0)
    mean = gradients.mean(0)
    if detach:
        target, mean = jax.lax.stop_gradient((target, mean))
    return jnp.mean(jnp.sum((each - target) ** 2 + (gradients - mean) ** 2, axis=-1))


def hgp_is_its_definition(domains: Domains) -> Iterator[Check]:
    """HA-8: all four variants, in value and in both gradients; pooled and detached is the released code's."""

    def ours(domains: Domains) -> list:
        return [value_and_gradient(HGP, domains, reference=r, detach_reference=d) for r, d in VARIANTS]

    def theirs(domains: Domains) -> list:
        def pair(r: str, d: bool) -> tuple:
            def function(matrix: jax.Array, features: jax.Array) -> jax.Array:
                return objective_by_definition(matrix, domains._replace(features=features), r, d)

            value, gradients = jax.value_and_grad(function, (0, 1))(domains.matrix.ravel(), domains.features)
            return value, *gradients

        return [pair(r, d) for r, d in VARIANTS]

    found, defined = (quick_jit(jax.vmap(function))(domains) for function in (ours, theirs))
    cases = len(domains.kernel)
    for (reference, detach), mine, other in zip(VARIANTS, found, defined, strict=True):
        sides = [
            np.concatenate([np.reshape(leaf, (cases, -1)) for leaf in side], 1) for side in (mine, other)
        ]
        yield Check(
            f"hgp-{reference}{'-detached' if detach else ''}-is-its-definition",
            "Hemati et al. (2023), released code" if reference == "pooled" and detach else "derived",
            f"HA-8: value and gradients of HGP, reference {reference}{', detached' if detach else ''}",
            sides[0],
            "==",
            sides[1],
            scale=size_of(sides[1]),
            tolerance_float32=1e-4,
        )
    gradients = [np.concatenate([np.reshape(leaf, (cases, -1)) for leaf in one[1:]], 1) for one in found]
    size = size_of(gradients[2])
    yield Check(
        "mean-reference-needs-no-detaching",
        "derived",
        "HA-8: with the exact mean as reference the gradient is the same, detached or not",
        gradients[2],
        "==",
        gradients[3],
        scale=size,
        tolerance_float32=1e-5,
    )
    change = np.abs(gradients[0] - gradients[1]).max(-1) / np.abs(gradients[1]).max(-1)
    yield Check(
        "pooled-reference-differs-if-detached",
        "derived",
        "HA-8: NEGATIVE: with the pooled reference detaching changes the gradient, here by at least 1e-3",
        change.max(),
        ">=",
        1e-3,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def pooled_reference_is_that_of_the_pooled_batch(seed: int) -> Check:
    """HA-7: domains of one size, all examples in one batch."""
    domains = draw(seed, 20)
    domains = domains._replace(weights=jnp.full_like(domains.weights, 1 / domains.weights.shape[-1]))

    def both(domains: Domains) -> tuple[jax.Array, jax.Array]:
        dense = derivatives(domains)
        one = jax.tree.map(lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:]), domains[2:4])
        pooled = penalties.head_moments.hessian_gradient_product(domains.head, *one)
        return flat(pooled)[0], dense.hessian.mean(0) @ dense.gradient.mean(0)

    found, reference = quick_jit(jax.vmap(both))(domains)
    return Check(
        "pooled-reference-is-that-of-the-pooled-batch",
        "derived",
        "HA-7: mean Hessian times mean gradient = the product of all domains in one batch, sizes equal",
        found,
        "==",
        reference,
        scale=size_of(reference),
        tolerance_float32=1e-5,
    )


def one_logit_against_two_classes(seed: int) -> Iterator[Check]:
    """HA-18: the same predictor as a softmax head of two classes and as a logistic head."""
    single = draw(seed, 20, classes=1)
    rng = np.random.default_rng(seed)
    first = jnp.asarray(rng.normal(size=single.kernel.shape))
    double = single._replace(
        kernel=jnp.concatenate([first, first + single.kernel], axis=-1),
        bias=jnp.concatenate([0 * single.bias, single.bias], axis=-1),
        targets=jnp.concatenate([1 - single.targets, single.targets], axis=-1),
    )
    names = {"|g|^2": 2, "|diag H|^2": 2, "|H|_2": 2, "|H|_F^2": 4, "|H g|^2": 8}

    def sizes(domains: Domains) -> jax.Array:
        dense = derivatives(domains)
        h, g = dense.hessian, dense.gradient
        product = jnp.einsum("eij,ej->ei", h, g)
        squares = [jnp.sum(v**2, axis=-1) for v in (g, jnp.diagonal(h, axis1=1, axis2=2), product)]
        spectral, frobenius = jnp.linalg.eigvalsh(h)[:, -1], jnp.sum(h**2, axis=(1, 2))
        return jnp.stack([squares[0], squares[1], spectral, frobenius, squares[2]])

    both = [quick_jit(jax.vmap(sizes))(domains) for domains in (double, single)]
    yield Check(
        "two-classes-against-one-logit",
        "derived",
        f"HA-18: of softmax over logistic head, {', '.join(names)} have ratios 2, 2, 2, 4, 8",
        both[0],
        "==",
        both[1] * jnp.asarray(list(names.values()), both[1].dtype)[:, None],
        scale=1e-2 + both[0],
        tolerance=1e-10,
        tolerance_float32=1e-3,
    )

    def each(domains: Domains) -> jax.Array:
        methods = (HGP, penalties.hessian_diagonal_alignment, penalties.hessian_alignment)
        alone = [called(method, domains, gradient_weight=0.0) for method in methods]
        return jnp.stack([called(HGP, domains, hessian_weight=0.0), *alone])

    both = [quick_jit(jax.vmap(each))(domains) for domains in (double, single)]
    yield Check(
        "penalties-of-two-classes-against-one-logit",
        "derived",
        "HA-18: the penalties on g, H g, diag H and H have ratios 2, 8, 2, 4: weights do not carry over",
        both[0],
        "==",
        both[1] * jnp.asarray([2.0, 8.0, 2.0, 4.0], both[1].dtype),
        scale=1e-2 + both[0],
        tolerance=1e-10,
        tolerance_float32=1e-3,
    )


def statements(seed: int) -> Iterator[Check]:
    """HA-7 to HA-12 and HA-18."""
    domains = draw(seed, 20)
    dense = quick_jit(jax.vmap(derivatives))(domains)
    yield references_differ_by_a_covariance(dense)
    yield pooled_reference_is_that_of_the_pooled_batch(seed)
    yield from hgp_is_its_definition(domains)
    yield from hutchinson.statements(seed)
    yield from distances.statements(domains, dense, seed)
    yield from one_logit_against_two_classes(seed)
