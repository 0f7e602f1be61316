"""Gradient accumulation for transformations that need more than the gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxreg import checks


def multi_steps(
    transformation: optax.GradientTransformation,
    every_k_schedule: int | Callable[[ArrayLike], ArrayLike],
    *,
    averaged: tuple[str, ...] = ("mean_slope",),
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.MultiSteps`` that averages extra arguments along with the gradient.

    ``optax.MultiSteps`` averages the gradient over k calls but hands the extra arguments of the last call on.
    A quotient of averages, as in :func:`jaxreg.transforms.normalize_by_mean_slope`, then has the slope of the
    last micro-batch alone in its denominator, which is 0 if that batch has no error. Here numerator and
    denominator are averaged separately, as over the whole batch:

    .. math:: \frac{\tfrac1k \sum_j g_j}{\tfrac1k \sum_j \bar s_j}

    Args:
      transformation: what to apply every k-th call.
      every_k_schedule: number k of calls, at least 1, or a function of the number of updates made.
      averaged: extra arguments of ``update`` to average, scalars; ``("value",)`` for
        :func:`jaxreg.transforms.scale_by_risk`. Others are handed on from the last call.
      **options: those of ``optax.MultiSteps``, whose own averaging of the gradient stays in force.

    Returns:
      A transformation whose updates are 0 on all but every k-th call. Its state is that of
      ``optax.MultiSteps``, with the gradients' averages at ``acc_grads[0]`` and those of the arguments,
      float32, at ``acc_grads[1]``.

    Raises:
      TypeError: from ``update``, if one of ``averaged`` is missing or not a real scalar.

    References:
      Derived; ``sums-are-combined-before-the-quotient`` in ``jaxreg.theory.large_step``.

    Example:
      >>> from jaxreg import transforms
      >>> optimizer = multi_steps(transforms.normalized_logistic_gd(1.0), 2)
      >>> weights = jnp.zeros(1)
      >>> state = optimizer.init(weights)
      >>> for gradient, mean_slope in ((-0.75, 0.5), (0.0, 0.0)):   # the second batch is fitted
      ...     update, state = optimizer.update(jnp.array([gradient]), state, weights, mean_slope=mean_slope)
      >>> print(update)   # 0.375 / 0.25
      [1.5]
    """
    inner = optax.with_extra_args_support(transformation)

    def init_pair(pair: tuple) -> Any:
        return inner.init(pair[0])

    def update_pair(pair: tuple, state: Any, params: tuple | None = None, **others: Any) -> tuple[Any, Any]:
        updates, means = pair
        updates, state = inner.update(
            updates, state, None if params is None else params[0], **others, **means
        )
        return (updates, means), state

    pair_of: Any = optax.GradientTransformationExtraArgs(init_pair, update_pair)  # pyright: ignore
    steps = optax.MultiSteps(pair_of, every_k_schedule, **options)

    def init(params: Any) -> optax.MultiStepsState:
        return steps.init((params, {name: jnp.zeros([], jnp.float32) for name in averaged}))

    def update(
        updates: Any, state: optax.MultiStepsState, params: Any = None, **extra: Any
    ) -> tuple[Any, optax.MultiStepsState]:
        given = {name: _real_scalar(name, extra.get(name)) for name in averaged}
        others = {name: value for name, value in extra.items() if name not in averaged}
        pair = None if params is None else (params, given)
        both, state = steps.update((updates, given), state, pair, **others)
        return both[0], state  # pyright: ignore[reportIndexIssue]

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _real_scalar(name: str, value: ArrayLike | None) -> jax.Array:
    return checks.scalar(name, value, "[-inf, inf]").astype(jnp.float32)
