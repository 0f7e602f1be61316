"""Logistic regression with large steps, from gradient descent to the perceptron.

Tyurin (2025, arXiv 2412.08424); Zhang, Wu, Lin, Bartlett (2025, arXiv 2504.04105).

With the margins ``m_i = y_i a_i.theta`` and the slopes ``s_i = sigmoid(-m_i)``, the gradient of the mean
logistic loss is ``-mean_i s_i y_i a_i``. The methods here keep its direction and choose another length.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxreg import checks


def logistic_slopes(losses: ArrayLike) -> jax.Array:
    r"""How far each example is from being fitted, from its logistic loss or cross-entropy.

    .. math:: s_i = 1 - e^{-\ell_i} = 1 - p_{i, y_i}

    For two classes and the logistic loss this is the derivative's size :math:`\sigma(-m_i)`; for more, half
    the l1 norm of the gradient in the logits. Labels must be hard: with smoothed ones the identity fails.

    Args:
      losses: ``log(1 + exp(-m_i))`` or the softmax cross-entropy of each example, in [0, inf], floating, any
        shape. A value below 0 by no more than rounding counts as 0.

    Returns:
      The slopes in [0, 1], the shape of ``losses``, at least float32; NaN where a loss is negative.

    Raises:
      TypeError: ``losses`` is not floating.

    Note:
      A loss that was itself rounded to 0 has slope 0. ``logsumexp(f) - f_y`` in float32 is 0 from a margin of
      17 on, whereas ``optax.losses.sigmoid_binary_cross_entropy`` reaches 87; with logits at hand
      ``jaxreg.losses.mean_absolute_error(logits, labels) / 2`` is the same slope and accurate everywhere.

    References:
      Derived; ``slopes-from-losses`` in ``jaxreg.theory.large_step``.

    Example:
      >>> margins = jnp.array([-2.0, 0.0, 3.0])
      >>> slopes = logistic_slopes(jnp.logaddexp(0.0, -margins))
      >>> print([f"{slope:.4f}" for slope in slopes])   # sigmoid(-margins)
      ['0.8808', '0.5000', '0.0474']
    """
    given = jnp.asarray(losses)
    values = checks.floating("losses", given)
    rounding = float(jnp.finfo(given.dtype).eps) ** 0.5
    slopes = -jnp.expm1(-jnp.where(values < 0, 0, values))
    return jnp.where(values < -rounding, jnp.nan, slopes)


def normalize_by_mean_slope() -> optax.GradientTransformationExtraArgs:
    r"""Divide the gradient of the mean logistic loss by the mean slope.

    .. math:: g \mapsto g / \bar s, \qquad \bar s = \tfrac1n \sum_i s_i

    What remains is an average of the examples weighted by their slopes, of length at most ``max_i |a_i|``,
    whatever the loss: a large step then moves by the hardest examples alone.

    ``update`` needs the extra argument ``mean_slope``, the mean of :func:`logistic_slopes` over the same
    examples as the gradient, a scalar in [0, 1]. It cannot be had from the mean loss. Chain with a learning
    rate, as :func:`normalized_logistic_gd` does.

    While some example is not on its side ``mean_slope`` is at least 1 / (2 n). Long after separation it is 0,
    and so is the gradient: where ``mean_slope`` is 0, or too small for a normal number, the update is 0 and
    never NaN, so training stands still. Before that the method does not slow down and may lose the separation
    again: test for it and stop, or keep the best parameters.

    Average gradient and ``mean_slope`` over devices separately (``jax.lax.pmean`` of each) and divide then:
    averages of the shards' own quotients are another method, which need not separate at all. The same holds
    for gradient accumulation, for which see :func:`jaxreg.transforms.multi_steps`.

    Returns:
      A transformation without state.

    Raises:
      TypeError: from ``update``, if ``mean_slope`` is missing or not a real scalar, or updates are not
        floating.
      ValueError: from ``update``, if a Python or NumPy ``mean_slope`` is outside [0, 1].

    References:
      Tyurin (2025), arXiv 2412.08424, the normalized method; ``jaxreg.theory.large_step``.

    Example:
      >>> features, signs = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, -1.0])
      >>> def losses(weights):
      ...     return jnp.logaddexp(0.0, -signs * (features @ weights))
      >>> weights = jnp.zeros(2)
      >>> gradient = jax.grad(lambda weights: losses(weights).mean())(weights)
      >>> transform = normalize_by_mean_slope()
      >>> mean_slope = logistic_slopes(losses(weights)).mean()
      >>> print(gradient, transform.update(gradient, transform.init(weights), mean_slope=mean_slope)[0])
      [-0.25  0.5 ] [-0.5  1. ]
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, mean_slope: ArrayLike | None = None, **unused: Any
    ) -> tuple[Any, Any]:
        del params, unused
        slope = checks.scalar("mean_slope", mean_slope, "[0, 1]", rounding=True)
        return _divide(updates, slope), state

    return optax.GradientTransformationExtraArgs(_stateless, update)


