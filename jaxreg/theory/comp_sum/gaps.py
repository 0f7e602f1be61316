"""How the transforms of the comp-sum losses are evaluated, and the minimizability gaps."""

import decimal
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum.losses import MAO
from jaxreg.theory.comp_sum.risks import bayes_risk, phi
from jaxreg.theory.comp_sum.transforms import (
    inverse_transform,
    minimizability_gap,
    minimizability_gap_bound,
    simple_bound,
    transform,
)
from jaxreg.theory.risk import conditional_risk


def decimal_transform(beta: float, tau: float, n: int) -> float:
    """The textbook form of the transform for tau < 2 in 60 digits."""
    with decimal.localcontext() as context:
        context.prec = 60
        b, t, one = decimal.Decimal(beta), decimal.Decimal(tau), decimal.Decimal(1)
        if tau == 1:
            rest = (1 - b) * (1 - b).ln() if beta < 1 else decimal.Decimal(0)
            return float(((1 + b) * (1 + b).ln() + rest) / 2)
        a = one / (2 - t)
        rest = ((1 - b).ln() * a).exp() if beta < 1 else decimal.Decimal(0)
        m = (((1 + b).ln() * a).exp() + rest) / 2
        whole = (m.ln() * (2 - t)).exp() - 1
        factor = (decimal.Decimal(2 if tau < 1 else n).ln() * (1 - t)).exp()
        return float(factor * whole / (t - 1))


def transform_is_accurate() -> Check:
    """Relative to 60 digits, as b -> 0, by series and by logarithms, through tau = 1 and up to tau = 2."""
    taus = [0.0, 1e-9, 0.5, 0.9, 1 - 1e-7, 1 - 1e-10, 1.0, 1 + 1e-10, 1 + 1e-7, 1.1, 1.5, 1.9, 2 - 1e-6]
    # Also on both sides of where the series end: b = 0.01 at tau = 1, b max(a, 1) = 0.03 elsewhere.
    betas = np.r_[np.logspace(-12, 0, 25), 0.00299, 0.00301, 0.00999, 0.01001, 0.02999, 0.03001]
    # As the precision at hand holds them.
    dtype = jax.dtypes.canonicalize_dtype(float)
    taus, betas = (np.asarray(values, dtype) for values in (taus, betas))
    sizes = (7, 100_000)
    exact = np.array(
        [[[decimal_transform(float(b), float(tau), n) for b in betas] for tau in taus] for n in sizes]
    )
    return Check(
        "transform-is-accurate",
        "derived",
        "T in float64 against 60 digits, relative: b from 1e-12 to 1, |tau - 1| from 1e-10, n up to 1e5",
        jnp.stack([transform(betas, taus[:, None], n) for n in sizes]) / exact,
        "==",
        1.0,
        tolerance=1e-12,
        tolerance_float32=1e-4,
    )


def inverse_is_the_inverse() -> Check:
    """T(Gamma(t)) = t, relative to t, over 24 decades, T being accurate by ``transform_is_accurate``."""
    taus = [0.0, 1e-9, 0.3, 0.6, 0.9, 1 - 1e-9, 1.0, 1 + 1e-9, 1.2, 1.5, 1.8, 1.95, 1.999, 2.0, 3.0]
    column = np.array(taus)[:, None]
    share = np.r_[np.logspace(-24, -0.5, 48), 0.7, 0.9, 0.9999]

    def of_classes(n: int) -> jax.Array:
        t = share * transform(jnp.ones((len(taus), 1)), column, n)
        return transform(inverse_transform(t, column, n), column, n) / t

    return Check(
        "inverse-is-the-inverse",
        MAO,
        "T(Gamma(t)) = t for t / T(1) from 1e-24 to 0.9999, n up to 1e5",
        jnp.stack([of_classes(n) for n in (5, 100_000)]),
        "==",
        1.0,
        tolerance=1e-11,
        tolerance_float32=5e-2,
    )


def transform_is_convex(free: jax.Array, more: jax.Array, tau: jax.Array) -> Check:
    """On [0, 1], in units of its value at the right end; a tau beyond 4 counts as 4."""
    n, low, tau = 5, jax.nn.sigmoid(free), jnp.minimum(jnp.abs(tau), 4)
    high = low + (1 - low) * jax.nn.sigmoid(more)
    left, middle, right = (transform(beta, tau, n) for beta in (low, (low + high) / 2, high))
    return Check(
        "transform-is-convex",
        MAO,
        "T increases and is convex on [0, 1]",
        jnp.stack([left, middle]),
        "<=",
        jnp.stack([right, (left + right) / 2]),
        scale=right,
        tolerance_float32=1e-5,
    )


