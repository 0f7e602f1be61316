"""The centred form: how well it is conditioned, and what its linearised objective converges to."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import bilevel
from jaxreg.theory import falsify
from jaxreg.theory.check import Check
from jaxreg.theory.oracles import quick_jit
from jaxreg.theory.self_tuning.perturbed import exact_ridge, normal_nodes, perturbed_ridge

PAPER = "Bae, Grosse (2020)"


def moments(centre: jax.Array, covariance: jax.Array, *, centred: bool) -> jax.Array:
    r"""The second moments of ``(1, lambda)``, or of ``(1, lambda - lambda_0)``, shape ``[h + 1, h + 1]``.

    .. math:: \begin{pmatrix} 1 & \lambda_0^\top \\ \lambda_0 & \lambda_0\lambda_0^\top + \Sigma \end{pmatrix}
        \quad\text{or}\quad \begin{pmatrix} 1 & 0 \\ 0 & \Sigma \end{pmatrix}

    Example:
      >>> print(moments(jnp.array([2.0]), jnp.array([[0.5]]), centred=False))
      [[1.  2. ]
       [2.  4.5]]
    """
    mean = jnp.concatenate([jnp.ones(1, centre.dtype), jnp.zeros_like(centre) if centred else centre])
    spread = jnp.pad(covariance, ((1, 0), (1, 0)))
    return jnp.outer(mean, mean) + spread


def _condition(matrix: jax.Array) -> jax.Array:
    values = jnp.linalg.eigvalsh(matrix)
    return values[-1] / values[0]


def centring_never_hurts(centre: jax.Array, root: jax.Array) -> Check:
    """The condition number of the centred form is at most that of the uncentred one."""
    # Positive definite whatever the search does.
    covariance = root @ root.T + 0.05 * jnp.eye(len(centre), dtype=centre.dtype)
    centred, uncentred = (_condition(moments(centre, covariance, centred=flag)) for flag in (True, False))
    return Check(
        "centring-never-hurts",
        f"{PAPER}, derived",
        "cond(uncentred) >= cond(centred), equal at l_0 = 0",
        uncentred,
        ">=",
        centred,
        scale=uncentred,
        tolerance_float32=1e-3,
    )


def conditions_in_numbers() -> Check:
    """One hyper-parameter: examples of how much centring helps."""
    found, wanted = [], []
    for centre, sigma in ((5.0, 0.1), (5.0, 1.0), (0.0, 0.3), (2.0, 3.0)):
        covariance = jnp.array([[sigma**2]])
        for centred in (True, False):
            found.append(_condition(moments(jnp.array([centre]), covariance, centred=centred)))
            # Eigenvalues from trace and determinant; the larger times itself over their product.
            trace = 1 + sigma**2 + (0 if centred else centre**2)
            larger = trace / 2 + np.sqrt(trace**2 / 4 - sigma**2)
            wanted.append(larger**2 / sigma**2)
    stated = [100.0, 6.8e4, 1.0, 727.0]
    return Check(
        "conditions-in-numbers",
        "derived",
        "h = 1: max(s^2, 1/s^2) centred; l_0 = 5: 6.8e4 against 100 at s = 0.1, 727 against 1 at s = 1",
        jnp.stack([*found, *found[:4]]),
        "==",
        np.array(wanted + stated),
        scale=np.array([*wanted, *(200 * value for value in stated)]),
        tolerance=1e-4,
        tolerance_float32=3e-2,
    )


def hessian_is_a_kronecker_product(seed: int) -> Check:
    """A linear model's Hessian in elementary part and response, by autodiff, and its condition number."""
    rng = np.random.default_rng(seed)
    x, t, centre = (jnp.asarray(rng.normal(size=shape)) for shape in ((9, 3), (9,), (2,)))
    root = jnp.asarray(rng.normal(size=(2, 2)) + 2 * np.eye(2))
    # Four points with the mean and covariance of the perturbation: a quadratic loss sees no more of it.
    steps = jnp.concatenate([root.T, -root.T]) * np.sqrt(2)

    def loss(flat: jax.Array, centred: jax.Array) -> jax.Array:
        parts = flat.reshape(3, 3)
        weights = parts[0] + (steps + jnp.where(centred, 0, 1) * centre) @ parts[1:]
        return 0.5 * jnp.mean(jnp.sum((weights @ x.T - t) ** 2, axis=-1))

    hessians = quick_jit(jax.vmap(jax.hessian(loss), (None, 0)))(jnp.zeros(9), jnp.array([True, False]))
    matrices = [moments(centre, root @ root.T, centred=flag) for flag in (True, False)]
    wanted = jnp.stack([jnp.kron(matrix, x.T @ x) for matrix in matrices])
    products = jnp.stack([_condition(matrix) * _condition(x.T @ x) for matrix in matrices])
    conditions = jnp.stack([_condition(hessian) for hessian in hessians])
    sizes = jnp.stack([jnp.linalg.det(matrix) for matrix in matrices])
    return Check(
        "hessian-is-a-kronecker-product",
        f"{PAPER}, derived",
        "Gauss-Newton Hessian M x G; det M unchanged by centring; cond(M x G) = cond M cond G",
        jnp.concatenate([hessians.ravel(), conditions / products, sizes[:1] / sizes[1:]]),
        "==",
        jnp.concatenate([wanted.ravel(), jnp.ones(3)]),
        scale=jnp.concatenate([jnp.full(wanted.size, jnp.abs(wanted).max()), jnp.ones(3)]),
        tolerance=1e-10,
        tolerance_float32=5e-3,
    )


