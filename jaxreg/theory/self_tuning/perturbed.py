"""What training with perturbed hyper-parameters converges to, and how far the perturbation reaches."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import bilevel
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import minimise

PAPER = "MacKay et al. (2019)"
NODES = 60


class Response(NamedTuple):
    """An affine response ``w + jacobian (lambda - lambda_0)`` to one hyper-parameter."""

    weights: np.ndarray
    """At ``lambda_0``, shape ``[D]``."""
    jacobian: np.ndarray
    """Shape ``[D]``."""


def normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Hermite nodes and weights of a standard normal number, exact for polynomials of degree 119.

    Example:
      >>> nodes, weights = normal_nodes()
      >>> print(f"{weights @ nodes**4:.6f}")
      3.000000
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum()


def perturbed_ridge(
    features: np.ndarray, targets: np.ndarray, log_penalty: float, scale: float, *, held: bool = False
) -> Response:
    r"""The affine response that minimises the perturbed ridge loss, by quadrature, in float64.

    .. math:: \min_{w, \theta} E_\epsilon \big[\tfrac12 \|X (w + \theta\epsilon) - t\|^2
        + \tfrac12 e^{\lambda_0 + \epsilon} \|w + \theta\epsilon\|^2\big], \quad \epsilon \sim N(0, \sigma^2)

    Args:
      features: ``X``, shape ``[n, D]``.
      targets: ``t``, shape ``[n]``.
      log_penalty: ``lambda_0``.
      scale: ``sigma``, positive.
      held: whether ``w`` is held at the exact solution, as in the centred form.

    Returns:
      The minimiser.

    Example:
      >>> found = perturbed_ridge(np.eye(1), np.ones(1), 0.0, 1e-3)
      >>> print(found.weights.round(4), found.jacobian.round(4))   # 1 / (1 + e^l) and its slope at 0
      [0.5] [-0.25]
    """
    nodes, weights = normal_nodes()
    steps, penalties = scale * nodes, np.exp(log_penalty + scale * nodes)
    gram, identity, right = features.T @ features, np.eye(features.shape[1]), features.T @ targets
    # The loss is quadratic: moments of 1, eps, eps^2 against the gram matrix and the penalty.
    zero, one, two = (
        weights @ steps**k * gram + weights @ (steps**k * penalties) * identity for k in range(3)
    )
    if held:
        fixed = exact_ridge(features, targets, log_penalty).weights
        return Response(fixed, np.linalg.solve(two, -one @ fixed))
    whole = np.linalg.solve(np.block([[zero, one], [one, two]]), np.concatenate([right, 0 * right]))
    return Response(*np.split(whole, 2))


def exact_ridge(features: np.ndarray, targets: np.ndarray, log_penalty: float) -> Response:
    """The ridge solution and its derivative in the log-penalty, in float64.

    Example:
      >>> print(exact_ridge(np.eye(1), np.ones(1), 0.0).jacobian)
      [-0.25]
    """
    matrix = features.T @ features + np.exp(log_penalty) * np.eye(features.shape[1])
    weights = np.linalg.solve(matrix, features.T @ targets)
    return Response(weights, -np.exp(log_penalty) * np.linalg.solve(matrix, weights))


def unbiased_for_joint_quadratics(seed: int) -> Check:
    """Curvature that does not depend on the hyper-parameters: value and Jacobian exact at every scale."""
    rng = np.random.default_rng(seed)
    nodes, weights = normal_nodes()
    found, wanted = [], []
    for scale in (0.01, 0.3, 1.0, 3.0):
        root, start, slope = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
        curvature = root @ root.T + np.eye(4)
        # Gradient of E (w + theta eps - w*(eps))' A (.) / 2 in (w, theta), node by node, is linear in both.
        steps = scale * nodes
        moments = np.array([[weights @ steps**0, weights @ steps], [weights @ steps, weights @ steps**2]])
        reached = start + np.outer(steps, slope)
        targets = np.array([(weights * steps**k) @ reached for k in range(2)])
        solution = np.linalg.solve(np.kron(moments, curvature), (targets @ curvature).ravel())
        found.append(solution)
        wanted.append(np.concatenate([start, slope]))
    return Check(
        "unbiased-for-joint-quadratics",
        f"{PAPER}, cf.",
        "f = (w - w*(l))' A (w - w*(l)) / 2 with w* affine: the affine minimiser of E f is w*, any sigma",
        np.array(found),
        "==",
        np.array(wanted),
        scale=10.0,
        tolerance=1e-11,
        tolerance_float32=1e-5,
    )


def bias_is_of_second_order(seed: int, cases: int = 10, scale: float = 1 / 16) -> Check:
    """Ridge regression, whose curvature depends on the penalty: biases fall by four at half the scale."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(cases):
        features, targets = rng.normal(size=(12, 4)), rng.normal(size=12)
        number = rng.uniform(0, 3)
        exact = exact_ridge(features, targets, number)

        def bias(size, features=features, targets=targets, number=number, exact=exact):
            found = perturbed_ridge(features, targets, number, size)
            return [np.linalg.norm(mine - right) for mine, right in zip(found, exact, strict=True)]

        ratios.append(np.divide(bias(scale), bias(scale / 2)))
    return Check(
        "bias-is-of-second-order",
        "derived",
        "ridge: biases of the weights and of the Jacobian fall by 4.00 as sigma is halved",
        np.array(ratios),
        "==",
        4.0,
        tolerance=0.1,  # the next order, and rounding of a bias of 1e-4
        tolerance_float32=0.1,
    )


