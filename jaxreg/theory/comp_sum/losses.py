"""The comp-sum losses themselves: equivalent forms, accuracy, slopes, order."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum.risks import phi

MAO = "Mao, Mohri, Zhong (2023)"
TAUS = (0.0, 0.3, 0.5, 0.9, 1.0, 1.3, 1.5, 1.7, 1.9, 2.0, 2.5, 3.0)


def odds(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``sum_{k != y} exp(h_k - h_y)`` by NumPy, shape ``[N]``."""
    gaps = logits - np.take_along_axis(logits, labels[:, None], -1)
    return np.where(np.arange(logits.shape[-1]) == labels[:, None], 0, np.exp(gaps)).sum(-1)


def power(u: np.ndarray, tau: float) -> np.ndarray:
    """The definition by NumPy, without its cancellation near u = 0 and tau = 1."""
    logarithm, exponent = np.log1p(u), 1 - tau
    return logarithm if exponent == 0 else np.expm1(exponent * logarithm) / exponent


def forms_agree(logits: np.ndarray, labels: np.ndarray) -> Check:
    """The definition in u, and the one in the label's probability, for many tau."""
    u = odds(logits, labels)
    s = special.softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    in_s = [-np.log(s) if tau == 1 else (s ** (tau - 1) - 1) / (1 - tau) for tau in TAUS]
    found = oracles.whole(lambda h: jnp.stack([losses.comp_sum(h, labels, tau=tau) for tau in TAUS]), logits)
    found = np.repeat(found, 2, axis=0)
    plain = np.stack(
        [form for pair in zip((power(u, tau) for tau in TAUS), in_s, strict=True) for form in pair]
    )
    return Check(
        "forms-agree",
        MAO,
        "comp_sum = ((1 + u)^(1 - tau) - 1)/(1 - tau) = (s_y^(tau - 1) - 1)/(1 - tau)",
        found,
        "==",
        plain,
        scale=1 + np.abs(plain),
        tolerance_float32=1e-4,
    )


def members(logits: np.ndarray, labels: np.ndarray) -> Check:
    """The named members of the family."""
    s = special.softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    expected = np.stack([odds(logits, labels), *2 * [(1 - s**0.7) / 0.7], *2 * [1 - s]])

    def members_of(h: jax.Array) -> jax.Array:
        others = [
            losses.generalized_cross_entropy(h, labels, q=0.7),
            losses.mean_absolute_error(h, labels) / 2,
        ]
        of_tau = [losses.comp_sum(h, labels, tau=tau) for tau in (0.0, 1.7, 2.0)]
        return jnp.stack([of_tau[0], of_tau[1], others[0], of_tau[2], others[1]])

    found = oracles.whole(members_of, logits)
    return Check(
        "members",
        MAO,
        "tau = 0: sum-exponential; 1 + q: generalized cross-entropy (1 - s_y^q) / q; 2: half MAE, 1 - s_y",
        found,
        "==",
        expected,
        scale=1 + np.abs(expected),
        tolerance_float32=1e-5,
    )


