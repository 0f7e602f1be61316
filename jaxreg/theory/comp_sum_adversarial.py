"""The adversarial comp-sum losses: bounds of the adversarial mistake, the weight they need, consistency.

Also here, since they too concern hypothesis sets that are not complete: the evaluation of the transforms and
the minimizability gaps.
"""

import decimal
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import attacks, losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum_losses import MAO
from jaxreg.theory.comp_sum_risks import phi
from jaxreg.theory.comp_sum_transforms import (
    inverse_transform,
    minimizability_gap,
    minimizability_gap_bound,
    transform,
)
from jaxreg.theory.risk import loss_of_every_label


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
    """Relative to 60 digits, as b -> 0 and through tau = 1."""
    taus = [0.0, 0.5, 0.9, 1 - 1e-7, 1 - 1e-10, 1.0, 1 + 1e-10, 1 + 1e-7, 1.1, 1.5, 1.9]
    betas = np.logspace(-4, 0, 17)
    exact = np.array([[decimal_transform(float(b), tau, 7) for b in betas] for tau in taus])
    return Check(
        "transform-is-accurate",
        "derived",
        "T in float64 against decimal arithmetic, relative: b from 1e-4 to 1, |tau - 1| down to 1e-10",
        transform(betas, np.array(taus)[:, None], 7) / exact,
        "==",
        1.0,
        tolerance=4e-12,
        tolerance_float32=5e-3,
    )