def jacobian(features: np.ndarray, targets: np.ndarray, log_penalty: float, scale: float) -> np.ndarray:
    r"""The response that the centred objective has for ridge regression, shape ``[D]``.

    .. math:: \Theta_\sigma = -\kappa q\, (X^\top X + \kappa (1 + \sigma^2) q I)^{-1} \beta^*, \quad
        q = e^{\sigma^2/2}

    Example:
      >>> print(jacobian(np.eye(1), np.ones(1), 0.0, 0.0))   # at scale 0 the exact derivative
      [-0.25]
    """
    weight, q = np.exp(log_penalty), np.exp(scale**2 / 2)
    matrix = features.T @ features + weight * (1 + scale**2) * q * np.eye(features.shape[1])
    return -weight * q * np.linalg.solve(matrix, exact_ridge(features, targets, log_penalty).weights)


def jacobian_of_the_centred_objective(seed: int, cases: int = 20) -> Check:
    """The closed form against the minimum by quadrature."""
    rng = np.random.default_rng(seed)
    found, wanted = [], []
    for _ in range(cases):
        problem = rng.normal(size=(12, 4)), rng.normal(size=12), rng.uniform(-1, 3), rng.uniform(0.05, 1.5)
        wanted.append(perturbed_ridge(*problem, held=True).jacobian)
        found.append(jacobian(*problem))
    return Check(
        "jacobian-of-the-centred-objective",
        "derived",
        "ridge: Theta = -kappa q (X'X + kappa (1 + s^2) q I)^-1 b*, q = exp(s^2 / 2)",
        np.array(found),
        "==",
        np.array(wanted),
        tolerance_float32=1e-5,
    )


