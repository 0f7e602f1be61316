r"""Gradients of an outer loss at the minimiser of an inner one: references to judge a best response by.

For ``w*(h)``, the minimiser of ``inner_loss(w, h)``, the gradient of ``outer_loss(w*(h), h)`` is

.. math:: \frac{dF}{dh} = \partial_h F - (\partial_h \partial_w f)^\top (\partial_w^2 f)^{-1} \partial_w F

the direct term and the one through the minimiser. :func:`implicit_hypergradient` solves for it at parameters
that were trained; :func:`unrolled_hypergradient` trains and differentiates through every step. Both take any
pytrees and any two functions; neither forms a matrix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg import checks, linalg

Loss = Callable[[Any, Any], jax.Array]
Solve = Callable[[Callable[[Any], Any], Any], Any]


class Hypergradient(NamedTuple):
    """A hypergradient and what to judge it by."""

    value: jax.Array
    """The outer loss, a scalar."""
    gradient: Any
    """Its total derivative, the structure, shapes and dtypes of ``hyper``."""
    params: Any
    """Where it was taken: the parameters given, or those at the end of the steps."""
    stationarity: jax.Array
    """Norm of the inner gradient there, a scalar. The hypergradient's error is of its order."""
    residual: jax.Array
    """Norm of what the linear solver left over that of its right side, a scalar; 0 without a solver."""


def implicit_hypergradient(
    inner_loss: Loss, outer_loss: Loss, params: Any, hyper: Any, *, solve: Solve | None = None
) -> Hypergradient:
    r"""The hypergradient by the implicit function theorem, at parameters that minimise the inner loss.

    .. math:: \partial_h F - (\partial_h \partial_w f)^\top q, \qquad (\partial_w^2 f)\, q = \partial_w F

    Exact where the inner gradient is 0 and its Hessian positive definite. A singular Hessian has no unique
    minimiser; conjugate gradients then find the hypergradient if the outer loss is constant along the
    directions of curvature 0.

    Args:
      inner_loss: ``(params, hyper) -> scalar``, twice differentiable.
      outer_loss: ``(params, hyper) -> scalar``, which may depend on ``hyper`` directly.
      params: a pytree of floating arrays, the minimiser.
      hyper: a pytree of floating arrays.
      solve: ``(matvec, right_side) -> solution`` for trees like ``params``. By default
        ``jax.scipy.sparse.linalg.cg`` to a relative residual of the precision to the power 3/4; for large
        networks bound its work, as ``lambda a, b: jax.scipy.sparse.linalg.cg(a, b, maxiter=50)[0]``. It costs
        one Hessian-vector product a step, about two gradients.

    Returns:
      The :class:`Hypergradient`. Computed in at least float32.

    Raises:
      TypeError: leaves that are not floating, or a loss that does not return a real scalar.

    References:
      Larsen et al. (1996); Lorraine, Vicol and Duvenaud (2020), arXiv 1911.02590;
      ``jaxreg.theory.self_tuning``.

    Example:
      Ridge regression of one number: the minimiser is t / (1 + exp(h)), its derivative at h = 0 -t / 4.

      >>> def inner(w, h):
      ...     return 0.5 * (w - 2.0) ** 2 + 0.5 * jnp.exp(h) * w**2
      >>> def outer(w, h):
      ...     return 3.0 * w + h
      >>> found = implicit_hypergradient(inner, outer, jnp.array(1.0), jnp.array(0.0))
      >>> print(found.gradient, found.stationarity)   # 1 - 3 / 2
      -0.5 0.0
    """
    weights, numbers = _wide("params", params), _wide("hyper", hyper)
    _check(inner_loss, outer_loss, weights, numbers)
    slope = jax.grad(inner_loss)
    value, (right, direct) = jax.value_and_grad(outer_loss, argnums=(0, 1))(weights, numbers)
    # Linearised once: what the solver's steps share is not computed again in each.
    gradient, product = jax.linearize(lambda w: slope(w, numbers), weights)
    solution = (solve or _conjugate_gradients)(product, right)
    _, pull = jax.vjp(lambda h: slope(weights, h), numbers)
    (indirect,) = pull(solution)
    left = jax.tree.map(jnp.subtract, product(solution), right)
    size = linalg.norm(right)
    return Hypergradient(
        value,
        _like(jax.tree.map(jnp.subtract, direct, indirect), hyper),
        params,
        linalg.norm(gradient),
        linalg.norm(left) / jnp.where(size > 0, size, 1),
    )


