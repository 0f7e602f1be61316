"""Distances of whole Hessians: Frobenius by blocks and by products, spectral by Lanczos' method."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import (
    Derivatives,
    Domains,
    augmented,
    called,
    curvature,
    derivatives,
    draw,
    plain_loss,
    predictions,
    size_of,
    softmax,
)
from jaxreg.theory.oracles import quick_jit


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
    """HA-11: two domains whose Hessians differ by a ten-thousandth; climbed without a gradient."""
    rng = np.random.default_rng(seed)
    drawn = draw(seed, 8, domains=2, examples=16, features=8)
    weights = jnp.broadcast_to(drawn.weights[:, :1], drawn.weights.shape).astype(jnp.float32)
    first = np.asarray(drawn.features)[:, :1]
    # Head, features of one domain, and by how much the other's differ.
    case = [np.asarray(drawn.kernel), np.asarray(drawn.bias), first, 2e-4 * rng.normal(size=first.shape)]

    def single(case: list[np.ndarray]) -> Domains:
        kernel, bias, features, change = case
        near = np.concatenate([features, features + change], axis=1)
        kernel, bias, near, targets = (
            jnp.asarray(leaf, jnp.float32) for leaf in (kernel, bias, near, drawn.targets)
        )
        return Domains(kernel, bias, near, targets, weights)

    def plain_gram(domains: Domains) -> jax.Array:
        z = jnp.concatenate([domains.features, jnp.ones_like(domains.features[..., :1])], axis=-1)
        p = jax.nn.softmax(z @ domains.matrix.T, axis=-1)
        a = p[..., :, None] * (jnp.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])
        inner = jnp.einsum("eid,fjd->eifj", z, z) ** 2 * jnp.einsum("eikl,fjkl->eifj", a, a)
        g = jnp.einsum("ei,fj,eifj->ef", domains.weights, domains.weights, inner)
        return g[0, 0] - 2 * g[0, 1] + g[1, 1]

    @quick_jit
    @jax.vmap
    def both(domains: Domains) -> tuple[jax.Array, jax.Array]:
        library = called(penalties.hessian_alignment, domains, gradient_weight=0.0)
        return plain_gram(domains), 4 * library

    def errors(case: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Relative ones of the Gram form, and of the library in units of what it may have."""
        domains = single(case)
        exact, relative = _squared_distance(domains)
        gram, ours = (np.abs(np.asarray(leaf, float) - exact) / exact for leaf in both(domains))
        scores = np.einsum("cebd,ckd->cebk", augmented(domains.features), np.asarray(domains.matrix))
        # A rounded score changes a probability by that much, relatively.
        largest = 1 + np.abs(scores).max((1, 2, 3))
        return gram, ours * np.sqrt(relative) / np.finfo(np.float32).eps / largest

    gram, ours = errors(case)
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
    for size in np.logspace(-0.5, -2, 40):
        steps = [size * rng.normal(size=leaf.shape) * np.std(leaf) for leaf in case]
        proposal = [leaf + step for leaf, step in zip(case, steps, strict=True)]
        found = errors(proposal)[1]
        better = found >= ours
        case = [
            np.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(case, proposal, strict=True)
        ]
        ours = np.maximum(ours, found)
    yield Check(
        "blocks-do-not-cancel",
        "derived",
        "HA-11: by blocks: float32 error <= 10 eps (1 + max|score|) / sqrt(relative square), climbed",
        ours,
        "<=",
        10.0,
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


def statements(domains: Domains, dense: Derivatives, seed: int) -> Iterator[Check]:
    """HA-9, HA-11 and HA-12."""
    yield from hessian_distances(domains, dense)
    yield inner_product_of_hessians(domains, dense)
    yield from gram_form_cancels_in_single_precision(seed)
    yield spectral_distance_by_lanczos(seed)
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(32, 2, 2)), rng.normal(size=(32, 2, 3, 2))
    yield falsify.hill_climb(lanczos_stays_below, starts, steps=100).check
