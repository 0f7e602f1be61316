"""The penalties of any head: on a linear one they equal the closed forms, which share no code with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import penalties
from jaxreg.penalties import general
from jaxreg.theory.oracles import quick_jit
from tests import penalty_oracles

NAMES = [name for name in penalties.__all__ if hasattr(general, name)]
GENERATOR = np.random.default_rng(10)
HEAD = {"kernel": GENERATOR.normal(size=(3, 3)), "bias": GENERATOR.normal(size=3)}
FEATURES = GENERATOR.normal(size=(2, 5, 3))
TARGETS = GENERATOR.dirichlet(np.ones(3), (2, 5))
BATCHES = FEATURES, TARGETS, np.ones((2, 5))


def loss_fn(head, batch):
    return penalty_oracles.domain_loss(head, *batch)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_linear_head_it_is_the_closed_form(name):
    key = {"key": np.array([0, 1], np.uint32), "probes": 3} if name == "hutchinson_alignment" else {}
    choices = [{}]
    if name == "hessian_gradient_alignment":
        choices = [{"reference": "mean"}, {"detach_reference": False}]
    elif key:
        choices = [{"shared_probes": True}, {"detach_reference": False}]

    def both(head, features):
        results = []
        for choice in choices:
            options = {"hessian_weight": 0.7, "gradient_weight": 0.3} | key | choice
            own = getattr(penalties, name)(head, features, TARGETS, **options)
            batches = (features, *map(jnp.asarray, BATCHES[1:]))
            results.append((own, getattr(general, name)(loss_fn, head, batches, **options)))
        return results

    for index in range(len(choices)):
        for argument in (0, 1):
            pair = [
                quick_jit(jax.value_and_grad(lambda *a, k=k, i=index: both(*a)[i][k], argument))(
                    HEAD, FEATURES
                )
                for k in (0, 1)
            ]
            for actual, wanted in zip(jax.tree.leaves(pair[1]), jax.tree.leaves(pair[0]), strict=True):
                np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)


def test_a_network_of_two_layers_and_a_closed_over_variable():
    """Against dense Hessians of the flat parameters."""
    params = {"first": GENERATOR.normal(size=(3, 4)), "head": GENERATOR.normal(size=(4, 1))}
    inputs, targets = GENERATOR.normal(size=(2, 5, 3)), GENERATOR.normal(size=(2, 5))

    def of_shift(shift):
        def loss(params, batch):
            hidden = jnp.tanh(batch[0] @ params["first"] + shift)
            return jnp.mean(jnp.square((hidden @ params["head"])[:, 0] - batch[1]))

        return loss

    def dense(shift):
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        hessian = jax.hessian(lambda flat, batch: of_shift(shift)(unravel(flat), batch))
        hessians = jax.vmap(hessian, (None, 0))(flat, (inputs, targets))
        mean = jnp.mean(hessians, 0)
        full = jnp.mean(jnp.sum(jnp.square(hessians - mean), (1, 2)))
        return full, jnp.mean(jnp.sum(jnp.square(jnp.einsum("eii->ei", hessians - mean)), 1))

    def found(shift):
        return tuple(
            penalty(of_shift(shift), params, (inputs, targets), gradient_weight=0.0)
            for penalty in (general.hessian_alignment, general.hessian_diagonal_alignment)
        )

    for actual, wanted in zip(
        jax.tree.leaves(quick_jit(jax.jvp, static_argnums=0)(found, (0.5,), (1.0,))),
        jax.tree.leaves(quick_jit(jax.jvp, static_argnums=0)(dense, (0.5,), (1.0,))),
        strict=True,
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9)


def test_mistakes_are_refused_by_name():
    domains = jnp.zeros(2)
    call = general.hessian_gradient_alignment
    with pytest.raises(ValueError, match="reference"):
        call(loss_fn, HEAD, BATCHES, reference="none")
    with pytest.raises(ValueError, match="batches"):
        call(loss_fn, HEAD, (FEATURES, TARGETS[:1]))
    with pytest.raises(ValueError, match="hessian_weight"):
        call(loss_fn, HEAD, BATCHES, hessian_weight=-1.0)
    for probes, remove_bias in ((0, False), (1, True)):
        with pytest.raises(ValueError, match="probes"):
            general.hutchinson_alignment(
                loss_fn, HEAD, domains, key=jax.random.key(0), probes=probes, remove_bias=remove_bias
            )
