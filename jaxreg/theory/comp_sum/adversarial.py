"""The adversarial comp-sum losses: bounds of the adversarial mistake, the weight they need, consistency."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import attacks, losses
from jaxreg.theory import falsify, oracles
from jaxreg.theory.check import Check
from jaxreg.theory.comp_sum.losses import MAO, power
from jaxreg.theory.comp_sum.risks import phi
from jaxreg.theory.risk import loss_of_every_label


def adversarial_losses_are_their_definitions(rng: np.random.Generator) -> Check:
    """By NumPy, from the differences of the label's score and the others'."""
    clean, perturbed = 2 * rng.standard_normal((2, 40, 5))
    labels, taus, rho, nu = oracles.draw_labels(rng, 40, 5), (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), 1.5, 0.7

    def differences(scores: np.ndarray) -> np.ndarray:
        own = np.take_along_axis(scores, labels[:, None], -1)
        return (own - scores)[np.arange(5) != labels[:, None]].reshape(40, 4)

    before, after = differences(clean), differences(perturbed)
    distance = np.sqrt(np.square(after - before).sum(-1))
    clipped = np.clip(1 - after / rho, 0, 1).sum(-1)
    expected = [
        (power(clipped, tau), power(np.exp(-before / rho).sum(-1), tau) + nu * distance) for tau in taus
    ]

    def found(clean: jax.Array, perturbed: jax.Array, tau: jax.Array) -> jax.Array:
        margin = losses.margin_adversarial_comp_sum(perturbed, labels, tau=tau, rho=rho)
        smooth = losses.smooth_adversarial_comp_sum(clean, perturbed, labels, tau=tau, rho=rho, nu=nu)
        return jnp.stack([margin, smooth])

    values = oracles.whole(jax.vmap(found, (None, None, 0)), clean, perturbed, jnp.asarray(taus))
    return Check(
        "adversarial-losses-are-their-definitions",
        MAO,
        "Phi(sum Phi_rho(Delta')) and Phi(sum exp(-Delta / rho)) + nu ||Delta' - Delta||, six tau",
        values,
        "==",
        np.array(expected),
        scale=1 + np.abs(expected),
        tolerance_float32=1e-5,
    )


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


def smaller_weight_is_necessary() -> Check:
    """Scores that lead j classes by next to nothing, and are moved to a tie with them."""
    n, gap, taus = 6, 1e-5, np.array([0.0, 0.5, 1.0, 1.5, 2.0])[:, None]
    j = np.arange(1, n)[:, None]
    scores = np.where(np.arange(n) == 0, 0.0, np.where(np.arange(n) <= j, -gap, -40.0))
    tied = np.where(scores == -gap, 0.0, scores)

    def needed(tau: jax.Array) -> jax.Array:
        labels = jnp.zeros(n - 1, jnp.int32)
        margin = losses.margin_adversarial_comp_sum(tied, labels, tau=tau)
        return margin - losses.smooth_adversarial_comp_sum(scores, tied, labels, tau=tau, nu=0.0)

    j = j[:, 0]
    return Check(
        "smaller-weight-is-necessary",
        "derived",
        "as Delta -> 0+ on j classes, here 1e-5, l_rho <= l_smooth takes nu >= sqrt(j) (1 + j)^-tau / rho",
        oracles.whole(jax.vmap(needed), jnp.asarray(taus[:, 0])),
        "==",
        j * gap * (1.0 + j) ** -taus,
        scale=j * gap * (1.0 + j) ** -taus,
        tolerance=1e-4,
        tolerance_float32=1.0,
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
    yield adversarial_losses_are_their_definitions(rng)
    sizes = rng.choice([0.1, 1.0, 5.0], (2, 1000, 1))
    clean, moved = sizes * rng.standard_normal((2, 1000, 5))
    cases = clean, moved, rng.uniform(-1, 1, 1000), rng.uniform(0, 3, 1000)
    for claim in (mistake_is_bounded, smooth_loss_bounds_margin_loss, smaller_weight_suffices):
        yield falsify.search(claim, cases, steps=60).check
    yield smaller_weight_is_necessary()
    yield smaller_weight_fails_at_three(rng)
    points = rng.standard_normal((1000, 4)), 2 * rng.standard_normal((1000, 3, 4)), rng.uniform(0, 3, 1000)
    yield falsify.search(margin_loss_is_consistent, points, steps=60).check
    yield ascent_reaches_the_spectral_norm(rng)