def transform_begins_as_a_square() -> Check:
    """As b -> 0, with the next order, b^2, below the tolerance."""
    n, beta, taus = 5, 1e-6, np.array([0.0, 0.3, 0.6, 0.9, 1.0, 1.2, 1.5, 1.8])
    factor = np.where(taus < 1, 2.0**taus, 2.0 * n ** (taus - 1)) * (2 - taus)
    return Check(
        "transform-begins-as-a-square",
        "derived",
        "T = b^2 / (2^tau (2 - tau)), b^2 / (2 n^(tau-1) (2 - tau)) as b -> 0: for tau <= 1 the simple bound",
        transform(jnp.full(len(taus), beta), taus, n) * factor / beta**2,
        "==",
        1.0,
        tolerance=1e-10,
        tolerance_float32=1e-5,
    )


def newton_is_quick() -> Check:
    """From the simple bound, which lies right of the root of a convex function."""
    taus = np.array([0.0, 0.3, 0.6, 0.9, 1.0, 1.2, 1.5, 1.8, 1.95])[:, None]
    t = np.r_[np.logspace(-10, -0.5, 20), 0.7, 0.9, 0.9999] * transform(jnp.ones((9, 1)), taus, 5)
    largest = 1 - max(1e-12, float(jnp.finfo(t.dtype).epsneg))  # at 1 the slope may be infinite
    beta = jnp.minimum(simple_bound(t, taus, 5), largest)

    def step(_: int, beta: jax.Array) -> jax.Array:
        value, slope = jax.jvp(lambda b: transform(b, taus, 5), (beta,), (jnp.ones_like(beta),))
        return jnp.minimum(beta - (value - t) / slope, largest)

    return Check(
        "newton-is-quick",
        "derived",
        "8 Newton steps from the simple bound solve T(b) = t to 1e-10, tau <= 1.95, t / T(1) from 1e-10",
        transform(jax.lax.fori_loop(0, 8, step, beta), taus, 5) / t,
        "==",
        1.0,
        tolerance=1e-10,
        tolerance_float32=5e-2,
    )


def closed_inverses() -> Check:
    """At tau = 0, 3/2 and from 2 on."""
    n, share = 5, np.linspace(0, 1, 21)
    ends = [transform(1.0, tau, n) for tau in (0.0, 1.5, 2.0, 3.0)]
    t = [share * end for end in ends]
    claimed = [
        jnp.sqrt(t[0] * (2 - t[0])),
        jnp.sqrt((1 + np.sqrt(n) * t[1] / 2) ** 2 - 1),
        n * t[2],
        2 * n**2 * t[3],
    ]
    found = [inverse_transform(t_tau, tau, n) for t_tau, tau in zip(t, (0.0, 1.5, 2.0, 3.0), strict=True)]
    return Check(
        "closed-inverses",
        MAO,
        "Gamma = sqrt(t (2 - t)), sqrt((1 + sqrt(n) t / 2)^2 - 1), (tau - 1) n^(tau-1) t at tau 0, 3/2, >= 2",
        jnp.stack(found),
        "==",
        jnp.minimum(jnp.stack(claimed), 1),
        tolerance=1e-7,  # a square root of rounding errors at 0
        tolerance_float32=1e-3,
    )


def gap_is_bounded(log_p: jax.Array, scores: jax.Array, tau: jax.Array) -> Check:
    """Finitely many hypotheses at finitely many points: least risks are minima.

    Args:
      log_p: of the classes at each point, shape ``[X, n]``.
      scores: of each hypothesis, shape ``[H, X, n]``.
      tau: its size counts.
    """
    p, tau = jax.nn.softmax(log_p), jnp.abs(tau)

    def risks(tau: jax.Array) -> jax.Array:
        return jax.vmap(lambda h: conditional_risk(losses.comp_sum, h, p, tau=tau))(scores)

    of_tau, exponential = risks(tau), risks(jnp.zeros_like(tau))
    pointwise = jnp.min(of_tau, 0)
    least = jnp.min(jnp.mean(of_tau, -1))
    gap = minimizability_gap(least, pointwise)
    bound = minimizability_gap_bound(jnp.min(jnp.mean(exponential, -1)), tau, pointwise)
    return Check(
        "gap-is-bounded",
        MAO,
        "any hypotheses, here three tables of scores: 0 <= M <= Phi(R*_0) - E C*(H), R* - E C*(all scores)",
        jnp.stack([jnp.zeros_like(gap), gap, gap]),
        "<=",
        jnp.stack([gap, bound, minimizability_gap(least, bayes_risk(p, tau))]),
        scale=1 + jnp.max(of_tau),
        tolerance_float32=1e-5,
    )