def unrolled_hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Any,
    hyper: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    segments: int = 1,
) -> Hypergradient:
    r"""The hypergradient through all steps of an optimiser on the inner loss.

    .. math:: w_{k+1} = w_k - \mathrm{update}(\partial_w f(w_k, h)), \qquad \frac{d}{dh} F(w_K(h), h)

    It is the exact derivative of what these steps reach, which becomes that of the minimiser as they
    converge. Every step's state is kept for the way back, ``steps`` times the memory of parameters and
    optimiser; ``segments`` near the square root of ``steps`` needs about twice its own number instead, and
    one more pass over the steps.

    Args:
      inner_loss: ``(params, hyper) -> scalar``, twice differentiable.
      outer_loss: ``(params, hyper) -> scalar``.
      params: where the steps start, a pytree of floating arrays, taken as independent of ``hyper``.
      hyper: a pytree of floating arrays.
      optimizer: of optax, without a line search. Those that divide by the root of a squared gradient, as
        adam, need ``eps_root`` above 0, or where a gradient is 0 the derivative is NaN.
      steps: their number ``K``, at least 1.
      segments: parts that the steps are cut into, a divisor of ``steps``; each is computed again on the way
        back.

    Returns:
      The :class:`Hypergradient`, with ``residual`` 0. Computed in at least float32.

    Raises:
      TypeError: leaves that are not floating, or a loss that does not return a real scalar.
      ValueError: ``steps`` below 1, or ``segments`` that does not divide it.

    References:
      Domke (2012); Maclaurin, Duvenaud and Adams (2015), arXiv 1502.03492; ``jaxreg.theory.self_tuning``.

    Example:
      >>> def inner(w, h):
      ...     return 0.5 * (w - 2.0) ** 2 + 0.5 * jnp.exp(h) * w**2
      >>> found = unrolled_hypergradient(
      ...     inner, lambda w, h: 3.0 * w, jnp.array(0.0), jnp.array(0.0), optimizer=optax.sgd(0.4), steps=20)
      >>> print(f"{found.params:.4f} {found.gradient:.4f}")
      1.0000 -1.5000
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int of at least 1, got {steps!r}")
    if isinstance(segments, bool) or not isinstance(segments, int) or segments < 1 or steps % segments:
        raise ValueError(f"segments must be a divisor of steps, {steps}, got {segments!r}")
    start, numbers = _wide("params", params), _wide("hyper", hyper)
    _check(inner_loss, outer_loss, start, numbers)
    update = optax.with_extra_args_support(optimizer).update

    def reached(h: Any) -> tuple[jax.Array, Any]:
        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            weights, state = carry
            value, gradient = jax.value_and_grad(inner_loss)(weights, h)
            updates, state = update(gradient, state, weights, value=value)
            return (optax.apply_updates(weights, updates), state), None

        def segment(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            return jax.lax.scan(step, carry, length=steps // segments)

        body = segment if segments == 1 else jax.checkpoint(segment, prevent_cse=False)
        (weights, _), _ = jax.lax.scan(body, (start, optimizer.init(start)), length=segments)
        return outer_loss(weights, h), weights

    (value, weights), gradient = jax.value_and_grad(reached, has_aux=True)(numbers)
    stationarity = linalg.norm(jax.grad(inner_loss)(weights, numbers))
    return Hypergradient(
        value, _like(gradient, hyper), _like(weights, params), stationarity, jnp.zeros_like(stationarity)
    )


def _conjugate_gradients(product: Callable[[Any], Any], right: Any) -> Any:
    precision = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(right))
    # A right side of length 1, for the method adds up squares.
    size = jax.lax.stop_gradient(linalg.norm(right))
    size = jnp.where(size > 0, size, 1)
    unit = jax.tree.map(lambda leaf: leaf / size.astype(leaf.dtype), right)
    solution = jax.scipy.sparse.linalg.cg(product, unit, tol=precision**0.75)[0]
    return jax.tree.map(lambda leaf: leaf * size.astype(leaf.dtype), solution)


def _wide(name: str, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: checks.floating(name, leaf), tree)


def _like(tree: Any, model: Any) -> Any:
    """The tree in the dtypes of another."""
    return jax.tree.map(lambda leaf, wanted: leaf.astype(jnp.asarray(wanted).dtype), tree, model)


def _check(inner_loss: Loss, outer_loss: Loss, params: Any, hyper: Any) -> None:
    for name, loss in (("inner_loss", inner_loss), ("outer_loss", outer_loss)):
        found = jax.eval_shape(loss, params, hyper)
        if not isinstance(found, jax.ShapeDtypeStruct) or found.shape:
            raise TypeError(f"{name} must return a scalar, got {found}")
        if not jnp.issubdtype(found.dtype, jnp.floating):
            raise TypeError(f"{name} must return a real number, got dtype {found.dtype}")
