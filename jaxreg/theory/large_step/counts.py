"""Counts of steps for minibatches and for many classes, and searches for problems that need more."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.large_step.margin import max_margin, slack_constant, steps_bound
from jaxreg.theory.large_step.methods import follow
from jaxreg.theory.large_step.problems import draw, forced_separable
from jaxreg.theory.oracles import quick_jit

PAPER = "Tyurin (2025)"
HORIZON = 60  # steps after which a count is cut off, and is still a lower bound of itself


def gated_updates(examples: jax.Array, size: jax.Array, chosen: jax.Array) -> jax.Array:
    """Updates that are made on the batches ``chosen [calls, B]``: only if a batch has a mistake."""

    def step(carry: tuple, index: jax.Array) -> tuple:
        iterate, count = carry
        margins = examples[index] @ iterate
        gate = jnp.any(margins <= 0)
        move = jax.nn.softmax(-jax.nn.softplus(margins)) @ examples[index]
        return (iterate + jnp.where(gate, size, 0.0) * move, count + gate), None

    start = (jnp.zeros(examples.shape[1], examples.dtype), jnp.int32(0))
    return jax.lax.scan(step, start, chosen)[0][1]


def gated_updates_are_bounded(
    examples: jax.Array,
    radius: jax.Array,
    margin: jax.Array,
    log_step: jax.Array,
    chosen: jax.Array,
    *,
    name: str = "",
) -> Check:
    """Minibatches: updates that are made only if the batch has a mistake, at step ``exp(log_step) / R^2``."""
    scaled = jnp.exp(log_step)
    found = gated_updates(examples, scaled / radius**2, chosen)
    bound = (radius / margin) ** 2 * (1 + 2 * float(slack_constant(chosen.shape[-1])) / scaled)
    return Check(
        f"gated-updates-are-bounded{name}",
        "derived",
        "normalized, batches of B, fitted batches skipped: updates <= rho + 2 c_B / (gamma mu^2)",
        found.astype(bound.dtype),
        "<=",
        bound,
        scale=bound,
        tolerance=1e-6,
    )


def steps_are_bounded(free: jax.Array, log_step: jax.Array, *, method: str, source: str = "derived") -> Check:
    """Steps of one problem at step size ``exp(log_step) / R^2``, counted up to ``HORIZON``."""
    examples, radius, margin = forced_separable(free)
    scaled = jnp.exp(log_step)
    found = follow(examples, scaled / radius**2, method, HORIZON).first
    bound = steps_bound(method, examples.shape[0], (radius / margin) ** 2, scaled, numpy=jnp)
    return Check(
        f"steps-are-bounded-{method}-attacked",
        source,
        "the bound on the number of steps survives a search for the problem that comes closest",
        found.astype(bound.dtype),
        "<=",
        bound,
        scale=bound,
        tolerance=1e-6,
    )


def head_steps(inputs: jax.Array, labels: jax.Array, classes: int, steps: int) -> jax.Array:
    """Steps to separation of a softmax head from 0 in the limit of large steps, ties split evenly."""
    onehot = jax.nn.one_hot(labels, classes, dtype=inputs.dtype)

    def step(carry: tuple, _: None) -> tuple:
        head, done, count = carry
        scores = inputs @ head
        best = scores == scores.max(-1, keepdims=True)
        p = best / best.sum(-1, keepdims=True)
        done = done | jnp.all(p == onehot)
        slopes = 1 - jnp.sum(p * onehot, -1)
        move = inputs.T @ (onehot - p) / jnp.where(done, 1.0, slopes.sum())
        return (jnp.where(done, head, head + move), done, count + ~done), None

    start = (jnp.zeros((inputs.shape[1], classes), inputs.dtype), jnp.zeros((), bool), jnp.int32(0))
    return jax.lax.scan(step, start, length=steps)[0][2]


def multiclass_steps_are_bounded(
    inputs: jax.Array, margin: jax.Array, *, labels: np.ndarray, name: str = "", steps: int = 400
) -> Check:
    """A softmax head, normalized by the mean slope."""
    radius = jnp.sqrt(jnp.sum(inputs**2, axis=-1).max())
    bound = 2 * (radius / margin) ** 2
    found = head_steps(inputs, jnp.asarray(labels), int(labels.max()) + 1, steps)
    return Check(
        f"multiclass-steps-are-bounded{name}",
        "derived",
        "softmax head, gamma -> inf, ties split evenly, divided by the mean slope: T <= 2 R^2 / mu^2",
        found.astype(bound.dtype),
        "<=",
        bound,
        scale=bound,
        tolerance=1e-6,
    )


def multiclass_problems(
    seed: int, cases: int, *, rows: int = 9, features: int = 4, classes: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs ``[cases, rows, features]``, labels ``[rows]``, and the best margin of a head of norm 1.

    The margin is that of the vectors (e_y - e_k) z_i over all wrong classes k, as two classes.
    """
    rng, found, margins = np.random.default_rng(seed), [], []
    labels = np.arange(rows) % classes
    identity = np.eye(classes)
    while len(found) < cases:
        inputs = (2 * rng.normal(size=(classes, features)))[labels] + rng.normal(size=(rows, features))
        pairs = [
            np.outer(identity[y] - identity[k], z).ravel()
            for z, y in zip(inputs, labels, strict=True)
            for k in range(classes)
            if k != y
        ]
        margin = max_margin(np.array(pairs), np.ones(len(pairs), int))
        if margin:
            found.append(inputs)
            margins.append(margin)
    return np.stack(found), labels, np.array(margins)


