"""Blind spots: differences between domains that a penalty on Hessians and gradients does not see."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import (
    Domains,
    augmented,
    called,
    derivatives,
    draw,
    predictions,
)
from jaxreg.theory.oracles import quick_jit

ALONE = {"gradient_weight": 0.0}


def products_are_bounded(roots: jax.Array, gradients: jax.Array) -> Check:
    """HA-16: what HGP sees of a difference of Hessians is at most its size times the gradient's."""
    h = jnp.swapaxes(roots, -1, -2) @ roots
    norms = jnp.linalg.eigvalsh(h[1])[-1], jnp.abs(jnp.linalg.eigvalsh(h[0] - h[1])).max()
    difference = h[0] @ gradients[0] - h[1] @ gradients[1]
    lengths = [jnp.sqrt(jnp.sum(v**2)) for v in (gradients[0], gradients[0] - gradients[1], difference)]
    bound = norms[1] * lengths[0] + norms[0] * lengths[1]
    return Check(
        "products-are-bounded",
        "derived",
        "HA-16: |H_a g_a - H_b g_b| <= |H_a - H_b|_2 |g_a| + |H_b|_2 |g_a - g_b|",
        lengths[2],
        "<=",
        bound,
        scale=bound,
        tolerance_float32=1e-5,
    )


def blind_at_a_shared_optimum(seed: int) -> Iterator[Check]:
    """HA-16: labels are the predictions, so that no gradient is left to see the Hessians by."""
    domains = draw(seed, 6, domains=2)
    domains = domains._replace(targets=jnp.asarray(predictions(domains)))
    direction = jnp.asarray(np.random.default_rng(seed).normal(size=domains.kernel.shape))
    direction = direction / jnp.linalg.norm(direction, axis=(1, 2), keepdims=True)

    def seen(domains: Domains, direction: jax.Array) -> tuple[jax.Array, ...]:
        def at(distance: float) -> jax.Array:
            moved = domains._replace(kernel=domains.kernel + distance * direction)
            return called(penalties.hessian_gradient_alignment, moved, **ALONE)

        hessians = called(penalties.hessian_alignment, domains, **ALONE)
        return at(0.0), hessians, at(2.0**-6) / at(2.0**-7)

    hgp, hessians, ratio = quick_jit(jax.vmap(seen))(domains, direction)
    statement = "HA-16: at a shared optimum HGP's Hessian term is 0 however far the Hessians are apart"
    yield Check(
        "hgp-is-blind-at-a-shared-optimum",
        "derived",
        statement,
        hgp / hessians,
        "==",
        0.0,
        tolerance=1e-20,
        tolerance_float32=1e-9,
    )
    yield Check(
        "hgp-sees-again-as-the-distance-squared",
        "derived",
        "HA-16: near it that term grows as the square of the distance: ratio 4 per doubling",
        ratio,
        "==",
        4.0,
        tolerance=0.3,
        tolerance_float32=0.3,
    )


def diagonals_are_blind() -> Check:
    """HA-16: mirrored features, zero head."""
    head = {"kernel": jnp.zeros((2, 2))}
    features = jnp.array([[[1.0, 1.0]], [[1.0, -1.0]]])
    labels = jnp.zeros((2, 1), int)
    both = (penalties.hessian_diagonal_alignment, penalties.hessian_alignment)
    found = quick_jit(lambda *data: jnp.stack([one(*data, **ALONE) for one in both]))(head, features, labels)
    # A = [[1, -1], [-1, 1]] / 4 has norm 1/2, zz^T differs by 2 in two entries: |H_a - H_b|^2 / 4 = 1/2.
    return Check(
        "diagonals-are-blind-to-correlations",
        "derived",
        "HA-16: mirrored features: penalty 0 on diagonals, 1/2 on Hessians",
        found,
        "==",
        np.array([0.0, 0.5]),
        tolerance_float32=1e-6,
    )


def hgp_with_equal_gradients(seed: int) -> Check:
    """HA-16: two domains, one gradient: only the Hessians' difference along it is seen."""
    domains = draw(seed, 20, domains=2, examples=12, classes=3)
    # Soft labels that make both gradients a given small one: the least change of the predictions that does.
    z, w, p = (np.asarray(leaf, np.float64) for leaf in (augmented(domains.features), domains.weights,
                                                         predictions(domains)))  # fmt: skip
    rng = np.random.default_rng(seed)
    wanted = 1e-3 * rng.normal(size=(len(z), 1, *domains.matrix.shape[1:]))
    wanted = np.repeat(wanted - wanted.mean(2, keepdims=True), 2, axis=1)
    gram = np.einsum("ceb,cebd,cebf->cedf", w, z, z)
    errors = np.einsum("cebd,cedf,cekf->cebk", z, np.linalg.inv(gram), wanted)
    targets = np.clip(p - errors, 0, None)
    kept = np.all(p - errors >= 0, axis=(1, 2, 3))
    domains = jax.tree.map(
        lambda leaf: leaf[kept], domains._replace(targets=jnp.asarray(targets, domains.kernel.dtype))
    )

    def both(domains: Domains) -> tuple[jax.Array, jax.Array]:
        dense = derivatives(domains)
        difference = (dense.hessian[0] - dense.hessian[1]) @ dense.gradient.mean(0)
        return called(penalties.hessian_gradient_alignment, domains, **ALONE), jnp.sum(difference**2) / 4

    found, expected = quick_jit(jax.vmap(both))(domains)
    return Check(
        "hgp-with-equal-gradients",
        "derived",
        "HA-16: g_a = g_b = g: HGP's Hessian term is |(H_a - H_b) g|^2 / 4, 0 iff (H_a - H_b) g = 0",
        found,
        "==",
        expected,
        scale=expected,
        tolerance=1e-8,
        tolerance_float32=2e-2,
    )


def statements(seed: int) -> Iterator[Check]:
    """HA-16."""
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(64, 2, 3, 3)), rng.normal(size=(64, 2, 3))
    yield falsify.search(products_are_bounded, starts).check
    yield from blind_at_a_shared_optimum(seed)
    yield diagonals_are_blind()
    yield hgp_with_equal_gradients(seed)
