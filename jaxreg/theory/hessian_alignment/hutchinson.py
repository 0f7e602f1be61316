"""The Hessian's diagonal and norm from random signs: expectations by enumeration, bias of the penalty."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import penalties
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import Domains, derivatives, draw
from jaxreg.theory.oracles import quick_jit


def off(matrix: np.ndarray) -> np.ndarray:
    """Squared norm of what is off the diagonal, ``[..., n, n]`` to ``[...]``."""
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1)
    return (matrix**2).sum((-1, -2)) - (diagonal**2).sum(-1)


def all_signs(size: int) -> np.ndarray:
    """Every vector of signs, ``[2^size, size]``."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=size)))


def variance_of_the_estimator(hessian: np.ndarray) -> Iterator[Check]:
    """HA-10, HA-12: moments of one probe, over all signs."""
    signs = all_signs(hessian.shape[-1])
    images = np.einsum("...ij,rj->...ri", hessian, signs)
    diagonal = np.diagonal(hessian, axis1=-2, axis2=-1)
    errors = signs * images - diagonal[..., None, :]
    claims = (
        ("estimator-is-unbiased", "HA-10: E v o Hv = diag H", errors.mean(-2), 0 * diagonal),
        ("estimator-has-variance-off", "HA-10: E |v o Hv - diag H|^2 = |H|_F^2 - |diag H|^2",
         (errors**2).sum(-1).mean(-1), off(hessian)),
    )  # fmt: skip
    for name, statement, lhs, rhs in claims:
        yield Check(name, "derived", statement, lhs, "==", rhs, scale=1 + np.abs(hessian).max() ** 2)
    matrix = np.random.default_rng(0).normal(size=(10, *hessian.shape[-2:]))
    squares = (np.einsum("cij,rj->cri", matrix, signs) ** 2).sum(-1).mean(-1)
    yield Check(
        "one-probe-is-unbiased-for-the-norm",
        "derived",
        "HA-12: E |Mv|^2 = |M|_F^2 for any M",
        squares,
        "==",
        (matrix**2).sum((-1, -2)),
        scale=squares,
    )


def predicted(hessian: np.ndarray, probes: int, *, shared: bool) -> np.ndarray:
    """HA-10: expected sampled penalty on diagonals, from dense Hessians ``[..., E, n, n]``."""
    mean = hessian.mean(-3, keepdims=True)
    signal = (np.diagonal(hessian - mean, axis1=-2, axis2=-1) ** 2).sum(-1)
    bias = off(hessian - mean) if shared else off(hessian) + off(mean)
    return (signal + bias / probes).mean(-1)


def bias_by_enumeration(hessian: np.ndarray) -> Iterator[Check]:
    """HA-10: one probe for each domain and one for the reference, over all pairs of signs."""
    signs = all_signs(hessian.shape[-1])
    mean = hessian.mean(1, keepdims=True)
    own, reference = (signs * np.einsum("ceij,rj->ceri", h, signs) for h in (hessian, mean))
    pairs = ((own[:, :, :, None] - reference[:, :, None]) ** 2).sum(-1)
    same = ((own - reference) ** 2).sum(-1)
    for shared, found in ((False, pairs.mean((2, 3))), (True, same.mean(2))):
        which = "shared" if shared else "independent"
        yield Check(
            f"bias-with-{which}-probes",
            "derived",
            "HA-10: E |D_e - D|^2 = |diag(H_e - H)|^2 + "
            + (
                "off(H_e - H) / R, shared probes" if shared else "(off(H_e) + off(H)) / R, independent probes"
            ),
            found.mean(1),
            "==",
            predicted(hessian, 1, shared=shared),
            scale=1 + np.abs(hessian).max() ** 2,
        )


