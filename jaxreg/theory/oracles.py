"""Independent solvers that the suites compare with: nothing here uses the code under test."""

import decimal
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

FAR = 700.0  # a score gap beyond which float64's exp is 0 or inf


def quick_jit(function: Callable, **options: Any) -> Callable:
    """``jax.jit`` for a function that runs once or on little: compiling takes longer than running then.

    The optimiser has no part in what a function means, so this is for statements and oracles; how accurate
    a loss is in a user's program is measured by ``jax.jit``.
    """
    return jax.jit(function, compiler_options=quick_compilation(), **options)


def whole(claim: Callable[..., Any], *arrays: Any) -> Any:
    """``claim(*arrays)`` as one compiled program: run one by one, its operations are compiled one by one."""
    return quick_jit(claim)(*arrays)


@functools.cache
def quick_compilation() -> dict[str, bool | int]:
    """Compiler options by which the CPU backend compiles about five times faster; none elsewhere."""
    chosen: dict[str, bool | int] = {}
    if jax.default_backend() != "cpu":
        return chosen
    wanted = {
        "xla_llvm_disable_expensive_passes": True,
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    }
    for option, value in wanted.items():
        try:  # options come and go with releases
            jax.jit(lambda x: x, compiler_options={option: value}).lower(0.0).compile()
        except jax.errors.JaxRuntimeError:
            continue
        chosen[option] = value
    return chosen


def draw_scores(
    rng: np.random.Generator, cases: int, num_classes: int, *, largest_scale: float = 10.0
) -> np.ndarray:
    """Scores ``[cases, num_classes]``, float64, of sizes over two decades up to ``largest_scale``."""
    scale = largest_scale * 10 ** rng.uniform(-2, 0, (cases, 1))
    return scale * rng.standard_normal((cases, num_classes))


def draw_labels(rng: np.random.Generator, cases: int, num_classes: int) -> np.ndarray:
    """Labels ``[cases]``, int32, uniform."""
    return rng.integers(num_classes, size=cases).astype(np.int32)


def draw_probabilities(rng: np.random.Generator, cases: int, num_classes: int) -> np.ndarray:
    """Class probabilities ``[cases, num_classes]``, float64, uniform on the simplex but at least 1e-3 / K."""
    floor = 1e-3
    return (1 - floor) * rng.dirichlet(np.ones(num_classes), cases) + floor / num_classes


def separated_probabilities(rng: np.random.Generator, cases: int, num_classes: int) -> np.ndarray:
    """Class probabilities no two of which are closer than a twentieth of 1 / K, so that their order is
    clear.
    """
    drawn = draw_probabilities(rng, 50 * cases, num_classes)
    apart = np.diff(np.sort(drawn, axis=-1), axis=-1).min(-1) > 0.05 / num_classes
    return drawn[apart & (drawn.min(-1) > 0.02)][:cases]


def kl_to_uniform(probabilities: np.ndarray) -> np.ndarray:
    """``sum_k p_k log(K p_k)`` over the last axis, with 0 log 0 = 0."""
    return np.log(probabilities.shape[-1]) - np.sum(special.entr(probabilities), axis=-1)


def gaps(scores: np.ndarray, label: int, margin: float = 0.0) -> np.ndarray:
    """``f_k - f_y`` plus the margin for every wrong class; ``[K]``."""
    return scores - scores[label] + margin * (np.arange(scores.size) != label)


