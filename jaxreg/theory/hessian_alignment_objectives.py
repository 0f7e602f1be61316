"""The penalties: two references, the diagonal by sampling and its bias, and distances of whole Hessians."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory import falsify, hessian_alignment_hutchinson
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment_problems import (
    Derivatives,
    Domains,
    augmented,
    curvature,
    derivatives,
    draw,
    flat,
    plain_loss,
    predictions,
    size_of,
    softmax,
)
from jaxreg.theory.oracles import quick_jit

HGP = penalties.hessian_gradient_alignment
VARIANTS = tuple(itertools.product(("pooled", "mean"), (True, False)))


def called(penalty: Any, domains: Domains, **options: Any) -> jax.Array:
    """A penalty on domains."""
    return penalty(domains.head, *domains[2:4], weights=domains.weights, **options)


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


def hessian_distances(domains: Domains, dense: Derivatives) -> Iterator[Check]:
    """HA-9, HA-11: diagonal and Frobenius penalties, both forms of the latter, and two sums over domains."""
    h = np.asarray(dense.hessian)
    deviations = h - h.mean(1, keepdims=True)
    diagonal = (np.diagonal(deviations, axis1=-2, axis2=-1) ** 2).sum(-1).mean(1)
    frobenius = (deviations**2).sum((-1, -2)).mean(1)

    def ours(domains: Domains) -> list:
        alone = {"gradient_weight": 0.0}
        methods = [{"method": method} for method in ("gram", "blocks", "auto")]
        values = [called(penalties.hessian_alignment, domains, **alone, **method) for method in methods]
        return [called(penalties.hessian_diagonal_alignment, domains, **alone), *values]

    found = quick_jit(jax.vmap(ours))(domains)
    names = ("diagonal", "frobenius-gram", "frobenius-blocks", "frobenius-auto")
    for name, mine, other in zip(names, found, (diagonal, *[frobenius] * 3), strict=True):
        yield Check(
            f"{name}-penalty",
            "Chen et al. (2025)" if "frobenius" in name else "Hemati et al. (2023)",
            f"HA-11: the {name.replace('-', ' penalty, form ', 1)} is that of dense Hessians"
            if "frobenius" in name
            else "HA-9: the penalty on diagonals is that of dense Hessians",
            mine,
            "==",
            other,
            scale=size_of(other),
            tolerance_float32=1e-4,
        )
    products = np.einsum("ceij,cfij->cef", h, h)
    trace = np.trace(products, axis1=1, axis2=2) - products.sum((1, 2)) / h.shape[1]
    yield Check(
        "gram-matrix-gives-the-spread",
        "derived",
        "HA-11: sum_e |H_e - H|^2 = tr G - 1^T G 1 / n with G_ef = <H_e, H_f>",
        trace,
        "==",
        frobenius * h.shape[1],
        scale=size_of(np.abs(products).sum((1, 2))),
        tolerance_float32=1e-5,
    )


def inner_product_of_hessians(domains: Domains, dense: Derivatives) -> Check:
    """HA-11: Frobenius products by pairs of examples, the traces by products of probabilities."""
    p, z, w = predictions(domains), augmented(domains.features), np.asarray(domains.weights)
    q = np.einsum("ceik,cfjk->ceifj", p, p)
    cross = np.einsum("ceik,cfjk->ceifj", p**2, p) + np.einsum("ceik,cfjk->ceifj", p, p**2)
    inner = np.einsum("ceid,cfjd->ceifj", z, z) ** 2
    found = np.einsum("cei,cfj,ceifj->cef", w, w, (q - cross + q**2) * inner)
    products = np.einsum("ceij,cfij->cef", *[np.asarray(dense.hessian)] * 2)
    return Check(
        "frobenius-inner-product",
        "derived",
        "HA-11: <H_a, H_b> = sum_ij w_i w_j tr(A_i A_j)(z~_i.z~_j)^2, tr(A_i A_j) = q - p^2.p - p.p^2 + q^2",
        found,
        "==",
        products,
        scale=size_of(products),
        tolerance_float32=1e-5,
    )


def gram_form_cancels_in_single_precision(seed: int) -> Iterator[Check]:
    """HA-11: two domains whose Hessians differ by a ten-thousandth."""
    domains = draw(seed, 8, domains=2, examples=16, features=8)
    first = domains.features[:, :1]
    change = 2e-4 * np.random.default_rng(seed).normal(size=first.shape)
    near = jnp.concatenate([first, first + jnp.asarray(change, first.dtype)], axis=1)
    weights = jnp.broadcast_to(domains.weights[:, :1], domains.weights.shape)
    single = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32), domains._replace(features=near, weights=weights)
    )
    exact, relative = _squared_distance(single)

    def plain_gram(domains: Domains) -> jax.Array:
        z = jnp.concatenate([domains.features, jnp.ones_like(domains.features[..., :1])], axis=-1)
        p = jax.nn.softmax(z @ domains.matrix.T, axis=-1)
        a = p[..., :, None] * (jnp.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])
        inner = jnp.einsum("eid,fjd->eifj", z, z) ** 2 * jnp.einsum("eikl,fjkl->eifj", a, a)
        g = jnp.einsum("ei,fj,eifj->ef", domains.weights, domains.weights, inner)
        return g[0, 0] - 2 * g[0, 1] + g[1, 1]

    def both(domains: Domains) -> tuple[jax.Array, jax.Array]:
        library = called(penalties.hessian_alignment, domains, gradient_weight=0.0)
        return plain_gram(domains), 4 * library

    gram, ours = (
        np.abs(np.asarray(leaf, float) - exact) / exact for leaf in quick_jit(jax.vmap(both))(single)
    )
    yield Check(
        "gram-form-cancels-in-float32",
        "derived",
        "HA-11: NEGATIVE: of near Hessians, <H_a,H_a> - 2<H_a,H_b> + <H_b,H_b> in float32 is off by >= 10 %",
        gram.max(),
        ">=",
        0.1,
        tolerance=0.0,
        tolerance_float32=0.0,
    )
    yield Check(
        "blocks-do-not-cancel",
        "derived",
        "HA-11: the penalty then subtracts blocks: float32 error <= 10 eps / sqrt(relative squared distance)",
        ours,
        "<=",
        10 * np.finfo(np.float32).eps / np.sqrt(relative),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def _squared_distance(domains: Domains) -> tuple[np.ndarray, np.ndarray]:
    """``|H_a - H_b|_F^2`` from blocks in double precision, and relative to ``|H_a|_F^2``."""
    z = augmented(np.asarray(domains.features, np.float64))
    p = softmax(np.einsum("cebd,ckd->cebk", z, np.asarray(domains.matrix, np.float64)))
    w = np.asarray(domains.weights, np.float64)
    h = np.einsum("ceb,cebkl,cebd,cebf->cekldf", w, curvature(p), z, z)
    square = ((h[:, 0] - h[:, 1]) ** 2).sum((1, 2, 3, 4))
    return square, square / (h[:, 0] ** 2).sum((1, 2, 3, 4))


def spectral_distance_by_lanczos(seed: int) -> Check:
    """HA-12: a head of 65 entries; products with differences of Hessians alone."""
    domains = draw(seed, 2, domains=2, examples=40, features=12, classes=5)
    hessian = np.asarray(quick_jit(jax.vmap(derivatives))(domains).hessian)
    exact = np.abs(np.linalg.eigvalsh(hessian[:, 0] - hessian[:, 1])).max(-1)

    def distance(domains: Domains) -> jax.Array:
        spectral = penalties.head_moments.hessian_spectral_distances
        return spectral(domains.head, domains.features, weights=domains.weights, steps=20)[0, 1]

    found = quick_jit(jax.vmap(distance))(domains)
    return Check(
        "lanczos-finds-the-spectral-distance",
        "derived",
        "HA-12: 20 products give |H_a - H_b|_2 of a head of 65 entries to eight digits",
        found,
        "==",
        exact,
        scale=exact,
        tolerance=1e-8,
        tolerance_float32=1e-4,
    )


def lanczos_stays_below(kernel: jax.Array, features: jax.Array) -> Check:
    """HA-12: two products, one domain ``[B, D]`` of ``features`` ``[2, B, D]`` against the other."""
    head = {"kernel": kernel}
    weights = jnp.full_like(features[0, :, 0], 1 / features.shape[1])

    def hessian(features: jax.Array) -> jax.Array:
        matrix = jnp.concatenate([kernel.T, jnp.zeros_like(kernel.T[:, :1])], axis=1)
        dense = jax.hessian(plain_loss)(matrix, features, jnp.zeros((len(features), len(matrix))), weights)
        return dense[:, :-1, :, :-1].reshape(kernel.size, kernel.size)

    dense = jax.vmap(hessian)(features)
    exact = jnp.abs(jnp.linalg.eigvalsh(dense[0] - dense[1])).max()
    found = penalties.head_moments.hessian_spectral_distances(head, features, steps=2)[0, 1]
    return Check(
        "lanczos-stays-below",
        "derived",
        "HA-12: Lanczos never exceeds |H_a - H_b|_2, here after 2 products",
        found,
        "<=",
        exact,
        scale=1e-6 + exact,
        tolerance=1e-9,
        tolerance_float32=1e-4,
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
    yield from hessian_alignment_hutchinson.statements(seed)
    yield from hessian_distances(domains, dense)
    yield inner_product_of_hessians(domains, dense)
    yield from gram_form_cancels_in_single_precision(seed)
    yield spectral_distance_by_lanczos(seed)
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(32, 2, 2)), rng.normal(size=(32, 2, 3, 2))
    yield falsify.hill_climb(lanczos_stays_below, starts, steps=100).check
    yield from one_logit_against_two_classes(seed)
