"""How many steps it takes to separate: one inequality for all methods, and the bounds that follow from it."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.large_step.margin import hard_instance, slack_constant, steps_bound
from jaxreg.theory.large_step.methods import follow, separate
from jaxreg.theory.large_step.problems import Problems, draw, forced_separable
from jaxreg.theory.oracles import quick_jit

PAPER = "Tyurin (2025)"
SCALED_STEPS = np.array([0.1, 1.0, 10.0, 1e3, 1e6])


def weighted_margin_is_bounded(margins: jax.Array) -> Check:
    """The margin averaged with the slopes as weights exceeds the smallest one by at most ``c_n``."""
    weights = jax.nn.softmax(-jax.nn.softplus(margins))
    return Check(
        "weighted-margin-is-bounded",
        "derived",
        "sum p_i m_i <= max(min m_i, 0) + c_n with c_n = 2(n-1)/(2n-1) W((2n-1)/e)",
        jnp.sum(weights * margins),
        "<=",
        jnp.maximum(margins.min(), 0) + float(slack_constant(margins.shape[-1])),
        scale=1 + jnp.abs(margins).max(),
        tolerance_float32=1e-5,
    )


def constants_are_maxima(rows: tuple[int, ...]) -> Check:
    """The constants are the maxima that they stand for."""

    def largest(function) -> float:
        return -optimize.minimize_scalar(lambda m: -function(m), bounds=(0, 40), method="bounded",
                                         options={"xatol": 1e-12}).fun  # fmt: skip

    def weighted(n: int):
        return lambda m: (n - 1) * special.expit(-m) * m / ((n - 1) * special.expit(-m) + 0.5)

    found = [largest(weighted(n)) for n in rows] + [largest(lambda m: m * special.expit(-m))]
    claimed = [*slack_constant(np.array(rows)), special.lambertw(1 / np.e).real]
    return Check(
        "constants-are-maxima",
        "derived",
        "c_n is attained with one margin 0 and the others equal; max m sigmoid(-m) = W(1/e)",
        np.array(found),
        "==",
        np.array(claimed),
        tolerance=1e-9,  # the accuracy of the search
        tolerance_float32=1e-5,
    )


def master_inequality(
    examples: jax.Array,
    radius: jax.Array,
    margin: jax.Array,
    step_size: jax.Array,
    *,
    method: str,
    steps: int,
) -> Check:
    """What every method of the form ``theta += alpha sum p_i x_i`` obeys while it has not separated."""
    path = follow(examples, step_size, method, steps)
    total, squares = jnp.cumsum(path.advances), jnp.cumsum(path.advances**2)
    # A perceptron's weighted margin is never positive.
    constant = 0.0 if "perceptron" in method else float(slack_constant(examples.shape[0]))
    right = radius**2 * squares + 2 * constant * total
    return Check(
        f"master-inequality-{method}",
        "derived",
        "before separation mu^2 (sum alpha)^2 <= R^2 sum alpha^2 + 2 c_n sum alpha (c_n = 0 for perceptrons)",
        margin**2 * total**2,
        "<=",
        right,
        scale=right,
        tolerance=1e-9,
    )


def arbitrary_advances(
    examples: jax.Array, radius: jax.Array, margin: jax.Array, advances: jax.Array
) -> Check:
    """The same for advances that no method would choose."""

    def step(carry: tuple, advance: jax.Array) -> tuple:
        iterate, separated = carry
        margins = examples @ iterate
        separated = separated | jnp.all(margins > 0)
        taken = jnp.where(separated, 0.0, advance)
        move = jax.nn.softmax(-jax.nn.softplus(margins)) @ examples
        return (iterate + taken * move, separated), taken

    _, taken = jax.lax.scan(
        step, (jnp.zeros(examples.shape[1], examples.dtype), jnp.zeros((), bool)), advances
    )
    total, squares = jnp.cumsum(taken), jnp.cumsum(taken**2)
    right = radius**2 * squares + 2 * float(slack_constant(examples.shape[0])) * total
    return Check(
        "master-inequality-any-advance",
        "derived",
        "before separation mu^2 (sum alpha)^2 <= R^2 sum alpha^2 + 2 c_n sum alpha for any alpha > 0",
        margin**2 * total**2,
        "<=",
        right,
        scale=right,
        tolerance=1e-9,
    )


def steps_are_bounded(problems: Problems, method: str, source: str, max_steps: int = 30_000) -> Check:
    """Steps before the first separating iterate, for random problems and step sizes over seven decades."""
    rows = problems.examples.shape[1]
    sizes = jnp.asarray(SCALED_STEPS) / problems.radius[:, None] ** 2
    ones = jnp.ones(rows, jnp.int32)

    def counts(examples: jax.Array, size: jax.Array) -> jax.Array:
        return separate(examples, ones, method=method, step_size=size, max_steps=max_steps).count  # pyright: ignore

    found = np.asarray(quick_jit(jax.vmap(counts))(problems.examples, sizes), np.float64)
    bound = np.stack([steps_bound(method, rows, float(rho), SCALED_STEPS) for rho in problems.rho])
    statement = {
        "logistic_gd": "T <= min{n rho (1 + 1/2n + x)^2 / 2, 2 n rho (1 + x)}, x = 2 c_n / (gamma R^2)",
        "adaptive_logistic": "the steps eta / (1 - exp(-L)) obey the bound of gradient descent",
        "batch_perceptron": "T <= rho (2n + 1)^2 / (8n) with ties counted half",
        "normalized_logistic_gd": "T <= R^2 / mu^2 + 2 c_n / (gamma mu^2)",
        "normalized_perceptron": "T <= R^2 / mu^2",
    }[method]
    name = f"steps-are-bounded-{method}"
    return Check(name, source, statement, found, "<=", bound, scale=bound, tolerance=1e-6)


def steps_are_bounded_from_anywhere(problems: Problems, starts: jax.Array, steps: int) -> Check:
    """The bound of the normalized method from another start than 0, in units of the inverse step size."""

    def count(examples: jax.Array, size: jax.Array, start: jax.Array) -> jax.Array:
        return follow(examples, size, "normalized_logistic_gd", steps, start=start).first

    size = 1 / problems.radius**2
    found = quick_jit(jax.vmap(count))(problems.examples, size, starts)
    constant = float(slack_constant(problems.examples.shape[1]))
    excess = 2 * constant / (size * problems.margin**2)
    distance = 2 * jnp.linalg.norm(starts, axis=-1) / (size * problems.margin)
    bound = problems.rho + excess + distance
    return Check(
        "steps-are-bounded-from-anywhere",
        "derived",
        "normalized: T <= R^2 / mu^2 + 2 c_n / (gamma mu^2) + 2 |theta_0| / (gamma mu)",
        found.astype(bound.dtype),
        "<=",
        bound,
        scale=bound,
    )


def hard_instance_counts(sizes: tuple[int, ...]) -> Check:
    """The instance on which normalizing saves a factor of n / 2, to the last step."""
    found, claimed = [], []
    for n in sizes:
        for radius, small, cosine in ((1.0, 1.0, 0.5), (1.0, 0.25, 0.5), (1.0, 0.125, 0.75)):
            features, labels = hard_instance(n, radius=radius, small_radius=small, cosine=cosine)
            ratio = (n - 1) * radius * cosine / small
            for method, share in (("batch_perceptron", 2), ("normalized_perceptron", n)):
                found.append(int(separate(features, labels, method=method, max_steps=100_000).count))  # pyright: ignore
                claimed.append(2 + int((ratio - 1) // share))
    return Check(
        "hard-instance-counts",
        "derived",
        "n - 1 equal rows and an opposed one: T = 2 + [(q(n-1) - 1) / 2], normalized 2 + [(q(n-1) - 1) / n]",
        np.array(found, np.float64),
        "==",
        np.array(claimed, np.float64),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def hard_instance_251_against_2() -> Check:
    """Gradient descent and the batch perceptron against the normalized methods at n = 1000, rho = 4."""
    features, labels = hard_instance(1000)
    methods = ("logistic_gd", "batch_perceptron", "normalized_logistic_gd", "normalized_perceptron")
    found = [int(separate(features, labels, method=m, step_size=1e6).count) for m in methods]  # pyright: ignore
    return Check(
        "hard-instance-251-against-2",
        "derived",
        "n = 1000, R^2 / mu^2 = 4, gamma = 1e6: 251 steps, normalized 2",
        np.array(found, np.float64),
        "==",
        np.array([251.0, 251.0, 2.0, 2.0]),
        tolerance=0.0,
        tolerance_float32=0.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """Constants, the master inequality, and the bounds on the number of steps."""
    rng = np.random.default_rng(seed)
    yield constants_are_maxima((2, 3, 10, 100, 1000))
    yield falsify.search(weighted_margin_is_bounded, (rng.normal(1, 2, (200, 6)),)).check

    problems = draw(seed, 200)
    shape = (rng.uniform(-2, 6, 200),)
    sizes = 10 ** jnp.asarray(*shape) / problems.radius**2
    for method in ("logistic_gd", "normalized_logistic_gd", "adaptive_logistic", "batch_perceptron"):
        yield falsify.evaluate(
            lambda x, r, m, g, method=method: master_inequality(x, r, m, g, method=method, steps=60),
            (*problems, sizes),
        )
    yield falsify.search(
        lambda free, advances: arbitrary_advances(*forced_separable(free), jnp.exp(advances)),
        (rng.normal(0, 1, (100, 6, 3)), rng.normal(0, 1, (100, 8))),
    ).check
    yield steps_are_bounded(problems, "batch_perceptron", "derived")
    yield steps_are_bounded(problems, "logistic_gd", "derived")
    yield steps_are_bounded(problems, "adaptive_logistic", "derived")
    yield steps_are_bounded(problems, "normalized_logistic_gd", f"{PAPER}, rate")
    yield steps_are_bounded(problems, "normalized_perceptron", PAPER)
    starts = jnp.asarray(rng.normal(0, 10, (200, 3))) / problems.radius[:, None]
    yield steps_are_bounded_from_anywhere(problems, starts, 2000)
    yield hard_instance_251_against_2()
    yield hard_instance_counts((10, 100, 1000, 10_000))