def maximum_over_simplex(objective: Callable[[np.ndarray], Any], num_classes: int) -> float:
    """The maximum of a concave function over the simplex by sequential quadratic programming (SLSQP)."""
    result = optimize.minimize(
        lambda p: -objective(p),
        np.full(num_classes, 1 / num_classes),
        method="SLSQP",
        bounds=[(0, 1)] * num_classes,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return -result.fun


def linear_maximum(
    gains: np.ndarray,
    *,
    cap: float | None = 1.0,
    total: tuple[float, float] = (1.0, 1.0),
    share_cap: float | None = None,
) -> float:
    """``max p.gains`` over ``0 <= p <= cap``, ``total[0] <= sum p <= total[1]``, ``p_l <= share_cap sum
    p``.
    """
    size = gains.size
    rows, bounds = [-np.ones(size), np.ones(size)], [-total[0], total[1]]
    if share_cap is not None:
        rows += list(np.eye(size) - share_cap)
        bounds += [0.0] * size
    result = optimize.linprog(
        -gains, A_ub=np.array(rows), b_ub=np.array(bounds), bounds=(0, cap), method="highs"
    )
    return -result.fun


def capped_softmax(values: np.ndarray, cap: float) -> np.ndarray:
    """``min(cap, exp(v_k - nu))`` with the multiplier ``nu`` found by bisection so that it sums to 1;
    ``[K]``.
    """
    low, high = values.min() - 50, values.max() + np.log(values.size) + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(cap, np.exp(values - middle)).sum() > 1 else (low, middle)
    return np.minimum(cap, np.exp(values - (low + high) / 2))


def capped_softmax_by_sorting(values: np.ndarray, k: int) -> np.ndarray:
    """The same at the cap ``1 / k`` by the rule of the sorted values; ``[K]``.

    The top j get 1/k, the others share the rest by softmax, with the least j at which none exceeds 1/k.
    """
    order = np.argsort(-values)
    weights = np.zeros(values.size)
    for capped in range(k + 1):
        rest, tail = 1 - capped / k, values[order[capped:]]
        shares = rest * special.softmax(tail) if rest > 0 else np.zeros(tail.size)
        if not tail.size or shares[0] <= 1 / k:
            weights[order[:capped]], weights[order[capped:]] = 1 / k, shares
            break
    return weights


def simplex_projection(values: np.ndarray) -> np.ndarray:
    """The nearest distribution, ``max(0, v - nu)`` with ``nu`` found by bisection; ``[K]``."""
    low, high = values.min() - 1, values.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(0, values - middle).sum() > 1 else (low, middle)
    return np.maximum(0, values - (low + high) / 2)


def minimise(
    risk: Callable[[jax.Array], jax.Array],
    start: np.ndarray,
    *,
    bound: float | None = None,
    compiled: Callable | None = None,
) -> tuple[np.ndarray, float]:
    """The minimiser of a differentiable risk by BFGS (L-BFGS-B inside ``|f| <= bound``), and its value.

    ``compiled`` is the compiled ``jax.value_and_grad(risk)`` where a caller minimises it many times.
    """
    compiled = quick_jit(jax.value_and_grad(risk)) if compiled is None else compiled

    def fun(scores: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = compiled(jnp.asarray(scores))
        return float(value), np.asarray(gradient, np.float64)

    if bound is None:
        result = optimize.minimize(
            fun, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 2000}
        )
    else:
        options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000}
        box = [(-bound, bound)] * start.size
        result = optimize.minimize(fun, start, jac=True, method="L-BFGS-B", bounds=box, options=options)
    return result.x, float(result.fun)


def minimise_all(
    risk: Callable[..., jax.Array], probabilities: np.ndarray, *, bound: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``minimise(risk(., q))`` for each row ``q``: scores ``[cases, K]`` and values ``[cases]``.

    ``risk(scores, q)`` is compiled once for all rows; the search starts at all scores equal.
    """
    compiled = quick_jit(jax.value_and_grad(risk))
    found = [
        minimise(
            risk, np.zeros(row.size), bound=bound, compiled=lambda f, row=row: compiled(f, jnp.asarray(row))
        )
        for row in probabilities
    ]
    return np.stack([scores for scores, _ in found]), np.array([value for _, value in found])


def log_mean_exp(gaps: np.ndarray, temperature: float, *, digits: int = 60) -> float:
    """``temperature log mean exp(gaps / temperature)`` of a vector in decimal arithmetic, then rounded."""
    with decimal.localcontext() as context:
        context.prec = digits
        context.Emax, context.Emin = decimal.MAX_EMAX, decimal.MIN_EMIN
        scale = decimal.Decimal(float(temperature))
        terms = [(decimal.Decimal(float(gap)) / scale).exp() for gap in gaps]
        return float(scale * (sum(terms, decimal.Decimal(0)) / len(terms)).ln())
