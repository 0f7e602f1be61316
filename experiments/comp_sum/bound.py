"""The picture that the paper argues from: zero-one against surrogate estimation errors, with the bound.

The distribution is discrete and known, so that every risk is exact. The hypotheses are tables of scores.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import report
from jaxreg import losses
from jaxreg.theory import comp_sum, risk

_bound = jax.jit(comp_sum.inverse_transform, static_argnums=2)
_least = jax.jit(comp_sum.bayes_risk_bounded)

POINTS, CLASSES, HYPOTHESES, STEPS = 4, 3, 150, 60


@functools.partial(jax.jit, static_argnames="visits")
def estimation_errors(p: jax.Array, scores: jax.Array, tau: jax.Array, *, visits: int) -> tuple:
    """Errors of many tables of scores while they descend the surrogate risk.

    Args:
      p: class probabilities at equally likely points, shape ``[X, n]``.
      scores: the tables, shape ``[H, X, n]``.
      tau: member of the family, scalar.
      visits: how often the errors are measured.

    Returns:
      Surrogate and zero-one estimation errors, shape ``[visits, H]`` each.
    """
    best, right = jnp.mean(comp_sum.bayes_risk(p, tau)), jnp.mean(jnp.max(p, -1))

    def surrogate(table: jax.Array) -> jax.Array:
        return jnp.mean(risk.conditional_risk(losses.comp_sum, table, p, tau=tau)) - best

    def zero_one(table: jax.Array) -> jax.Array:
        predicted = jnp.take_along_axis(p, jnp.argmax(table, -1)[:, None], -1)
        return right - jnp.mean(predicted)

    def descend(tables: jax.Array, _) -> tuple:
        def step(tables, _):
            gradient = jax.vmap(jax.grad(surrogate))(tables)
            size = jnp.linalg.norm(gradient.reshape(len(tables), -1), axis=-1)[:, None, None]
            return tables - gradient / jnp.maximum(size, 1), None

        errors = jax.vmap(surrogate)(tables), jax.vmap(zero_one)(tables)
        return jax.lax.scan(step, tables, length=STEPS // visits)[0], errors

    return jax.lax.scan(descend, scores, length=visits)[1]


def picture(taus: tuple[float, ...]) -> tuple[report.Picture, float]:
    """The picture for some tau, and the least distance of any point from the bound (positive: below it)."""
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.dirichlet(np.full(CLASSES, 0.5), POINTS), jnp.float32)
    scores = jnp.asarray(2 * rng.standard_normal((HYPOTHESES, POINTS, CLASSES)), jnp.float32)
    drawn, axes = report.figure(len(taus), 2, width=3.0, height=2.8)
    slack = np.inf
    for column, tau in enumerate(taus):
        t, b = (
            np.asarray(error).ravel() for error in estimation_errors(p, scores, jnp.float32(tau), visits=6)
        )
        end = float(comp_sum.transform(1.0, tau, CLASSES))
        curve = np.linspace(0, 1.4 * end, 400)
        bound = np.asarray(_bound(jnp.asarray(curve, jnp.float32), jnp.float32(tau), CLASSES))
        slack = min(
            slack, float(np.min(_bound(jnp.asarray(np.maximum(t, 0)), jnp.float32(tau), CLASSES) - b))
        )
        _draw(axes[0, column], t, b, curve, bound, f"tau = {tau:g}")
        t, b = bounded_scores(rng, tau)
        end = float(comp_sum.transform(1.0, tau, 2))
        curve = np.linspace(0, 1.4 * end, 400)
        bound = np.asarray(_bound(jnp.asarray(curve, jnp.float32), jnp.float32(tau), 2))
        _draw(axes[1, column], t, b, curve, bound, "scores within 1/2, n = 2")
        axes[1, column].set_xlabel("surrogate estimation error")
    for row in (0, 1):
        axes[row, 0].set_ylabel("zero-one estimation error")
    drawn.tight_layout()
    caption = (
        f"Estimation errors of {HYPOTHESES} tables of scores while they descend the surrogate risk, on a "
        f"discrete "
        f"distribution with {POINTS} points and {CLASSES} classes where every risk is exact. The line is the "
        "H-consistency bound: all scores are allowed above, and no point lies over it. Below, scores are "
        "bounded by "
        "1/2 and the hypothesis set is not complete: tied scores at points with two classes lie over the "
        "line."
    )
    return report.Picture("estimation_errors", caption, report.png(drawn)), slack


def bounded_scores(rng: np.random.Generator, tau: float, bound: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Errors of tied scores at single points of two classes, relative to the best scores within the bound."""
    share = rng.uniform(0.5, 1, 60).astype(np.float32)
    p = jnp.stack([jnp.asarray(share), 1 - jnp.asarray(share)], -1)
    regret = comp_sum.phi(jnp.ones(60), tau) - _least(p, jnp.float32(tau), bound)
    return np.asarray(regret), 2 * share - 1


def _draw(axis, t, b, curve, bound, title) -> None:
    axis.plot(t, b, ".", color=report.COLOURS[2], markersize=3, alpha=0.5)
    axis.plot(curve, bound, color=report.COLOURS[1])
    axis.set(title=title, xlim=(0, curve[-1]), ylim=(0, 1.05))
