"""The problems, what is known exactly about them, and the tuners that learn it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize

from jaxreg import bilevel
from jaxreg.theory.self_tuning import exact_ridge, jacobian, perturbed_ridge

SPAN = (-4.0, 9.0)
"""Log-penalties among which optima are sought."""


class Problem(NamedTuple):
    """Ridge regression with data to validate on."""

    features: np.ndarray  # ``[n, D]``
    targets: np.ndarray  # ``[n]``
    valid_features: np.ndarray  # ``[m, D]``
    valid_targets: np.ndarray  # ``[m]``

    def valid_loss(self, weights: np.ndarray) -> float:
        """Half the mean squared error on the validation data."""
        return 0.5 * float(np.mean((self.valid_features @ weights - self.valid_targets) ** 2))

    def slope(self, weights: np.ndarray) -> np.ndarray:
        """Its gradient, ``[D]``."""
        errors = self.valid_features @ weights - self.valid_targets
        return self.valid_features.T @ errors / len(errors)


def draw(seed: int, rows: int, features: int, valid_rows: int, noise: float) -> Problem:
    """Normal features, weights of size 1/2, and noise."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=features) / 2
    inputs = rng.normal(size=(rows + valid_rows, features))
    targets = inputs @ weights + noise * rng.normal(size=rows + valid_rows)
    return Problem(inputs[:rows], targets[:rows], inputs[rows:], targets[rows:])


def optimum(problem: Problem) -> float:
    """The log-penalty with the least validation loss of the exact response."""

    def loss(number: float) -> float:
        return problem.valid_loss(exact_ridge(problem.features, problem.targets, number).weights)

    grid = np.linspace(*SPAN, 131)
    best = grid[np.argmin([loss(number) for number in grid])]
    found: Any = optimize.minimize_scalar(loss, bounds=(best - 0.1, best + 0.1), method="bounded")
    return float(found.x)


def settled(problem: Problem, scale: float, *, centred: bool) -> float:
    """Where tuning comes to rest in theory: the learned response's validation loss is stationary.

    The response is the one that perturbed training converges to, with its bias.
    """

    def slope(number: float) -> float:
        found = perturbed_ridge(problem.features, problem.targets, number, scale, held=centred)
        theta = jacobian(problem.features, problem.targets, number, scale) if centred else found.jacobian
        return float(theta @ problem.slope(found.weights))

    grid = np.linspace(*SPAN, 131)
    slopes = np.array([slope(number) for number in grid])
    rising = np.flatnonzero((slopes[:-1] < 0) & (slopes[1:] >= 0))
    if not len(rising):
        return float("nan")
    place = rising[np.argmin(np.abs(grid[rising] - optimum(problem)))]
    found: Any = optimize.brentq(slope, grid[place], grid[place + 1])
    return float(found)


def settled_scale(problem: Problem, weight: float, theta: np.ndarray) -> float:
    """The scale at which the entropy balances the curvature of the validation loss along the response."""
    moved = problem.valid_features @ theta
    return float(np.sqrt(weight / np.mean(moved**2)))


def network(layer: Any, hyperparameters: Any, values: Any, batch: Any, key: Any) -> tuple[Any, Any]:
    """Predictions ``[B]`` and the weights ``[B, D]`` of each example, for the fit and the penalty."""
    del values, key
    inputs = batch["features"]
    identity = jnp.eye(inputs.shape[1], dtype=inputs.dtype)
    rows = jnp.concatenate(
        [inputs[:, None], jnp.broadcast_to(identity, (len(inputs), *identity.shape))], axis=1
    )
    outputs = bilevel.best_response_dense(layer, rows, hyperparameters)[..., 0]
    return outputs[:, 0], outputs[:, 1:]


def penalised(outputs: tuple[Any, Any], values: Any, batch: Any) -> jax.Array:
    """``|Xb - t|^2 / 2n + e^l |b|^2 / 2n`` in the mean over examples, each with a penalty of its own."""
    fit, weights = outputs
    penalty = jnp.exp(values["log_penalty"]) * jnp.sum(weights**2, axis=-1) / batch["rows"][0]
    return 0.5 * jnp.mean((fit - batch["targets"]) ** 2 + penalty)


def validation(layer: Any, hyperparameters: Any, values: Any, batch: Any, key: Any) -> jax.Array:
    """Half the mean squared error."""
    fit, _ = network(layer, hyperparameters, values, batch, key)
    return 0.5 * jnp.mean((fit - batch["targets"]) ** 2)


def tuner(
    *,
    centred: bool,
    tune_scale: bool,
    alternations: int,
    warmup: int,
    learning_rate: float,
    tuning_rate: float,
    entropy_weight: float,
) -> bilevel.SelfTuning:
    """Alternating training and tuning with rates that fall to 0."""

    def adam(rate: float, steps: int) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, steps))

    return bilevel.self_tuning(
        bilevel.NetworkLoss(network, penalised),
        validation,
        inner=adam(learning_rate, 2 * alternations),
        outer=adam(tuning_rate, alternations - warmup),
        scale=adam(tuning_rate, alternations - warmup) if tune_scale else None,
        entropy_weight=entropy_weight,
        warmup_steps=2 * warmup,
        centred=centred,
    )


def batches(problem: Problem, repeats: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training and validation batches of one alternation: all rows, the training ones several times."""
    rows = len(problem.targets)

    def stacked(features: np.ndarray, targets: np.ndarray, steps: int, times: int) -> dict[str, np.ndarray]:
        parts = {"features": np.tile(features, (times, 1)), "targets": np.tile(targets, times)}
        parts["rows"] = np.full(len(parts["targets"]), rows)
        return {
            name: np.broadcast_to(part, (steps, *part.shape)).astype(np.float32)
            for name, part in parts.items()
        }

    return (
        stacked(problem.features, problem.targets, 2, repeats),
        stacked(problem.valid_features, problem.valid_targets, 1, 1),
    )


def response(layer: Any, number: Any, *, centred: bool) -> tuple[Any, Any]:
    """The learned weights at the current log-penalty and their derivative, ``[D]`` each."""
    at = jnp.zeros_like(number) if centred else number
    theta = layer.response_kernel[:, 0] * layer.gate[0, 0]
    return layer.elementary_kernel[:, 0] + at * theta, theta
