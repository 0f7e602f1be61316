"""Group DRO: exponentiated gradient ascent on the domains' weights, its regret, and the worst case."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jaxreg import penalties
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import maximum_over_simplex, quick_jit

PAPER = "Sagawa et al. (2020), Algorithm 1"
STEPS = 40


def gain(candidate: jax.Array, weights: jax.Array, losses: jax.Array, step_size: jax.Array) -> jax.Array:
    """``eta q.L - KL(q | weights)``, what one step maximises; ``weights`` positive."""
    divergence = jnp.sum(jax.scipy.special.rel_entr(candidate, weights))
    return step_size * candidate @ losses - divergence


def nothing_gains_more(free: jax.Array, start: jax.Array, losses: jax.Array, log_step: jax.Array) -> Check:
    """DO-1: the new weights are the best compromise of gain and distance."""
    old, step_size = jax.nn.softmax(start), jnp.exp(log_step)
    new = penalties.group_dro_weights(old, losses, step_size)
    best = gain(new, old, losses, step_size)
    return Check(
        "group-dro-step-is-a-maximum",
        "derived",
        "DO-1: eta q.L - KL(q | q_old) is nowhere larger on the simplex than at the new weights",
        gain(jax.nn.softmax(free), old, losses, step_size),
        "<=",
        best,
        scale=1 + jnp.abs(best),
        tolerance_float32=1e-5,
    )


def maximum_by_programming(seed: int, cases: int = 10) -> Iterator[Check]:
    """DO-1, DO-2: sequential programming over the simplex, and many steps at once."""
    rng = np.random.default_rng(seed)
    old, losses = rng.dirichlet(np.ones(4), cases), rng.normal(size=(cases, 4))
    rates = 10 ** rng.uniform(-1, 0.5, cases)
    new = np.asarray(
        quick_jit(jax.vmap(penalties.group_dro_weights))(*map(jnp.asarray, (old, losses, rates)))
    )
    attained = rates * (new * losses).sum(1) - special.rel_entr(new, old).sum(1)
    best = [
        maximum_over_simplex(lambda q, o=o, g=g: q @ g - special.rel_entr(np.abs(q), o).sum(), 4)
        for o, g in zip(old, rates[:, None] * losses, strict=True)
    ]
    yield Check(
        "group-dro-step-attains-the-maximum",
        "derived",
        "DO-1: the maximum of eta q.L - KL(q | q_old) over the simplex (SLSQP) is that of the new weights",
        attained,
        "==",
        np.array(best),
        scale=1 + np.abs(attained),
        tolerance=1e-8,
        tolerance_float32=1e-5,
    )
    sequences = jnp.asarray(rng.normal(size=(cases, STEPS, 4)))
    path = quick_jit(jax.vmap(ascended))(sequences, jnp.asarray(rates))
    yield Check(
        "group-dro-steps-add-up",
        "derived",
        "DO-2: from equal weights, t steps give softmax(eta (L^1 + ... + L^t))",
        path,
        "==",
        special.softmax(rates[:, None, None] * np.cumsum(np.asarray(sequences, float), axis=1), axis=-1),
        tolerance_float32=1e-4,
    )


def ascended(losses: jax.Array, step_size: jax.Array) -> jax.Array:
    """Weights after each of the losses ``[T, n]``, from equal ones, ``[T, n]``."""

    def step(weights: jax.Array, one: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = penalties.group_dro_weights(weights, one, step_size)
        return weights, weights

    return jax.lax.scan(step, jnp.full_like(losses[0], 1 / losses.shape[1]), losses)[1]


def regret(free: jax.Array, log_step: jax.Array, *, ahead: bool) -> Check:
    """DO-3, DO-4: how much the worst domain's total exceeds what the weights saw; losses in [0, 1]."""
    losses, step_size = jax.nn.sigmoid(free), jnp.exp(log_step)
    steps, count = losses.shape
    weights = ascended(losses, step_size)
    if not ahead:
        weights = jnp.concatenate([jnp.full_like(weights[:1], 1 / count), weights[:-1]])
    bound = jnp.log(count) / step_size + (0 if ahead else step_size * steps / 8)
    which = "after" if ahead else "before"
    return Check(
        f"group-dro-regret-{which}-the-step",
        "derived",
        "DO-3: weights after their step (Algorithm 1): max_e sum_t L_e^t - sum_t q^t.L^t <= log(n) / eta"
        if ahead
        else "DO-4: weights before their step, L in [0, 1]: that difference is <= log(n) / eta + eta T / 8",
        jnp.max(jnp.sum(losses, axis=0)) - jnp.sum(weights * losses),
        "<=",
        bound,
        scale=bound,
        tolerance_float32=1e-5,
    )


def worst_case_is_reached(seed: int, cases: int = 5, steps: int = 400) -> Iterator[Check]:
    """DO-5: half squared distances from a few points, whose least worst case is the centre of their ball."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(cases, 4, 2))
    step_size, rate = 0.05, 0.2

    def run(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        def losses_of(at: jax.Array) -> jax.Array:
            return jnp.sum((at - points) ** 2, axis=-1) / 2

        def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
            at, weights = carry
            weights = penalties.group_dro_weights(weights, losses_of(at), rate)
            gradient = jax.grad(lambda at: weights @ losses_of(at))(at)
            return (at - step_size * gradient, weights), (at, jnp.sum(gradient**2))

        start = jnp.zeros_like(points[0]), jnp.full_like(points[:, 0], 1 / len(points))
        _, (path, squares) = jax.lax.scan(step, start, length=steps)
        mean = jnp.mean(path, axis=0)
        return jnp.max(losses_of(mean)), jnp.mean(squares)

    worst, squares = (np.asarray(leaf, float) for leaf in quick_jit(jax.vmap(run))(jnp.asarray(centres)))
    optima = [_least_worst(points) for points in centres]
    best, distance = np.array([value for _, value in optima]), np.array([at @ at for at, _ in optima])
    allowed = np.log(4) / (rate * steps) + distance / (2 * step_size * steps) + step_size * squares / 2
    yield Check(
        "group-dro-reaches-the-least-worst-case",
        f"{PAPER}; exact bound derived",
        "DO-5: mean iterate, convex L: worst loss <= least + log(n)/(eta T) + |d|^2/(2 a T) + a/2 mean |g|^2",
        worst,
        "<=",
        best + allowed,
        scale=allowed,
        tolerance_float32=1e-4,
    )
    yield Check(
        "nothing-is-below-the-least-worst-case",
        "derived",
        "DO-5: and it is not below the optimum, found by sequential programming",
        worst,
        ">=",
        best,
        scale=best,
        tolerance=1e-8,
        tolerance_float32=1e-5,
    )


def _least_worst(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The point whose largest half squared distance is least, and that distance."""
    found = optimize.minimize(
        lambda v: v[-1],
        np.array([0.0, 0.0, 10.0]),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda v: v[-1] - ((v[:-1] - points) ** 2).sum(-1) / 2},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x[:-1], found.fun


def statements(seed: int) -> Iterator[Check]:
    """DO-1 to DO-5."""
    rng = np.random.default_rng(seed)
    starts = (*rng.normal(size=(3, 32, 4)), rng.normal(size=32))
    yield falsify.search(nothing_gains_more, starts).check
    yield from maximum_by_programming(seed)
    starts = 2 * rng.normal(size=(32, STEPS, 3)), rng.uniform(-2, 2, 32)
    for ahead in (True, False):
        yield falsify.search(lambda *case, a=ahead: regret(*case, ahead=a), starts).check
    yield from worst_case_is_reached(seed)
