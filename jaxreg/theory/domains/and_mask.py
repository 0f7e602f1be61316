"""The AND-mask: what is left of noise, whom its steps suit, and which directions of a valley it keeps."""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import transforms
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit

PAPER = "Parascandolo et al. (2021)"


def masked(gradients: jax.Array, threshold: float = 1.0) -> jax.Array:
    """The update ``[...]`` from gradients of the domains ``[n, ...]``."""
    transform = transforms.and_mask(threshold)
    return jnp.asarray(transform.update(gradients, transform.init(gradients[0]))[0])


def noise_dies_out(largest: int = 7) -> Iterator[Check]:
    """DO-6: every pattern of signs once."""
    shares, expected, squares = [], [], []
    for count in range(2, largest + 1):
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=count))).T
        for agreeing in range(count // 2 + 1):
            threshold = (count - 2 * agreeing) / count
            update = np.asarray(masked(jnp.asarray(signs), threshold))
            # An average of signs that is 0 cannot be told from one that was dropped.
            kept = update != 0 if threshold else np.ones(update.shape, bool)
            shares.append(kept.mean())
            patterns = [k for k in range(count + 1) if abs(count - 2 * k) >= count - 2 * agreeing]
            expected.append(sum(math.comb(count, k) for k in patterns) / 2**count)
        squares.append((np.mean(np.asarray(masked(jnp.asarray(signs))) ** 2), np.mean(signs.mean(0) ** 2)))
    yield Check(
        "and-mask-keeps-a-binomial-tail",
        "derived",
        "DO-6: of independent random signs a share P(|n - 2 Bin(n, 1/2)| >= tau n) of the entries is kept",
        np.array(shares),
        "==",
        np.array(expected),
        tolerance_float32=1e-6,
    )
    counts = np.arange(2.0, largest + 1)
    yield Check(
        "and-mask-damps-noise-exponentially",
        f"{PAPER}; exact rate derived",
        "DO-6: of random signs the mean square is 2^(1-n) after the mask, tau = 1, and 1 / n in the average",
        np.array(squares),
        "==",
        np.stack([2 ** (1 - counts), 1 / counts], axis=-1),
        tolerance_float32=1e-6,
    )


def every_domain_descends(gradients: jax.Array) -> Check:
    """DO-7: to first order, a step along the masked update raises no domain's loss."""
    products = gradients @ masked(gradients)
    return Check(
        "and-mask-suits-every-domain",
        "derived",
        "DO-7: tau = 1: g_e . u >= 0 for the update u and every domain e",
        products,
        ">=",
        0.0,
        scale=jnp.sum(gradients**2),
    )


def the_average_does_not() -> Check:
    """DO-7: two domains, one with the larger gradient."""
    gradients = jnp.array([[1.0, 1.0], [-5.0, 1.0]])
    products = gradients @ jnp.stack([masked(gradients, 0.0), masked(gradients)]).T
    return Check(
        "the-plain-average-suits-not-every-domain",
        "derived",
        "DO-7: NEGATIVE: (1, 1).u < 0 for u the average of (1, 1) and (-5, 1): -1; after the mask 1",
        products,
        "==",
        np.array([[-1.0, 1.0], [11.0, 1.0]]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def valleys(seed: int) -> Iterator[Check]:
    """DO-8: diagonal quadratics with one minimiser, flat in some directions of some domains."""
    rng = np.random.default_rng(seed)
    curvature = rng.uniform(0.1, 2, (20, 3, 8)) * (rng.uniform(size=(20, 3, 8)) < 0.8)
    away = rng.normal(size=(20, 1, 8))
    update = np.asarray(quick_jit(jax.vmap(masked))(jnp.asarray(curvature * away)))
    geometric = np.prod(curvature, axis=1) ** (1 / 3)
    expected = np.where(geometric > 0, (curvature * away).mean(1), 0)
    yield Check(
        "and-mask-keeps-what-no-domain-is-flat-in",
        f"{PAPER}; for diagonal quadratics",
        "DO-8: shared minimiser: the average where the curvatures' geometric mean is not 0, else nothing",
        update,
        "==",
        expected,
        tolerance_float32=1e-6,
    )
    scales = 10 ** rng.uniform(-2, 2, (20, 3, 1))
    gradients = rng.normal(size=(20, 3, 8))
    patterns = [
        np.asarray(quick_jit(jax.vmap(masked))(jnp.asarray(one))) != 0
        for one in (gradients, scales * gradients)
    ]
    yield Check(
        "and-mask-looks-at-signs-alone",
        "derived",
        "DO-9: the same entries are kept if each domain's gradient is scaled by a positive number",
        patterns[0].astype(float),
        "==",
        patterns[1].astype(float),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """DO-6 to DO-9."""
    yield from noise_dies_out()
    starts = (np.random.default_rng(seed).normal(size=(64, 3, 4)),)
    yield falsify.hill_climb(every_domain_descends, starts).check
    yield the_average_does_not()
    yield from valleys(seed)