def bias_of_the_library(
    domains: Domains, hessian: np.ndarray, *, probes: int = 5, keys: int = 1000
) -> Iterator[Check]:
    """HA-10: mean of the sampled penalty over many keys, in standard errors; and with the bias removed."""
    variants = tuple(itertools.product((False, True), repeat=2))

    def sampled(domains: Domains) -> list:
        def one(key: jax.Array) -> list:
            return [
                penalties.hutchinson_alignment(
                    domains.head, *domains[2:4], weights=domains.weights, key=key, probes=probes,
                    shared_probes=shared, remove_bias=removed, gradient_weight=0.0,
                )
                for shared, removed in variants
            ]  # fmt: skip

        # One after the other: of a thousand side by side XLA's fused products on the CPU return some wrongly
        # in float32 (jax 0.10.2; right with --xla_cpu_experimental_ynn_fusion_type= in XLA_FLAGS).
        draws = jax.lax.map(one, jax.random.split(jax.random.key(0), keys))
        return [(jnp.mean(draw), jnp.std(draw) / keys**0.5) for draw in draws]

    found = quick_jit(jax.vmap(sampled))(domains)
    for (shared, removed), (mean, error) in zip(variants, found, strict=True):
        expected = predicted(hessian, probes, shared=shared)
        which = "shared" if shared else "independent"
        yield Check(
            f"sampled-{which}-{'bias-removed' if removed else 'biased'}",
            "derived",
            f"HA-10: mean penalty over {keys} keys, R = {probes}, {which} probes"
            + (", bias removed: that of the exact diagonals" if removed else ": as predicted"),
            mean,
            "==",
            predicted(hessian, 10**12, shared=True) if removed else expected,
            scale=error,
            # In standard errors, so many that chance alone exceeds them once in 10^6 cases.
            tolerance=5.0,
            tolerance_float32=5.0,
        )


def bias_exceeds_the_signal(seed: int) -> Check:
    """HA-10: at the released code's 300 probes, on features of a random rectified layer."""
    rng = np.random.default_rng(seed)
    found = []
    for classes, width in ((10, 512), (7, 2048)):
        mean = rng.normal(size=(3, 1, 64)) / 4
        inputs = np.maximum((mean + rng.normal(size=(3, 32, 64))) @ rng.normal(size=(64, width)) / 8, 0)
        head = {"kernel": rng.normal(size=(width, classes)) / width**0.5, "bias": np.zeros(classes)}
        labels = rng.integers(classes, size=(3, 32))
        head, inputs, labels = jax.tree.map(jnp.asarray, (head, inputs, labels))
        found.append(_bias_and_signal(head, inputs, labels, 300))
    bias, signal = np.array(found, float).T
    return Check(
        "bias-exceeds-the-signal",
        "derived",
        "HA-10: NEGATIVE: at 300 probes a batch of 32 has more bias than signal (10 x 512, 7 x 2048)",
        bias / signal,
        ">=",
        1.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


@quick_jit
def _bias_and_signal(head, features, labels, probes) -> tuple[jax.Array, jax.Array]:
    """Bias and exact penalty, from distances alone: an empty domain's Hessian is 0."""
    data = (head, jnp.concatenate([features, features[:1]]))
    where = jnp.ones(data[1].shape[:2], bool).at[-1].set(False)
    squares = (
        penalties.head_moments.hessian_frobenius_distances(*data, where=where, method="gram")[-1, :-1] ** 2
    )
    diagonal = penalties.head_moments.hessian_diagonal(head, features)
    own = sum(jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(diagonal))
    alone = {"gradient_weight": 0.0}
    frobenius = penalties.hessian_alignment(head, features, labels, method="gram", **alone)
    signal = penalties.hessian_diagonal_alignment(head, features, labels, **alone)
    # mean |H_e|^2 = |H|^2 + mean |H_e - H|^2, likewise for the diagonals.
    mean_off = jnp.mean(squares - own)
    return (2 * mean_off - (frobenius - signal)) / probes, signal


def statements(seed: int) -> Iterator[Check]:
    """HA-10, and the one-probe estimate of HA-12."""
    domains = draw(seed, 6, features=1, classes=3)
    hessian = np.asarray(quick_jit(jax.vmap(derivatives))(domains).hessian, np.float64)
    yield from variance_of_the_estimator(hessian)
    yield from bias_by_enumeration(hessian)
    yield from bias_of_the_library(domains, hessian)
    yield bias_exceeds_the_signal(seed)