def normalized_logistic_gd(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Normalized gradient descent on the mean logistic loss.

    .. math:: \theta \mapsto \theta - \gamma \, \nabla f(\theta) / \bar s(\theta)

    Separates data of radius R and margin mu within :math:`R^2/\mu^2 + O(\log n) / (\gamma \mu^2)` steps from
    0, however large :math:`\gamma` is; as it grows the iterates become those of the normalized batch
    perceptron.

    ``update`` needs ``mean_slope``, as :func:`normalize_by_mean_slope` does. Momentum, weight decay and other
    changes of the direction void the bound.

    Args:
      learning_rate: ``gamma`` in [0, inf), a number or a function of the step's number, in units of
        parameters per feature.

    Returns:
      A transformation; with a schedule, its state counts the steps (int32).

    Raises:
      TypeError: ``learning_rate`` is not real; from ``update``, as for :func:`normalize_by_mean_slope`.
      ValueError: a Python or NumPy ``learning_rate`` is out of range; from ``update``, as above.

    References:
      Tyurin (2025), arXiv 2412.08424, for the rate; constants derived, ``jaxreg.theory.large_step``.

    Example:
      >>> optimizer = normalized_logistic_gd(100.0)
      >>> gradient = jnp.array([-0.25, 0.5])
      >>> print(optimizer.update(gradient, optimizer.init(gradient), mean_slope=0.5)[0])
      [  50. -100.]

      Large steps for the head of a network, of any number of classes, and AdamW for the rest:

      >>> params = {"head": jnp.zeros((4, 3)), "body": jnp.ones((2, 4))}
      >>> optimizer = optax.multi_transform(
      ...     {"large steps": normalized_logistic_gd(1.0), "adamw": optax.adamw(1e-3)},
      ...     {"head": "large steps", "body": "adamw"},
      ... )
      >>> def objective(params, inputs, labels):
      ...     logits = jax.nn.relu(inputs @ params["body"]) @ params["head"]
      ...     losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
      ...     return losses.mean(), logistic_slopes(losses).mean()
      >>> batch = jnp.ones((5, 2)), jnp.arange(5) % 3
      >>> gradient, mean_slope = jax.grad(objective, has_aux=True)(params, *batch)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(gradient, state, params, mean_slope=mean_slope)
      >>> print(jax.tree.map(lambda leaf: leaf.shape, updates))
      {'body': (2, 4), 'head': (4, 3)}
    """
    return optax.chain(normalize_by_mean_slope(), _descend(learning_rate))


def batch_perceptron(
    learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The batch perceptron, which gradient descent with ever larger steps turns into.

    .. math:: w \mapsto w + \tfrac1n \sum_i \phi(m_i)\, y_i a_i, \qquad \phi = 1, \tfrac12, 0 \text{ for }
        m_i < 0,\ m_i = 0,\ m_i > 0

    Descent on the mean perceptron loss. The gradient to feed in is that of ``mean(jnp.maximum(0,
    -margins))``, whose derivative at a tie is one half in JAX as it must be, or for more classes that of
    ``jaxreg.losses.crammer_singer(..., margin=0.0)``, which shares ties equally. From parameters 0 the
    learning rate scales the iterates and nothing else. With :func:`normalize_by_mean_slope` before it and the
    mean of phi as ``mean_slope`` it is the normalized batch perceptron, which separates within
    :math:`R^2/\mu^2` steps.

    Args:
      learning_rate: in [0, inf), a number or a function of the step's number.

    Returns:
      A transformation; with a schedule, its state counts the steps (int32).

    Raises:
      TypeError: ``learning_rate`` is not real; from ``update``, if updates are not floating.
      ValueError: a Python or NumPy ``learning_rate`` is out of range.

    References:
      Tyurin (2025), arXiv 2412.08424, for the limit; the weight of ties derived,
      ``jaxreg.theory.large_step``.

    Example:
      >>> examples = jnp.array([[1.0, 0.0], [0.0, 2.0]])   # features times labels
      >>> gradient = jax.grad(lambda w: jnp.maximum(0.0, -examples @ w).mean())(jnp.zeros(2))
      >>> optimizer = batch_perceptron()
      >>> print(optimizer.update(gradient, optimizer.init(gradient))[0])
      [0.25 0.5 ]
    """
    return _descend(learning_rate)


def scale_by_risk(
    loss: Literal["exponential", "logistic"] = "logistic",
) -> optax.GradientTransformationExtraArgs:
    r"""Divide the gradient of the mean loss L by what makes the step grow as the loss falls.

    .. math:: g \mapsto g / L \ \text{(exponential)}, \qquad g \mapsto g / (1 - e^{-L}) \ \text{(logistic)}

    These are the gradients of :math:`\log L` and of :math:`\log(e^L - 1)`. For the exponential loss, steps
    :math:`\eta` bring the best risk, and that of the averaged iterate, down to
    :math:`\exp(-\tfrac\eta2(\mu^2 t - R^2))` after t steps, for every :math:`\eta`. For the mean logistic
    loss no such statement holds with large steps: one misclassified example of n makes L large, where the
    factor is 1.

    ``update`` needs the extra argument ``value``, the mean loss that the gradient is of. Where it has reached
    0 (or is too small for a normal number) the update is 0 and never NaN. Average gradient and ``value`` over
    devices separately. The exponential loss overflows float32 at a margin of -88; its gradient is NaN then,
    and so is the update.

    Args:
      loss: which loss ``value`` is the mean of.

    Returns:
      A transformation without state; chain with a learning rate.

    Raises:
      TypeError: from ``update``, if ``value`` is missing or not a real scalar, or updates are not floating.
      ValueError: an unknown ``loss``; from ``update``, if a Python or NumPy ``value`` is negative (or
        infinite, for the exponential loss).

    References:
      Zhang, Wu, Lin, Bartlett (2025), arXiv 2504.04105, for the idea; statements and the counterexample
      derived, ``jaxreg.theory.large_step``.

    Example:
      >>> transform = scale_by_risk("exponential")
      >>> gradient = jnp.array([-0.25, 0.5])
      >>> print(transform.update(gradient, transform.init(gradient), value=0.125)[0])
      [-2.  4.]
    """
    if loss not in ("exponential", "logistic"):
        raise ValueError(f"loss must be 'exponential' or 'logistic', got {loss!r}")
    interval = "[0, inf)" if loss == "exponential" else "[0, inf]"

    def update(
        updates: Any, state: Any, params: Any = None, *, value: ArrayLike | None = None, **unused: Any
    ) -> tuple[Any, Any]:
        del params, unused
        risk = checks.scalar("value", value, interval, rounding=True)
        return _divide(updates, risk if loss == "exponential" else -jnp.expm1(-risk)), state

    return optax.GradientTransformationExtraArgs(_stateless, update)


def _stateless(params: Any) -> optax.EmptyState:
    del params
    return optax.EmptyState()


def _divide(updates: Any, denominator: jax.Array) -> Any:
    """Updates over a non-negative scalar, 0 where that is 0; a NaN on either side stays one."""

    def quotient(update: ArrayLike) -> jax.Array:
        wide = checks.floating("updates", update)
        divisor = denominator.astype(wide.dtype)
        # Numbers below this one may be flushed to 0 on their way here or in the division.
        vanished = divisor < jnp.finfo(wide.dtype).tiny
        # A product with 0 and not a plain 0, so that inf and NaN are passed on.
        result = jnp.where(vanished, 0 * wide, wide / jnp.where(vanished, 1, divisor))
        return result.astype(jnp.asarray(update).dtype)

    return jax.tree.map(quotient, updates)


def _descend(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """Minus the learning rate times the updates, in their dtype and without rounding the rate to it."""

    def scaled(updates: Any, rate: ArrayLike) -> Any:
        size = checks.scalar("learning_rate", rate, "[0, inf)")

        def leaf(update: ArrayLike) -> jax.Array:
            wide = checks.floating("updates", update)
            return (-size.astype(wide.dtype) * wide).astype(jnp.asarray(update).dtype)

        return jax.tree.map(leaf, updates)

    if not callable(learning_rate):
        checks.scalar("learning_rate", learning_rate, "[0, inf)")

        def update(updates: Any, state: Any, params: Any = None, **unused: Any) -> tuple[Any, Any]:
            del params, unused
            return scaled(updates, learning_rate), state

        return optax.GradientTransformationExtraArgs(_stateless, update)

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def scheduled(
        updates: Any, state: optax.ScaleByScheduleState, params: Any = None, **unused: Any
    ) -> tuple[Any, optax.ScaleByScheduleState]:
        del params, unused
        count = optax.safe_increment(jnp.asarray(state.count))
        return scaled(updates, learning_rate(state.count)), optax.ScaleByScheduleState(count=count)

    return optax.GradientTransformationExtraArgs(init, scheduled)  # pyright: ignore[reportArgumentType]
