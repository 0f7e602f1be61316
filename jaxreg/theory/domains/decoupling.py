"""Spectral decoupling: a penalty that is quadratic in the head, and one confidence for all examples."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jaxreg import penalties
from jaxreg.theory import oracles
from jaxreg.theory.check import Check
from jaxreg.theory.hessian_alignment.problems import Domains, augmented, draw, size_of

PAPER = "Pezeshki et al. (2021)"


def penalty_is_quadratic(seed: int, target: float = 0.5) -> Iterator[Check]:
    """DO-10: value and curvature by second moments of the features."""
    domains = draw(seed, 10)
    matrix = np.asarray(domains.matrix, float)
    classes = matrix.shape[1]

    def both(domains: Domains) -> tuple[jax.Array, jax.Array]:
        def penalty(flat: jax.Array) -> jax.Array:
            rows = flat.reshape(domains.matrix.shape)
            head = {"kernel": rows[:, :-1].T, "bias": rows[:, -1]}
            return penalties.spectral_decoupling(
                head, domains.features, weights=domains.weights, target=target
            )

        flat = domains.matrix.ravel()
        return penalty(flat), jax.hessian(penalty)(flat)

    value, hessian = oracles.quick_jit(jax.vmap(both))(domains)
    z, w = augmented(domains.features).astype(float), np.asarray(domains.weights, float)
    second = np.einsum("ceb,cebd,cebf->cdf", w, z, z) / z.shape[1]
    first = np.einsum("ceb,cebd->cd", w, z) / z.shape[1]
    quadratic = np.einsum("ckd,cdf,ckf->c", matrix, second, matrix)
    expected = (quadratic - 2 * target * np.einsum("ckd,cd->c", matrix, first)) / classes + target**2
    yield Check(
        "decoupling-is-a-quadratic-form",
        "derived",
        "DO-10: the penalty is (tr(T M T^T) - 2 gamma 1.T m) / K + gamma^2, m and M the mean moments of z~",
        value,
        "==",
        expected,
        scale=size_of(expected),
        tolerance_float32=1e-4,
    )
    wanted = np.einsum("kl,cdf->ckdlf", 2 / classes * np.eye(classes), second).reshape(hessian.shape)
    yield Check(
        "decoupling-decays-by-the-spectrum",
        "derived",
        "DO-10: its Hessian in the head is 2 / K times I (x) M: each direction decays as its features vary",
        hessian,
        "==",
        wanted,
        scale=size_of(wanted),
        tolerance_float32=1e-4,
    )


def confidences(seed: int, weight: float, *, decay: bool, cases: int = 4) -> np.ndarray:
    """Margins ``y s`` ``[cases, 5]`` at the minimum of the loss and one penalty, features independent."""
    rng = np.random.default_rng(seed)
    # More features than examples, of sizes that differ by a factor of ten.
    features = rng.normal(size=(cases, 5, 7)) * np.geomspace(0.3, 3, 7)
    labels = rng.integers(2, size=(cases, 5))

    def risk(kernel: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
        head, inputs = {"kernel": kernel[:, None]}, features[None]
        loss = penalties.head_moments.mean_loss(head, inputs, labels[None])[0]
        penalty = jnp.sum(kernel**2) if decay else penalties.spectral_decoupling(head, inputs)
        return loss + weight / 2 * penalty

    compiled = oracles.quick_jit(jax.value_and_grad(risk))
    found = []
    for z, y in zip(features, labels, strict=True):
        data = jnp.asarray(z), jnp.asarray(y)
        at, _ = oracles.minimise(
            lambda kernel: kernel.sum(), np.zeros(7), compiled=lambda kernel, d=data: compiled(kernel, *d)
        )
        found.append((2 * y - 1) * (z @ at))
    return np.array(found)


def examples_are_equally_sure(seed: int) -> Iterator[Check]:
    """DO-11: one logit, features linearly independent."""
    weights = (0.1, 1.0)
    found = np.array([confidences(seed, weight, decay=False) for weight in weights])
    roots = [
        optimize.brentq(lambda s, w=weight: w * s - special.expit(-s), 0, 1 / weight, xtol=1e-15)
        for weight in weights
    ]
    yield Check(
        "decoupling-makes-examples-equally-sure",
        f"{PAPER}; for independent features",
        "DO-11: loss + lambda/2 penalty, n <= D: every margin is the root of lambda s = 1 / (1 + e^s)",
        found,
        "==",
        np.array(roots)[:, None, None],
        tolerance=1e-6,
        tolerance_float32=1e-2,
    )
    margins = confidences(seed, 0.1, decay=True)
    yield Check(
        "weight-decay-does-not",
        PAPER,
        "DO-11: NEGATIVE: with lambda/2 |W|^2 the largest margin is at least 1.2 times the smallest",
        margins.max(1) - 1.2 * margins.min(1),
        ">=",
        0.0,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """DO-10 and DO-11."""
    yield from penalty_is_quadratic(seed)
    yield from examples_are_equally_sure(seed)