def gap_bound_decreases(
    log_least: jax.Array, log_excess: jax.Array, tau: jax.Array, more: jax.Array
) -> Check:
    """Deterministic labels and one least exponential risk at all points, tau to ``|tau| + |more|``."""
    least, low = jnp.exp(log_least), jnp.abs(tau)
    high, risk = low + jnp.abs(more), least + jnp.exp(log_excess)
    bounds = [minimizability_gap_bound(risk, t, phi(least, t)[None]) for t in (high, low)]
    return Check(
        "gap-bound-decreases",
        MAO,
        "deterministic labels, C*_0(H, x) = c: Phi^tau(R*_0) - Phi^tau(c) does not increase with tau",
        bounds[0],
        "<=",
        bounds[1],
        scale=1 + risk,
        tolerance_float32=1e-5,
    )


def gaps_of_linear_scores(rng: np.random.Generator) -> Check:
    """Linear scores with Frobenius norm at most 2 on 12 unit vectors, 3 classes, deterministic labels."""
    x = rng.standard_normal((12, 4))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    labels, taus = oracles.draw_labels(rng, 12, 3), np.array([0.0, 0.3, 0.6, 1.0, 1.4, 1.7, 2.0, 3.0])

    def risk(weights: jax.Array, tau: jax.Array) -> jax.Array:
        return jnp.mean(losses.comp_sum(jnp.asarray(x) @ weights, labels, tau=tau))

    def descend(tau: jax.Array, start: jax.Array) -> jax.Array:
        def step(weights: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = weights - size * jax.grad(risk)(weights, tau)
            moved *= jnp.minimum(1, 2 / jnp.linalg.norm(moved))
            return moved, risk(moved, tau)

        return jnp.min(jax.lax.scan(step, start, jnp.linspace(2, 0.1, 150))[1])

    starts = jnp.asarray(rng.standard_normal((4, 4, 3)))
    least = oracles.quick_jit(jax.vmap(lambda tau: jnp.min(jax.vmap(lambda w: descend(tau, w))(starts))))(
        jnp.asarray(taus)
    )
    pointwise = jnp.zeros(12)  # deterministic labels
    gaps = jnp.stack([minimizability_gap(value, pointwise) for value in least])
    bounds = jnp.stack([minimizability_gap_bound(least[0], tau, pointwise) for tau in taus])
    claim = "linear scores, ||W|| <= 2, deterministic labels: 0 <= M_tau <= Phi^tau(R*_0) - E C*_tau"
    both = jnp.stack([jnp.zeros_like(gaps), gaps]), jnp.stack([gaps, bounds])
    return Check(
        "gap-of-linear-scores", MAO, claim, both[0], "<=", both[1], tolerance=1e-9, tolerance_float32=1e-4
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module, on random inputs."""
    rng = np.random.default_rng(seed)
    yield oracles.whole(transform_is_accurate)
    yield oracles.whole(inverse_is_the_inverse)
    yield oracles.whole(newton_is_quick)
    yield oracles.whole(closed_inverses)
    yield oracles.whole(transform_begins_as_a_square)
    free = 3 * rng.standard_normal(500), 3 * rng.standard_normal(500), rng.uniform(0, 3, 500)
    yield falsify.search(transform_is_convex, free, steps=60).check
    yield gaps_of_linear_scores(rng)
    cases = (
        2 * rng.standard_normal((500, 3, 3)),
        2 * rng.standard_normal((500, 3, 3, 3)),
        rng.uniform(0, 3, 500),
    )
    yield falsify.search(gap_is_bounded, cases, steps=60).check
    lines = rng.uniform(-5, 4, 500), rng.uniform(-5, 4, 500), rng.uniform(0, 3, 500), rng.uniform(0, 2, 500)
    yield falsify.search(gap_bound_decreases, lines, steps=60).check