def inverse_is_the_inverse() -> Check:
    """T(Gamma(t)) = t, relative to t, over ten decades."""
    taus = np.array([0.0, 0.3, 0.6, 0.9, 1.0, 1.2, 1.5, 1.8, 1.95, 2.0, 3.0])[:, None]
    share = np.r_[np.logspace(-10, -0.5, 20), 0.7, 0.9, 0.9999]
    t = share * transform(jnp.ones((len(taus), 1)), taus, 5)
    return Check(
        "inverse-is-the-inverse",
        MAO,
        "T(Gamma(t)) = t for t / T(1) from 1e-10 to 0.9999",
        transform(inverse_transform(t, taus, 5), taus, 5) / t,
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


def gaps_of_linear_scores(rng: np.random.Generator) -> list[Check]:
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

        return jnp.min(jax.lax.scan(step, start, jnp.linspace(2, 0.1, 400))[1])

    starts = jnp.asarray(rng.standard_normal((6, 4, 3)))
    least = oracles.quick_jit(jax.vmap(lambda tau: jnp.min(jax.vmap(lambda w: descend(tau, w))(starts))))(
        jnp.asarray(taus)
    )
    pointwise = jnp.zeros(12)  # deterministic labels
    gaps = jnp.stack([minimizability_gap(value, pointwise) for value in least])
    bounds = jnp.stack([minimizability_gap_bound(least[0], tau, pointwise) for tau in taus])
    claim = "linear scores, ||W|| <= 2, deterministic labels: 0 <= M_tau <= Phi^tau(R*_0) - E C*_tau"
    both = jnp.stack([jnp.zeros_like(gaps), gaps]), jnp.stack([gaps, bounds])
    checks = [
        Check("gap-is-bounded", MAO, claim, both[0], "<=", both[1], tolerance=1e-9, tolerance_float32=1e-4)
    ]
    claim = "this bound of the gap does not increase with tau"
    checks.append(
        Check("gap-bound-decreases", MAO, claim, bounds[1:], "<=", bounds[:-1], tolerance_float32=1e-5)
    )
    return checks


def _case(clean: jax.Array, moved: jax.Array, log_rho: jax.Array, tau: jax.Array) -> tuple:
    """Scores, label 0, rho and tau of a case that a search moves freely."""
    return clean, clean + moved, jnp.zeros((), jnp.int32), jnp.exp(log_rho), jnp.abs(tau)


def mistake_is_bounded(clean: jax.Array, moved: jax.Array, log_rho: jax.Array, tau: jax.Array) -> Check:
    """The adversarial zero-one loss by the margin loss, at the same perturbation."""
    _, perturbed, label, rho, tau = _case(clean, moved, log_rho, tau)
    loss = losses.margin_adversarial_comp_sum(perturbed, label, tau=tau, rho=rho)
    mistake = (attacks.score_margin(perturbed, label) >= 0).astype(loss.dtype)
    n = clean.shape[-1]
    return Check(
        "mistake-is-bounded-by-the-margin-loss",
        MAO,
        "1[mistake] Phi^tau(1) <= l_rho <= Phi^tau(n - 1), at the same perturbation",
        jnp.stack([mistake * phi(1.0, tau), loss]),
        "<=",
        jnp.stack([loss, phi(n - 1.0, tau)]),
        tolerance_float32=1e-5,
    )


def smooth_loss_bounds_margin_loss(
    clean: jax.Array, moved: jax.Array, log_rho: jax.Array, tau: jax.Array
) -> Check:
    """With the weight sqrt(n - 1) / rho, for any tau >= 0, and through the middle term."""
    clean, perturbed, label, rho, tau = _case(clean, moved, log_rho, tau)
    nu = jnp.sqrt(clean.shape[-1] - 1.0) / rho
    margin = losses.margin_adversarial_comp_sum(perturbed, label, tau=tau, rho=rho)
    smooth = losses.smooth_adversarial_comp_sum(clean, perturbed, label, tau=tau, rho=rho, nu=nu)
    distance = smooth - losses.smooth_adversarial_comp_sum(clean, perturbed, label, tau=tau, rho=rho, nu=0.0)
    middle = losses.margin_adversarial_comp_sum(clean, label, tau=tau, rho=rho) + distance
    return Check(
        "smooth-loss-bounds-margin-loss",
        MAO,
        "l_rho <= Phi(sum Phi_rho(Delta)) + nu ||Delta' - Delta|| <= l_smooth for nu = sqrt(n - 1) / rho",
        jnp.stack([margin, middle]),
        "<=",
        jnp.stack([middle, smooth]),
        scale=1 + jnp.abs(smooth),
        tolerance_float32=1e-5,
    )


def smaller_weight_suffices(
    clean: jax.Array, moved: jax.Array, log_rho: jax.Array, tau: jax.Array, *, largest: float = 2.0
) -> Check:
    """With the weight max_j sqrt(j) (1 + j)^-tau / rho, for tau up to ``largest``."""
    clean, perturbed, label, rho, tau = _case(clean, moved, log_rho, jnp.minimum(jnp.abs(tau), largest))
    j = jnp.arange(1.0, clean.shape[-1], dtype=clean.dtype)
    nu = jnp.max(jnp.sqrt(j) * (1 + j) ** -tau) / rho
    margin = losses.margin_adversarial_comp_sum(perturbed, label, tau=tau, rho=rho)
    smooth = losses.smooth_adversarial_comp_sum(clean, perturbed, label, tau=tau, rho=rho, nu=nu)
    return Check(
        "smaller-weight-suffices",
        "derived",
        "0 <= tau <= 2: l_rho <= l_smooth already for nu = max_j sqrt(j) (1 + j)^-tau / rho (numerical)",
        margin,
        "<=",
        smooth,
        scale=1 + jnp.abs(smooth),
        tolerance_float32=1e-5,
    )


def smaller_weight_fails_at_three(rng: np.random.Generator) -> Check:
    """The search finds a violation at tau = 3."""

    def claim(clean: jax.Array, moved: jax.Array) -> Check:
        zero, three = jnp.zeros((), clean.dtype), jnp.full((), 3.0, clean.dtype)
        return smaller_weight_suffices(clean, moved, zero, three, largest=3.0)

    starts = rng.uniform(-0.5, 0.5, (400, 2)), rng.uniform(-0.5, 0.5, (400, 2))
    found = falsify.search(claim, starts, steps=300, step_size=0.02)
    return Check(
        "smaller-weight-fails-at-three",
        "derived",
        "NEGATIVE: at tau = 3 that smaller weight is too small; the search exhibits a violation",
        found.violation,
        ">=",
        1e-3,
        tolerance_float32=0.0,
    )


def margin_loss_is_consistent(log_p: jax.Array, scores: jax.Array, tau: jax.Array) -> Check:
    """The adversarial regrets at a point, the supremum over some perturbations.

    Args:
      log_p: of the classes, shape ``[n]``.
      scores: at each perturbation of the input, shape ``[P, n]``.
      tau: its size counts.
    """
    p, tau = jax.nn.softmax(log_p), jnp.abs(tau)
    n = p.shape[-1]

    def of_labels(loss) -> jax.Array:
        return jnp.max(loss_of_every_label(loss, scores), axis=0)

    margin = of_labels(lambda h, y: losses.margin_adversarial_comp_sum(h, y, tau=tau))
    mistake = of_labels(lambda h, y: (attacks.score_margin(h, y) >= 0).astype(p.dtype))
    ranked = jnp.flip(jnp.sort(p))
    best = jnp.sum(ranked * phi(jnp.arange(n, dtype=p.dtype), tau))
    zero_one = jnp.sum(p * mistake) - (1 - ranked[0])
    return Check(
        "margin-loss-is-consistent",
        MAO,
        "Phi^tau(1) (adversarial 0-1 regret) <= adversarial margin regret, C*_rho = sum p_(j) Phi^tau(j - 1)",
        phi(1.0, tau) * zero_one,
        "<=",
        jnp.sum(p * margin) - best,
        tolerance_float32=1e-5,
    )


def ascent_reaches_the_spectral_norm(rng: np.random.Generator) -> Check:
    """Linear scores on an l2 ball: the distance of the score differences is a largest singular value."""
    weights, inputs = rng.standard_normal((8, 5)), rng.standard_normal((16, 8))
    labels = jnp.asarray(oracles.draw_labels(rng, 16, 5))

    def moved(x: jax.Array) -> jax.Array:
        change = (x - inputs) @ weights
        own = jnp.take_along_axis(change, labels[:, None], -1)
        return jnp.sum(jnp.square(own - change), -1)

    def reached(x: jax.Array) -> jax.Array:
        found = attacks.projected_gradient_ascent(
            moved, x, jax.random.key(0), radius=0.3, step_size=1.0, steps=300, norm="l_2"
        )
        return jnp.sqrt(moved(found))

    singular = [np.linalg.norm(weights[:, [label]] - weights, 2) for label in np.asarray(labels)]
    return Check(
        "ascent-reaches-the-spectral-norm",
        "derived",
        "linear scores, l2 ball: ascent of ||Delta' - Delta||^2 from a random start ends at eps sigma_max",
        oracles.whole(reached, inputs),
        "==",
        0.3 * np.array(singular),
        tolerance=1e-5,  # the power method's
        tolerance_float32=1e-3,
    )


def statements(seed: int) -> Iterator[Check]:
    """The statements of this module, on random inputs."""
    rng = np.random.default_rng(seed)
    yield oracles.whole(transform_is_accurate)
    yield oracles.whole(inverse_is_the_inverse)
    yield oracles.whole(closed_inverses)
    yield from gaps_of_linear_scores(rng)
    sizes = rng.choice([0.1, 1.0, 5.0], (2, 1000, 1))
    clean, moved = sizes * rng.standard_normal((2, 1000, 5))
    cases = clean, moved, rng.uniform(-1, 1, 1000), rng.uniform(0, 3, 1000)
    for claim in (mistake_is_bounded, smooth_loss_bounds_margin_loss, smaller_weight_suffices):
        yield falsify.search(claim, cases, steps=60).check
    yield smaller_weight_fails_at_three(rng)
    points = rng.standard_normal((1000, 4)), 2 * rng.standard_normal((1000, 3, 4)), rng.uniform(0, 3, 1000)
    yield falsify.search(margin_loss_is_consistent, points, steps=60).check
    yield ascent_reaches_the_spectral_norm(rng)
