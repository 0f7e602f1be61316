"""Projected gradient ascent over a ball around every input (Madry et al., ICLR 2018, arXiv 1706.06083)."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.attacks.starts import random_point

Norm = Literal["l_inf", "l_2"]
Objective = Callable[[jax.Array], jax.Array]


def projected_gradient_ascent(
    objective: Objective,
    x: ArrayLike,
    key: ArrayLike,
    *,
    radius: ArrayLike,
    step_size: ArrayLike,
    steps: int,
    norm: Norm = "l_inf",
    restarts: int = 1,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    random_start: bool = True,
    keep_best: bool = False,
) -> jax.Array:
    r"""Look for the inputs in balls around given ones that maximise a per-example objective.

    .. math:: x' \leftarrow \Pi\big(x' + \eta\, d(\nabla g(x'))\big), \qquad d(v) = \mathrm{sign}(v)
              \text{ or } v / \|v\|_2

    with the projection onto the ball and the box. Each restart begins at a random point of the ball: the
    centre is a stationary point of objectives that measure a distance from it. What is returned for each
    example is the end of its path, of several restarts the one with the largest objective.

    Args:
      objective: function ``g`` of a batch of inputs ``[B, ...]`` that returns one value per example,
        floating ``[B]``; an example's value depends on its own input only. For a mistake of a model:
        ``lambda x: score_margin(apply(params, x), labels)``.
      x: inputs, floating, shape ``[B, ...]``.
      key: random key of the starts.
      radius: of the balls, in [0, inf), in the units of ``x``, a scalar or one value per example ``[B]``.
      step_size: length of a step ``eta`` in ``norm``, in [0, inf), a scalar or one value per example.
      steps: number of ascent steps, at least 1.
      norm: ``"l_inf"`` or ``"l_2"``, over all axes of an input but the first.
      restarts: number of starts, at least 1, which run side by side.
      lower: least value of an input's entries, broadcastable to ``x``; None leaves them free.
      upper: largest value, likewise. The given inputs must lie in the box.
      random_start: False starts at the given inputs; more than one restart is then of no use.
      keep_best: whether to return the best point met on the paths, the given inputs included, in place of
        their ends, at the cost of two more evaluations of the objective.

    Returns:
      Perturbed inputs, the shape and dtype of ``x``, constant for differentiation. NaN where a radius or a
      step size that was not known at trace time is negative. A step along a gradient that is zero or not a
      number in an entry leaves that entry; a value that is not a number counts as the least. With respect
      to "l_2", a box may cut the ball: its points are projected on both in turn, and end inside both.

    Raises:
      TypeError: inputs not floating, or a size not real.
      ValueError: an unknown norm, a count below 1, a size below 0, shapes that do not fit, or an objective
        that does not return one value per example.

    References:
      Madry et al. (2018), arXiv 1706.06083.

    Example:
      >>> x = jnp.zeros([1, 2])
      >>> worst = projected_gradient_ascent(
      ...     lambda x: x @ jnp.array([3.0, -4.0]), x, jax.random.key(0),
      ...     radius=0.5, step_size=0.2, steps=20, norm="l_2")
      >>> print(worst.round(3))   # along the gradient, up to the sphere
      [[ 0.3 -0.4]]
    """
    inputs = jax.lax.stop_gradient(jnp.asarray(x))
    _check(objective, inputs, steps=steps, restarts=restarts, norm=norm)
    ball, stride = _size("radius", radius, inputs), _size("step_size", step_size, inputs)
    box = _bound("lower", lower, inputs), _bound("upper", upper, inputs)

    def search(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # In the ball already.
        start = random_point(key, inputs, ball, norm) if random_start else jnp.zeros_like(inputs)
        start = _into_box(start, inputs, box)
        return _climb(objective, inputs, start, ball, stride, steps, norm, box, keep_best)

    if restarts == 1:
        best, _ = search(jnp.asarray(key))
    else:
        points, values = jax.vmap(search)(jax.random.split(key, restarts))
        winner = jnp.argmax(values, axis=0).reshape(1, -1, *[1] * (inputs.ndim - 1))
        best = jnp.take_along_axis(points, winner, axis=0)[0]
    valid = jnp.broadcast_to(ball + stride, (inputs.shape[0],) + (1,) * (inputs.ndim - 1))
    return jax.lax.stop_gradient(jnp.where(jnp.isnan(valid), jnp.nan, best).astype(inputs.dtype))


def fast_gradient_sign(
    objective: Objective,
    x: ArrayLike,
    *,
    radius: ArrayLike,
    norm: Norm = "l_inf",
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
) -> jax.Array:
    r"""One step of projected gradient ascent from the given inputs, as long as the radius.

    .. math:: x' = \Pi\big(x + \epsilon\, \mathrm{sign}(\nabla g(x))\big)

    Args:
      objective: as in :func:`projected_gradient_ascent`.
      x: inputs, floating, shape ``[B, ...]``.
      radius: of the balls, in [0, inf), a scalar or one value per example.
      norm: ``"l_inf"``, or ``"l_2"`` for a step along the normalised gradient.
      lower: least value of an input's entries, broadcastable to ``x``; None leaves them free.
      upper: largest value, likewise.

    Returns:
      Perturbed inputs, the shape and dtype of ``x``.

    Raises:
      TypeError: as :func:`projected_gradient_ascent`.
      ValueError: as :func:`projected_gradient_ascent`.

    References:
      Goodfellow, Shlens and Szegedy (2015), arXiv 1412.6572.

    Example:
      >>> print(fast_gradient_sign(lambda x: x @ jnp.array([3.0, -4.0]), jnp.zeros([1, 2]), radius=0.5))
      [[ 0.5 -0.5]]
    """
    return projected_gradient_ascent(
        objective, x, jax.random.key(0), radius=radius, step_size=radius, steps=1, norm=norm, lower=lower,
        upper=upper, random_start=False,
    )  # fmt: skip


def _climb(objective, inputs, start, radius, step_size, steps, norm, box, keep_best):
    """The end of one path, or the best input on it, and its value."""

    def step(carry, _):
        point, best = carry
        values, gradient = _value_and_gradient(objective, inputs + point)
        direction = _direction(jnp.where(jnp.isfinite(gradient), gradient, 0), norm)
        moved = _project(point + step_size * direction, inputs, radius, norm, box)
        return (moved, _better(best, (values, point)) if keep_best else best), None

    best = (_least_if_nan(objective(inputs)), jnp.zeros_like(inputs)) if keep_best else None
    (point, best), _ = jax.lax.scan(step, (start, best), length=steps)
    end = _least_if_nan(objective(inputs + point)), point  # not computed where nobody asks for it
    values, point = end if best is None else _better(best, end)
    lower, upper = (-jnp.inf if box[0] is None else box[0]), (jnp.inf if box[1] is None else box[1])
    return jnp.clip(inputs + point, lower, upper), values


def _better(one, other):
    """Of two pairs of values and points the one with the larger value, the first if even."""
    wins = other[0] > one[0]
    rows = wins.reshape(wins.shape + (1,) * (other[1].ndim - 1))
    return jnp.where(wins, other[0], one[0]), jnp.where(rows, other[1], one[1])


def _value_and_gradient(objective, points):
    values, pullback = jax.vjp(objective, points)
    return _least_if_nan(values), pullback(jnp.ones_like(values))[0]


def _least_if_nan(values):
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def _direction(gradient, norm):
    """The steepest ascent of unit length in the norm; zero where the gradient is."""
    if norm == "l_inf":
        return jnp.sign(gradient)
    scaled, _, length = _in_parts(gradient)
    return scaled / jnp.where(length > 0, length, 1)


def _in_parts(vectors):
    """Each over its largest entry, that entry, and the length of the quotient: no square leaves the range."""
    axes = tuple(range(1, vectors.ndim))
    largest = jnp.max(jnp.abs(vectors), axes, keepdims=True, initial=0)
    scaled = vectors / jnp.where(largest > 0, largest, 1)
    return scaled, largest, jnp.sqrt(jnp.sum(jnp.square(scaled), axes, keepdims=True))


def _project(point, inputs, radius, norm, box):
    """The nearest change of the inputs in the ball, then moved into the box, which keeps it in the ball."""
    if norm == "l_inf":
        point = optax.projections.projection_box(point, -radius, radius)
    else:
        scaled, largest, length = _in_parts(point)
        outside = length > radius / jnp.where(largest > 0, largest, 1)
        point = jnp.where(outside, scaled * (radius / jnp.where(length > 0, length, 1)), point)
    return _into_box(point, inputs, box)


def _into_box(point, inputs, box):
    lower, upper = box
    if lower is None and upper is None:
        return point
    # The box holds the centre: clipping to it brings no entry further away from the centre.
    moved = optax.projections.projection_box(
        inputs + point, -jnp.inf if lower is None else lower, jnp.inf if upper is None else upper
    )
    return moved - inputs


def _check(objective, inputs, *, steps, restarts, norm):
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f"x must have a floating dtype, got {inputs.dtype}")
    if inputs.ndim == 0:
        raise ValueError("x must have a leading axis of examples, got a scalar")
    if norm not in ("l_inf", "l_2"):
        raise ValueError(f"norm must be 'l_inf' or 'l_2', got {norm!r}")
    for name, count in (("steps", steps), ("restarts", restarts)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {count!r}")
    values = jax.eval_shape(objective, inputs)
    if getattr(values, "shape", None) != inputs.shape[:1]:
        raise ValueError(
            f"objective must return one value per example, shape {inputs.shape[:1]}, got "
            f"{getattr(values, 'shape', type(values).__name__)}"
        )


def _size(name, value, inputs):
    """A radius or step size with the axes of the inputs; NaN where it is none."""
    size = checks.per_example(name, value, "[0, inf)", inputs)
    if jnp.shape(value) not in ((), inputs.shape[:1]):
        raise ValueError(f"{name} must be a scalar or have shape {inputs.shape[:1]}, got {jnp.shape(value)}")
    return size


def _bound(name, value, inputs):
    if value is None:
        return None
    bound = jnp.asarray(value).astype(inputs.dtype)
    try:
        return jnp.broadcast_to(bound, inputs.shape)
    except ValueError:
        raise ValueError(f"{name} must broadcast to x, of shape {inputs.shape}, got {bound.shape}") from None