def forced_multiclass(free: jax.Array, labels: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Inputs whose first entries favour their class, and the margin of the head that reads them off."""
    classes = int(labels.max()) + 1
    own = jnp.asarray(np.eye(classes)[labels], bool)
    others = jnp.where(own, -jnp.inf, free[:, :classes]).max(-1, keepdims=True)
    lead = jax.nn.softplus(jnp.where(own, free[:, :classes], 0).sum(-1, keepdims=True)) + 0.05
    head = jnp.where(own, others + lead, free[:, :classes])
    return jnp.concatenate([head, free[:, classes:]], -1), lead.min() / np.sqrt(classes)


def quotients_of_shards_may_never_separate(seed: int, cases: int = 200, steps: int = 5000) -> Iterator[Check]:
    """Two shards that average their own steps: a shard without mistakes keeps moving at full length.

    Eight rows in three dimensions on one side of a random plane, of lengths over three orders of magnitude;
    the shards are unlike, the lower and the upper half of the rows by the first feature.
    """
    rng = np.random.default_rng(seed)
    normals, rows = rng.normal(size=(cases, 1, 3)), rng.normal(size=(cases, 8, 3))
    rows *= np.sign(np.sum(rows * normals, -1, keepdims=True)) * 10 ** rng.uniform(-1.5, 1.5, (cases, 8, 1))
    parts = jnp.asarray(np.take_along_axis(rows, np.argsort(rows[..., :1], 1), 1).reshape(cases, 2, 4, 3))

    def separated(move: Callable[[jax.Array], jax.Array]) -> jax.Array:
        def step(carry: tuple, _: None) -> tuple:
            iterates, before = carry
            margins = jnp.einsum("csnd,cd->csn", parts, iterates)
            now = before | jnp.all(margins > 0, axis=(1, 2))
            moved = jnp.einsum("csn,csnd->cd", move(-jax.nn.softplus(margins)), parts)
            return (jnp.where(now[:, None], iterates, iterates + 1e4 * moved), now), None

        start = jnp.zeros((cases, 3), parts.dtype), jnp.zeros(cases, bool)
        return jax.lax.scan(step, start, length=steps)[0][1]

    own, together = quick_jit(
        lambda: (
            separated(lambda logarithms: jax.nn.softmax(logarithms, -1) / 2),
            separated(lambda logarithms: jax.nn.softmax(logarithms, (-2, -1))),
        )
    )()
    yield Check(
        "quotients-of-shards-may-never-separate",
        "derived",
        f"NEGATIVE: of {cases} separable problems in two shards, {steps} steps leave one in twenty or more",
        jnp.sum(~own).astype(float),
        ">=",
        cases / 20,
        tolerance_float32=0.0,
    )
    yield Check(
        "sums-of-shards-separate",
        "derived",
        f"numerators and denominators averaged separately leave none of these problems in {steps} steps",
        jnp.sum(~together).astype(float),
        "==",
        0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """Random problems, and searches from them."""
    rng = np.random.default_rng(seed)
    free = rng.normal(0, 1, (60, 6, 3))
    log_step = rng.uniform(-2, 8, 60)
    sources = {"normalized_logistic_gd": f"{PAPER}, rate", "normalized_perceptron": PAPER}
    for method in ("batch_perceptron", "logistic_gd", "normalized_logistic_gd", "normalized_perceptron"):
        claim = functools.partial(steps_are_bounded, method=method, source=sources.get(method, "derived"))
        yield falsify.hill_climb(claim, (free, log_step), seed=seed).check
    batches = rng.integers(6, size=(60, 200, 3))
    yield falsify.hill_climb(
        lambda free, log_step, chosen: gated_updates_are_bounded(
            *forced_separable(free), log_step, chosen, name="-attacked"
        ),
        (free, log_step, batches),
        steps=100,
        seed=seed,
    ).check
    yield from quotients_of_shards_may_never_separate(seed)
    problems = draw(seed + 2, 60)
    chosen = rng.integers(problems.examples.shape[1], size=(60, 400, 4))
    scaled = np.log(np.where(np.arange(60) % 2, 1.0, 1e6))
    yield falsify.evaluate(gated_updates_are_bounded, (*problems, scaled, chosen))
    inputs, labels, margins = multiclass_problems(seed, 100)
    yield falsify.evaluate(functools.partial(multiclass_steps_are_bounded, labels=labels), (inputs, margins))
    yield falsify.hill_climb(
        lambda free: multiclass_steps_are_bounded(
            *forced_multiclass(free, labels), labels=labels, name="-attacked", steps=HORIZON
        ),
        (rng.normal(0, 1, (60, 9, 4)),),
        seed=seed,
    ).check