def linearised_loss_is_stationary(seed: int, cases: int = 8) -> Check:
    """The library's linearised network: its perturbed loss is stationary at that response, at no other.

    One example a quadrature node, weighted, stands for the expectation.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = normal_nodes()
    slopes = []

    @quick_jit
    def slope(layer, x, t, number, scale):
        deviations = scale * jnp.asarray(nodes)[:, None]
        penalties = jnp.exp(number + deviations[:, 0])

        def loss(layer):
            def network(layer, deviation):  # predictions and weights of each node
                rows = jnp.concatenate([x, jnp.eye(x.shape[1], dtype=x.dtype)])
                stacked = jnp.broadcast_to(rows, (len(nodes), *rows.shape))
                return bilevel.best_response_dense(layer, stacked, deviation)[..., 0]

            outputs = bilevel.linearised(network, layer, deviations)
            fit, beta = outputs[:, : len(t)], outputs[:, len(t) :]
            losses = 0.5 * jnp.sum((fit - t) ** 2, -1) + 0.5 * penalties * jnp.sum(beta**2, -1)
            return jnp.asarray(weights) @ losses

        gradient = jax.grad(loss)(layer)
        return jnp.concatenate([gradient.response_kernel[:, 0], gradient.elementary_kernel[:, 0]])

    for _ in range(cases):
        problem = rng.normal(size=(12, 4)), rng.normal(size=12), rng.uniform(-1, 3), rng.uniform(0.05, 1.0)
        theta, exact = jacobian(*problem), exact_ridge(*problem[:3])
        arrays = [jnp.asarray(part) for part in problem]
        for response in (theta, exact.jacobian):
            layer = bilevel.BestResponse.from_parts(
                exact.weights[:, None], response[:, None], np.ones((1, 1))
            )
            slopes.append(slope(jax.tree.map(jnp.asarray, layer), *arrays))
    found = jnp.stack(slopes)
    # At the exact Jacobian the perturbed objective still has a slope: the bias is real.
    biased = jnp.abs(found[1::2]).max() > 1e-2
    return Check(
        "linearised-loss-is-stationary",
        "derived",
        "the linearised objective's gradient in Theta is 0 at the closed form; w_0 gets none",
        jnp.append(found[::2].ravel(), biased.astype(found.dtype)),
        "==",
        jnp.append(jnp.zeros(found[::2].size), 1),
        scale=10.0,
        tolerance_float32=1e-5,
    )


def leading_bias_of_the_jacobian(logit: jax.Array, raw_scale: jax.Array) -> Check:
    """The relative bias in a principal direction with gate g, and how far the leading term is off."""
    gate, variance = jax.nn.sigmoid(logit), jax.nn.sigmoid(raw_scale)
    # Powers of the variance below the cube would leave nothing but rounding of the remainder.
    variance = 0.02 + 0.98 * variance
    q, rest = jnp.exp(variance / 2), 1 - gate
    bias = q / (gate + rest * (1 + variance) * q) - 1
    return Check(
        "leading-bias-of-the-jacobian",
        "derived",
        "|Theta_s / Theta - 1 - s^2 (1/2 - 3/2 (1 - g))| <= s^4 for s <= 1: none at g = 2/3, either sign",
        jnp.abs(bias - variance * (0.5 - 1.5 * rest)),
        "<=",
        variance**2,
        scale=variance**2,
        tolerance_float32=1e-2,
    )


def network_is_linearised_to_second_order(seed: int) -> Check:
    """Halving the deviation divides the error of the linearised network by four."""
    rng = np.random.default_rng(seed)
    x, numbers = (jnp.asarray(rng.normal(size=shape)) for shape in ((20, 5), (20, 2)))

    def part(*shape):
        return jnp.asarray(0.5 * rng.normal(size=shape))

    layers = [bilevel.BestResponse.from_parts(part(*s), part(*s), part(2, s[1])) for s in ((5, 16), (16, 4))]

    def network(layers, deviation):
        return bilevel.best_response_dense(
            layers[1], jnp.tanh(bilevel.best_response_dense(layers[0], x, deviation)), deviation
        )

    @quick_jit
    def error(size):
        gap = bilevel.linearised(network, layers, size * numbers) - network(layers, size * numbers)
        return jnp.linalg.norm(gap)

    sizes = [0.04, 0.02]
    # Of both signs together: odd orders drop out.
    errors = [error(jnp.asarray(size)) + error(jnp.asarray(-size)) for size in sizes]
    return Check(
        "network-is-linearised-to-second-order",
        f"{PAPER}, derived",
        "|f(w_0 + Theta d) - f(w_0) - J Theta d| ~ |d|^2: slope 2.00",
        jnp.log2(errors[0] / errors[1]),
        "==",
        2.0,
        tolerance=0.02,  # the next order at this size
        tolerance_float32=0.1,
    )


def statements(seed: int) -> Iterator[Check]:
    """Conditioning, and the linearised objective."""
    rng = np.random.default_rng(seed + 40)
    starts = rng.normal(0, 1, (100, 2)) * 10 ** rng.uniform(-2, 1, (100, 1)), rng.normal(0, 1, (100, 2, 2))
    yield falsify.search(centring_never_hurts, starts, steps=100).check
    yield conditions_in_numbers()
    yield hessian_is_a_kronecker_product(seed)
    yield jacobian_of_the_centred_objective(seed)
    yield linearised_loss_is_stationary(seed)
    yield falsify.search(leading_bias_of_the_jacobian, (rng.normal(0, 2, 100), rng.normal(0, 2, 100))).check
    yield network_is_linearised_to_second_order(seed)