def leading_bias_of_the_weights(seed: int) -> Check:
    """To leading order the mean penalty's growth and its covariance with the response shift the weights."""
    rng = np.random.default_rng(seed)
    scale, ratios = 0.02, []
    for _ in range(5):
        features, targets, number = rng.normal(size=(12, 4)), rng.normal(size=12), rng.uniform(0, 3)
        exact = exact_ridge(features, targets, number)
        matrix = features.T @ features + np.exp(number) * np.eye(4)
        # 0 = E (A + kappa (eps + eps^2 / 2)) (w + theta eps) - X't to second order in eps.
        leading = -np.exp(number) * np.linalg.solve(matrix, exact.weights / 2 + exact.jacobian)
        found = perturbed_ridge(features, targets, number, scale)
        ratios.append(
            (found.weights - exact.weights) / scale**2 / np.linalg.norm(leading)
            - leading / np.linalg.norm(leading)
        )
    return Check(
        "leading-bias-of-the-weights",
        "derived",
        "ridge: w - w* = -sigma^2 kappa (X'X + kappa I)^-1 (w* / 2 + dw*/dl) + O(sigma^4)",
        np.array(ratios),
        "==",
        0.0,
        tolerance=5e-3,  # the next order at sigma = 0.02
        tolerance_float32=5e-3,
    )


def scale_settles(curvatures: np.ndarray, weight: float) -> Check:
    """The scale that minimises a quadratic validation loss less the entropy, in softplus coordinates."""
    nodes, probabilities = (jnp.asarray(part) for part in normal_nodes())
    bends = jnp.asarray(curvatures)
    tree = bilevel.Unbounded(np.zeros(bends.size))

    def objective(raw: jax.Array) -> jax.Array:
        node = jax.tree.unflatten(jax.tree.structure(tree), [tree.unconstrained, raw])
        points = bilevel.scales(node) * nodes[:, None]
        return probabilities @ (0.5 * points**2 @ bends) - weight * bilevel.entropy(node)

    raw, _ = minimise(objective, np.zeros(bends.size))
    return Check(
        "scale-settles",
        f"{PAPER}, fixed point derived",
        "F quadratic: the scale settles at sigma_j^2 = tau / F_jj",
        np.logaddexp(0, raw) ** 2 * curvatures,
        "==",
        np.full(curvatures.shape, weight),
        scale=weight,
        tolerance=1e-6,  # of BFGS
        tolerance_float32=2e-2,
    )


def scale_grows_without_curvature(raw: jax.Array, curvature: jax.Array, weight: jax.Array) -> Check:
    """Where the validation loss does not curve upwards the scale always grows."""

    def objective(xi: jax.Array) -> jax.Array:
        sigma = jax.nn.softplus(xi)
        return -0.5 * jax.nn.softplus(curvature) * sigma**2 - jnp.exp(weight) * jnp.log(sigma)

    return Check(
        "scale-grows-without-curvature",
        "derived",
        "F_jj <= 0: no fixed point, dL/dxi < 0 everywhere",
        jax.grad(objective)(raw),
        "<=",
        0.0,
        scale=jnp.exp(weight),
        tolerance_float32=1e-6,
    )


def perturb_each_example(seed: int, examples: int = 16, draws: int = 20_000) -> Check:
    """Perturbing each example by itself leaves the mean gradient and lowers its variance.

    The sides are variances of the tuning gradient of a toy, one perturbation an example against one a batch,
    in units of the latter, and the distance of the means in five standard errors.
    """
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=examples), rng.normal(size=examples)

    def mean_gradient(noise: np.ndarray) -> np.ndarray:
        # Response sigma(1 - l) of one weight; derivative of the mean squared error in l at l = eps.
        gate = 1 / (1 + np.exp(noise - 1))
        return np.mean(-2 * (gate * inputs - targets) * inputs * gate * (1 - gate), axis=-1)

    alone = mean_gradient(rng.normal(size=(draws, examples)))
    shared = mean_gradient(rng.normal(size=(draws, 1)))
    error = np.sqrt((alone.var() + shared.var()) / draws)
    return Check(
        "perturb-each-example",
        f"{PAPER}, derived",
        "independent perturbations: the same mean gradient (5 standard errors), no larger variance",
        np.array([alone.var() / shared.var(), abs(alone.mean() - shared.mean()) / (5 * error)]),
        "<=",
        1.0,
    )


def statements(seed: int) -> Iterator[Check]:
    """Perturbed training and tuning."""
    rng = np.random.default_rng(seed + 30)
    yield unbiased_for_joint_quadratics(seed)
    yield bias_is_of_second_order(seed)
    yield leading_bias_of_the_weights(seed)
    yield scale_settles(10 ** rng.uniform(-1, 2, 4), 0.05)
    starts = tuple(rng.normal(0, 2, (3, 50)))
    yield falsify.search(scale_grows_without_curvature, starts, steps=50).check
    yield perturb_each_example(seed)