def single_precision_is_accurate(rng: np.random.Generator) -> Check:
    """In float32, however confident the prediction and near tau to 1; climbed without a gradient."""
    labels = oracles.draw_labels(rng, 1024, 6)
    logits = rng.standard_normal((1024, 6))
    logits[np.arange(1024), labels] += rng.uniform(-75, 28, 1024)
    logits += rng.uniform(-100, 100, (1024, 1)) * (rng.uniform(size=(1024, 1)) < 0.5)
    taus = np.resize(np.array([*TAUS, 0.013, 0.1, 1 - 1e-6, 1 + 1e-7], np.float32), 1024)
    compiled = jax.jit(lambda h: losses.comp_sum(h, labels, tau=jnp.asarray(taus)))

    def errors(logits: np.ndarray) -> np.ndarray:
        single = logits.astype(np.float32)
        u = odds(single.astype(float), labels)
        exact = np.array([power(of_row, float(tau)) for of_row, tau in zip(u, taus, strict=True)])
        counts = (exact > 1e-12) & (exact < 1e33)  # what single precision can hold, with scores that differ
        found = np.asarray(compiled(single), float)
        return np.where(counts, np.abs(found / np.where(counts, exact, 1) - 1), 0)

    worst = errors(logits)
    for size in np.logspace(0, -2, 40):
        proposal = logits + size * rng.standard_normal(logits.shape)
        found = errors(proposal)
        logits = np.where((found >= worst)[:, None], proposal, logits)
        worst = np.maximum(worst, found)
    return Check(
        "single-precision-is-accurate",
        "derived",
        "float32: relative error at most 1e-6, losses of 1e-12 to 1e33, through tau = 1; drawn and climbed",
        worst,
        "<=",
        1e-6,
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def gradient_is_weighted_residual(logits: np.ndarray, labels: np.ndarray) -> Check:
    """``s_y^(tau - 1) (s - e_y)``."""
    s = special.softmax(logits, axis=-1)
    own = s[np.arange(len(labels)), labels]
    residual = s - np.eye(logits.shape[-1])[labels]
    gradient = oracles.quick_jit(jax.grad(lambda h, tau: losses.comp_sum(h, labels, tau=tau).sum()))
    found = np.stack([gradient(jnp.asarray(logits), jnp.asarray(tau)) for tau in TAUS])
    expected = np.stack([own[:, None] ** (tau - 1) * residual for tau in TAUS])
    return Check(
        "gradient-is-weighted-residual",
        MAO,
        "gradient = s_y^(tau - 1) (s - e_y)",
        found,
        "==",
        expected,
        scale=1 + np.abs(expected).max(-1, keepdims=True),
        tolerance_float32=1e-4,
    )


def decreases_in_tau(log_u: jax.Array, tau: jax.Array, more: jax.Array) -> Check:
    """For a fixed u, tau to ``|tau| + |more|``."""
    u = jnp.exp(log_u)
    low = jnp.abs(tau)
    return Check(
        "decreases-in-tau",
        MAO,
        "Phi^tau(u) does not increase with tau",
        phi(u, low + jnp.abs(more)),
        "<=",
        phi(u, low),
        scale=1 + u,
        tolerance_float32=1e-5,
    )


def is_concave_and_lipschitz(log_u: jax.Array, log_v: jax.Array, tau: jax.Array) -> Check:
    """Slope between 0 and 1, and at most the chord's above it."""
    u, v, tau = jnp.exp(log_u), jnp.exp(log_v), jnp.abs(tau)
    low, high = phi(u, tau), phi(u + v, tau)
    middle = phi(u + v / 2, tau)
    share = jnp.maximum(tau - 1, 0) * high  # of the range, which is all values for tau <= 1
    sides = jnp.stack([low, high, (low + high) / 2, share]), jnp.stack([high, low + v, middle, 0 * u + 1])
    return Check(
        "is-increasing-concave-and-lipschitz",
        MAO,
        "Phi^tau increases, with slope at most 1, is concave, and stays below 1 / (tau - 1) for tau > 1",
        sides[0],
        "<=",
        sides[1],
        scale=1 + u + v,
        tolerance_float32=1e-5,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module, on random inputs."""
    rng = np.random.default_rng(seed)
    logits, labels = oracles.draw_scores(rng, 60, 5, largest_scale=3.0), oracles.draw_labels(rng, 60, 5)
    yield forms_agree(logits, labels)
    yield members(logits, labels)
    yield single_precision_is_accurate(rng)
    yield gradient_is_weighted_residual(logits, labels)
    lines = [rng.uniform(-5, 5, 300) for _ in range(2)]
    yield falsify.search(
        decreases_in_tau, (lines[0], rng.uniform(0, 3, 300), rng.uniform(0, 2, 300)), steps=50
    ).check
    yield falsify.search(is_concave_and_lipschitz, (*lines, rng.uniform(0, 3, 300)), steps=50).check
