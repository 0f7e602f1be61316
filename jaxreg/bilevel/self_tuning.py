"""Self-tuning networks: regularisation that tunes itself while training.

MacKay, Vicol, Lorraine, Duvenaud, Grosse (ICLR 2019, arXiv 1903.03088); the centred form of Bae, Grosse
(NeurIPS 2020, arXiv 2010.13514).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from jaxreg import checks
from jaxreg.bilevel.alternation import (
    History,
    Loss,
    SelfTuningState,
    Steps,
    centred_objective,
    evaluated,
    objective,
)
from jaxreg.bilevel.centred import NetworkLoss


class SelfTuning(NamedTuple):
    """Functions of the state, pure and compiled; see :func:`self_tuning`."""

    init: Callable[[Any, Any], SelfTuningState]
    """``(params, hyperparameters) -> state``."""
    step: Callable[[SelfTuningState, Any, Any, ArrayLike], tuple[SelfTuningState, History]]
    """``(state, train_batches, valid_batches, key) -> (state, history)``: the whole alternation. Every leaf
    of the batches has a leading axis of ``train_steps`` and ``valid_steps``."""
    train_step: Callable[[SelfTuningState, Any, ArrayLike], tuple[SelfTuningState, Any]]
    """``(state, batch, key) -> (state, loss)``: one step of the parameters."""
    tune_step: Callable[[SelfTuningState, Any, ArrayLike], tuple[SelfTuningState, Any]]
    """``(state, batch, key) -> (state, loss)``: one step of the hyper-parameters and scales."""


def self_tuning(
    train_loss: Loss,
    valid_loss: Loss,
    *,
    inner: optax.GradientTransformation | optax.MultiSteps,
    outer: optax.GradientTransformation | optax.MultiSteps,
    scale: optax.GradientTransformation | optax.MultiSteps | None,
    train_steps: int = 2,
    valid_steps: int = 1,
    entropy_weight: ArrayLike = 1e-3,
    warmup_steps: ArrayLike = 0,
    centred: bool = False,
    perturb_validation: bool = True,
    batch_size: int | None = None,
    has_aux: bool = False,
) -> SelfTuning:
    r"""Alternate between training a network that responds to its hyper-parameters, and tuning these.

    With perturbations :math:`\epsilon \sim \mathcal N(0, \mathrm{diag}\,\sigma^2)` of each example,
    :math:`\sigma = \mathrm{softplus}(\xi)`, and the network's weights :math:`\hat w_\phi(\lambda)`,

    .. math:: \phi &\leftarrow \phi - \text{inner}\big(\nabla_\phi\, f(\lambda + \epsilon,
                  \hat w_\phi(\lambda + \epsilon))\big), \\
              (\lambda, \xi) &\leftarrow (\lambda, \xi) - \text{outer, scale}\big(\nabla_{\lambda, \xi}
                  [F(\lambda + \epsilon, \hat w_\phi(\lambda + \epsilon)) - \tau \mathcal H(\sigma)]\big)

    with the training loss f, the validation loss F and the entropy :func:`jaxreg.bilevel.entropy`. ``step``
    takes ``train_steps`` of the first kind and then ``valid_steps`` of the second, on a batch each.

    Both losses have the signature ``loss(params, hyperparameters, values, batch, key)`` and return a scalar:

    * ``hyperparameters``: what best-response layers take: unconstrained and perturbed, ``[B, h]``, or ``[h]``
      if all are shared or nothing is perturbed; in the centred form the deviation from their current
      values, or None where it is 0.
    * ``values``: the tree of values that regularisers take, each ``[B, *shape]``, or ``shape`` if shared.
    * ``batch``: as given to the step. ``key``: for masks and augmentation, its own in every step.

    The training loss applies the regularisers, the validation loss leaves them off. The hyper-parameters'
    gradient goes through the network's response; it also goes through ``values`` where the validation
    loss uses them.

    Centred (Delta-STN), the training loss must be a :class:`jaxreg.bilevel.NetworkLoss`. Elementary parts,
    and parameters that are no :class:`jaxreg.bilevel.BestResponse`, follow the gradient of the loss at the
    current hyper-parameters, unperturbed; responses follow that of the perturbed loss with the network
    linearised there (:func:`jaxreg.bilevel.linearised`). The validation loss is that of the full network.
    Each step of the hyper-parameters ends with :func:`jaxreg.bilevel.recentre`, so what the network computes
    at any hyper-parameters does not change with the centre; the inner optimiser's state stays. The reported
    training loss is the unperturbed one.

    Args:
      train_loss: f.
      valid_loss: F.
      inner: optimiser of the parameters, any of optax; gets ``value=`` too, if it takes extra arguments.
      outer: optimiser of the unconstrained hyper-parameters, a tree of arrays like the hyper-parameters'.
      scale: optimiser of the raw scales ``xi``, likewise; None fixes them, and the entropy is of no effect.
      train_steps: in an alternation, at least 1.
      valid_steps: in an alternation, at least 1.
      entropy_weight: ``tau`` in [0, inf), in units of the validation loss per nat. Larger ones explore more
        widely: where F is quadratic the scale settles at :math:`\sigma_j^2 = \tau / F_{jj}`.
      warmup_steps: training steps before hyper-parameters and scales begin to move, at least 0. Training is
        perturbed from the beginning; until then ``tune_step`` returns the loss and changes nothing.
      centred: whether to train the centred, linearised form.
      perturb_validation: whether the validation loss is perturbed. The released code does so only where it
        tunes scales; without, scales are moved by the entropy alone and should be fixed.
      batch_size: number of examples of a batch; None for the leading axis of its first leaf.
      has_aux: whether both losses return a pair of a scalar and something to report, as in
        ``jax.value_and_grad``.

    Returns:
      The functions ``init``, ``step``, ``train_step`` and ``tune_step``. They compile once for each shape of
      batch, and never again as values change.

    Raises:
      TypeError: losses or optimisers that are none, counts that are not ints; centred, a training loss that
        is no NetworkLoss. From the functions, a leaf of hyper-parameters that is none.
      ValueError: counts or weights out of range (traced ones give NaN). From the functions, batches without
        the axis above, a loss that is no scalar.

    Note:
      A CPU is ten times slower at convolutions inside a loop such as ``jax.lax.scan``: for a convolutional
      network there, call ``step`` from Python.

      On several devices, give sharded batches to ``step`` under ``jit``. Inside ``shard_map`` let the losses
      return the mean over devices (``jax.lax.pmean``) and fold the device's index into none but their own
      keys: parameters and hyper-parameters then stay the same on all.

    References:
      MacKay et al. (2019), arXiv 1903.03088, the alternating updates; Bae, Grosse (2020), arXiv 2010.13514,
      from its abstract and reviews; ``jaxreg.theory.self_tuning``.

    Example:
      A weight decay tuned while training; the data have no noise, so the less of it the better.

      >>> import jax.numpy as jnp
      >>> from jaxreg import bilevel
      >>> def valid_loss(layer, hyperparameters, values, batch, key):
      ...     x, y = batch
      ...     return jnp.mean((bilevel.best_response_dense(layer, x, hyperparameters) - y) ** 2)
      >>> def train_loss(layer, hyperparameters, values, batch, key):
      ...     kernel, _ = layer.weights(hyperparameters)
      ...     fit = valid_loss(layer, hyperparameters, values, batch, key)
      ...     return fit + values["weight_decay"] * jnp.sum(kernel**2)
      >>> tuner = self_tuning(
      ...     train_loss, valid_loss, inner=optax.sgd(0.1), outer=optax.adam(0.03), scale=None,
      ...     warmup_steps=20)
      >>> x = jax.random.normal(jax.random.key(0), (3, 32, 5))   # two batches to train, one to validate
      >>> y = jnp.sum(x, axis=-1, keepdims=True)
      >>> layer = bilevel.best_response_dense_init(jax.random.key(1), 5, 1, hyperparameters=1, use_bias=False)
      >>> state = tuner.init(layer, {"weight_decay": bilevel.Positive(0.5, shared=True)})
      >>> def alternate(state, key):
      ...     return tuner.step(state, (x[:2], y[:2]), (x[2:], y[2:]), key)
      >>> state, history = jax.lax.scan(alternate, state, jax.random.split(jax.random.key(2), 200))
      >>> decay = history.values["weight_decay"]
      >>> print(decay.shape, jnp.isclose(decay[8, 0], 0.5), decay[-1, 0] < 0.1)
      (200, 1) True True
    """
    rules = [_plain(rule) for rule in (inner, outer, scale)]
    _check(train_loss, valid_loss, centred, rules)
    checks.count("train_steps", train_steps)
    checks.count("valid_steps", valid_steps)
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    if checks.is_concrete(warmup_steps) and not (isinstance(warmup_steps, int) and warmup_steps >= 0):
        raise ValueError(f"warmup_steps must be an int of at least 0, got {warmup_steps!r}")
    steps = Steps(
        objective=(centred_objective if centred else objective)(train_loss, has_aux),
        valid_loss=evaluated("valid_loss", valid_loss, has_aux),
        inner=optax.with_extra_args_support(rules[0]),
        outer=optax.with_extra_args_support(rules[1]),
        scale=optax.with_extra_args_support(optax.set_to_zero() if scale is None else rules[2]),
        train_steps=train_steps,
        valid_steps=valid_steps,
        entropy_weight=checks.scalar("entropy_weight", entropy_weight, "[0, inf)"),
        warmup_steps=warmup_steps,
        centred=centred,
        perturb_validation=perturb_validation,
        batch_size=batch_size,
    )
    return SelfTuning(
        steps.init, jax.jit(steps.alternation), _replacing(steps.trained), _replacing(steps.tuned)
    )


def _replacing(
    changes: Callable[..., tuple[dict[str, Any], Any]],
) -> Callable[..., tuple[SelfTuningState, Any]]:
    """A step from a function that returns the fields that change; it alone is compiled."""
    # A compiled function would copy the others, of which the parameters are large.
    compiled = jax.jit(changes)

    def step(state: SelfTuningState, batch: Any, key: ArrayLike) -> tuple[SelfTuningState, Any]:
        changed, report = compiled(state, batch, key)
        return state._replace(**changed), report

    return step


def _plain(optimiser: Any) -> Any:
    """``optax.MultiSteps`` as a transformation, which it is not although it has the functions of one."""
    if isinstance(optimiser, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(optimiser.init, optimiser.update)  # pyright: ignore
    return optimiser


# -- Checks


def _check(train_loss: Any, valid_loss: Any, centred: bool, optimisers: Sequence[Any]) -> None:
    for name, loss in (("train_loss", train_loss), ("valid_loss", valid_loss)):
        if not callable(loss):
            raise TypeError(f"{name} must be a function, got {loss!r}")
    if centred and not isinstance(train_loss, NetworkLoss):
        raise TypeError(f"train_loss must be a NetworkLoss in the centred form, got {train_loss!r}")
    for name, optimiser in zip(("inner", "outer", "scale"), optimisers, strict=True):
        given = optimiser is not None or name != "scale"
        if given and not isinstance(optimiser, optax.GradientTransformation):
            raise TypeError(f"{name} must be an optax optimiser, got {optimiser!r}")
