"""What only the alignment of Hessians must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import penalties
from jaxreg.penalties import general, head_moments
from jaxreg.theory.oracles import quick_jit
from tests import penalty_oracles

GENERATOR = np.random.default_rng(11)
HEAD = {"kernel": GENERATOR.normal(size=(3, 2)), "bias": GENERATOR.normal(size=2)}
FEATURES = GENERATOR.normal(size=(3, 5, 3))
LABELS = GENERATOR.integers(2, size=(3, 5))
TARGETS = np.eye(2)[LABELS]


@pytest.mark.parametrize("reference", ["pooled", "mean"])
@pytest.mark.parametrize("detach", [True, False])
def test_every_reference_of_the_hessian_gradient_product(reference, detach):
    """Detached or not makes no difference to the mean, and does to the pooled reference."""

    def found(head, features):
        return penalties.hessian_gradient_alignment(
            head, features, LABELS, reference=reference, detach_reference=detach
        )

    def wanted(head, features, detach=detach):
        options = {"hessian_weight": 1.0, "gradient_weight": 1.0, "reference": reference, "detach": detach}
        weights = np.ones(LABELS.shape)
        return penalty_oracles.hessian_gradient_alignment(head, features, TARGETS, weights, **options)

    actual = jax.tree.leaves(quick_jit(jax.value_and_grad(found, (0, 1)))(HEAD, FEATURES))
    expected = jax.tree.leaves(quick_jit(jax.value_and_grad(wanted, (0, 1)))(HEAD, FEATURES))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)
    other = quick_jit(jax.grad(lambda *args: wanted(*args, detach=not detach), 1))(HEAD, FEATURES)
    same = np.allclose(other, actual[-1], rtol=1e-9, atol=1e-12)
    assert same == (reference == "mean")


def test_two_classes_weigh_more_than_one_logit():
    """The squared norms of g, diag H, H and H g are 2, 2, 4 and 8 times as large."""
    one = {name: leaf[..., 1:] - leaf[..., :1] for name, leaf in HEAD.items()}

    def terms(head):
        zero = {"gradient_weight": 0.0}
        return jnp.stack(
            [
                penalties.hessian_diagonal_alignment(head, FEATURES, LABELS, hessian_weight=0.0),
                penalties.hessian_diagonal_alignment(head, FEATURES, LABELS, **zero),
                penalties.hessian_alignment(head, FEATURES, LABELS, **zero),
                penalties.hessian_gradient_alignment(head, FEATURES, LABELS, **zero),
            ]
        )

    ratios = quick_jit(terms)(HEAD) / quick_jit(terms)(one)
    np.testing.assert_allclose(ratios, [2, 2, 4, 8], rtol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_the_bias_of_the_probes_is_as_predicted_and_goes_away_on_request(shared):
    """The mean over 4000 keys, within five standard errors of the exact penalty plus off(...) / R."""
    probes = 4
    options = {"probes": probes, "shared_probes": shared, "gradient_weight": 0.0}

    def estimates(key):
        def sampled(remove_bias):
            return penalties.hutchinson_alignment(
                HEAD, FEATURES, LABELS, key=key, remove_bias=remove_bias, **options
            )

        def loss_fn(head, batch):
            return penalty_oracles.domain_loss(head, *batch, jnp.ones(5))

        batches = jnp.asarray(FEATURES), jnp.asarray(TARGETS)
        twin = general.hutchinson_alignment(loss_fn, HEAD, batches, key=key, remove_bias=True, **options)
        return jnp.stack([sampled(False), sampled(True), twin])

    keys = jax.random.split(jax.random.key(3), 4000)
    samples = np.asarray(jax.jit(jax.vmap(estimates))(keys))
    _, hessians, _ = quick_jit(penalty_oracles.derivatives)(HEAD, FEATURES, TARGETS, np.ones(LABELS.shape))
    hessians = np.asarray(hessians)
    mean = hessians.mean(0)

    def off(matrices):
        return np.sum(matrices**2, (-2, -1)) - np.sum(np.diagonal(matrices, 0, -2, -1) ** 2, -1)

    exact = np.mean(np.sum(np.diagonal(hessians - mean, 0, 1, 2) ** 2, -1))
    bias = np.mean(off(hessians - mean) if shared else off(hessians) + off(mean)) / probes
    error = 5 * samples.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - [exact + bias, exact, exact]) < error)
    assert error[0] < bias / 4


def test_a_common_optimum_hides_different_hessians_from_the_hessian_gradient_product():
    head = jax.tree.map(np.zeros_like, HEAD)
    features = np.stack([FEATURES[0], 3 * FEATURES[0]])
    uniform = np.full((2, 5, 2), 0.5)
    assert penalties.hessian_gradient_alignment(head, features, uniform) == 0
    assert penalties.hessian_alignment(head, features, uniform) > 1
    assert np.all(head_moments.gradient(head, features, uniform)["kernel"] == 0)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="reference"):
        penalties.hessian_gradient_alignment(HEAD, FEATURES, LABELS, reference="none")
    with pytest.raises(ValueError, match="method"):
        penalties.hessian_alignment(HEAD, FEATURES, LABELS, method="dense")
    with pytest.raises(ValueError, match="probes"):
        penalties.hutchinson_alignment(HEAD, FEATURES, LABELS, key=jax.random.key(0), probes=0)
