"""The penalties over domains beyond what every penalty must satisfy: released variants, what each is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import penalties
from jaxreg.theory.oracles import quick_jit
from tests import domain_oracles

SIZES = (7, 4, 5)
VARIANTS = {
    "coral": [{"unbiased": True}, {"mean_weight": 0.0, "covariance_weight": 0.25}],
    "irm": [{"halves": True}, {}],
    "v_rex": [{}],
    "iga": [{"domain_reduction": "sum"}, {}],
    "fish": [{}],
    "fishr": [{"entry_reduction": "mean"}, {}],
    "spectral_decoupling": [{}, {"target": 0.5, "class_reduction": "sum"}],
}
"""DomainBed's come first."""


def draw(seed, classes=3):
    """A head, and domains of different sizes, plain and padded to one size with NaN."""
    rng = np.random.default_rng(seed)
    head = {"kernel": rng.normal(size=(4, classes)), "bias": rng.normal(size=classes)}
    domains, padded, labels = [], [], []
    for size in SIZES:
        features = rng.normal(size=4) + rng.normal(size=(size, 4))
        classes_of = rng.integers(classes, size=size)
        domains.append((features, np.eye(classes)[classes_of], np.ones(size)))
        padded.append(np.pad(features, ((0, max(SIZES) - size), (0, 0)), constant_values=np.nan))
        labels.append(np.pad(classes_of, (0, max(SIZES) - size), constant_values=-1))
    where = np.arange(max(SIZES)) < np.array(SIZES)[:, None]
    return head, domains, np.stack(padded), np.stack(labels), where


def assert_same(found, expected, tolerance=1e-11):
    for actual, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)


def test_values_and_gradients_of_unequal_domains_are_those_of_the_released_variants():
    head, domains, features, labels, where = draw(0)
    calls = [(name, options) for name, variants in VARIANTS.items() for options in variants]
    hgp = {"hessian_weight": 0.7, "gradient_weight": 0.3}

    def ours(head, features):
        data = (head, features, labels)
        found = [getattr(penalties, name)(*data, where=where, **options) for name, options in calls]
        return jnp.stack([*found, penalties.hessian_gradient_alignment(*data, where=where, **hgp)])

    def theirs(head, domains):
        found = [getattr(domain_oracles, name)(head, domains, **options) for name, options in calls]
        return jnp.stack([*found, domain_oracles.hgp(head, domains, **hgp)])

    mix = np.random.default_rng(9).uniform(1, 2, len(calls) + 1)

    def mixed(function):
        """All values, and the gradients of one mixture of them."""

        def value(*args):
            values = function(*args)
            return values @ mix, values

        return quick_jit(jax.value_and_grad(value, (0, 1), has_aux=True))

    (_, values), (of_head, of_features) = mixed(ours)(head, features)
    (_, expected), (of_head_expected, of_domains) = mixed(theirs)(head, domains)
    assert_same((values, of_head), (expected, of_head_expected))
    for e, size in enumerate(SIZES):
        assert_same(of_features[e, :size], of_domains[e][0])
        assert not np.any(of_features[e, size:])


def test_the_class_hgp_is_nan_where_a_gradient_vanishes_and_the_penalty_is_not():
    head = {"kernel": jnp.zeros((2, 2))}
    features, labels = np.ones((2, 2, 2)), np.array([[0, 1], [0, 0]])
    domains = [(z, np.eye(2)[y], np.ones(2)) for z, y in zip(features, labels, strict=True)]
    hyper = {"hessian_weight": 1.0, "gradient_weight": 1.0}
    by_norms, plain = quick_jit(
        lambda head: [
            domain_oracles.hgp(head, domains, product=product, **hyper)
            for product in (domain_oracles.by_norms, domain_oracles.hessian_times_gradient)
        ]
    )(head)
    assert np.isnan(by_norms)
    value, gradient = quick_jit(
        jax.value_and_grad(lambda head: penalties.hessian_gradient_alignment(head, features, labels, **hyper))
    )(head)
    assert_same(value, plain)
    assert np.all(np.isfinite(gradient["kernel"]))


def test_moving_averages_of_the_variances_are_those_of_domainbed():
    head, domains, features, labels, where = draw(1)
    decay, data = 0.875, (features, labels)

    @quick_jit
    def ours(head, averages):
        options = {"where": where, "entry_reduction": "mean", "averages": averages, "decay": decay}
        value = jax.value_and_grad(lambda head: penalties.fishr(head, *data, **options))(head)
        variances = penalties.gradient_variances(head, *data, where=where)
        return value, jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, averages, variances)

    @quick_jit
    def released(head, averages):
        def penalty(head):
            moved = [
                decay * old + (1 - decay) * domain_oracles.variances(head, domain)
                for old, domain in zip(averages, domains, strict=True)
            ]
            corrected = [one / (1 - decay) for one in moved]
            return domain_oracles.spread(corrected, domains) / moved[0].size, moved

        (value, moved), gradient = jax.value_and_grad(penalty, has_aux=True)(head)
        return (value, gradient), moved

    averages = {"kernel": jnp.zeros((3, 4, 3)), "bias": jnp.zeros((3, 3))}
    theirs = [jnp.zeros(15)] * 3
    for step in range(3):
        scaled = jax.tree.map(lambda leaf, step=step: leaf * (1 + step), head)
        found, averages = ours(scaled, averages)
        expected, theirs = released(scaled, theirs)
        assert_same(found, expected)
    with pytest.raises(ValueError, match="averages"):
        penalties.fishr(head, *data, where=where, averages={"kernel": averages["kernel"]})
    with pytest.raises(ValueError, match="decay"):
        penalties.fishr(head, *data, where=where, averages=averages, decay=1.0)


def test_an_unknown_reduction_is_refused_by_name():
    arguments = {"kernel": np.ones((1, 2))}, np.ones((2, 1, 1)), np.zeros((2, 1), int)
    for name, argument in (
        ("iga", "domain_reduction"),
        ("fishr", "entry_reduction"),
        ("spectral_decoupling", "class_reduction"),
    ):
        with pytest.raises(ValueError, match=argument):
            getattr(penalties, name)(*arguments, **{argument: "none"})


def test_coral_and_spectral_decoupling_need_no_labels():
    head, _, features, labels, where = draw(2)

    @quick_jit
    def values(labels):
        return [
            [penalty(head, features, *given, where=where) for given in ((), (labels,))]
            for penalty in (penalties.coral, penalties.spectral_decoupling)
        ]

    for without, with_labels in values(labels):
        assert without == with_labels


def test_a_single_example_has_no_covariance_even_an_unbiased_one():
    features = np.array([[[1.0, 2.0]], [[3.0, 2.0]]])
    value, gradient = jax.value_and_grad(
        lambda z: penalties.coral({"kernel": np.ones((2, 2))}, z, unbiased=True)
    )(features)
    assert value == 2.0
    assert_same(gradient, np.array([[[-2.0, 0.0]], [[2.0, 0.0]]]))


def test_irm_of_a_calibrated_predictor_is_zero_and_that_of_a_scaled_one_is_not():
    features = np.random.default_rng(3).normal(size=(2, 6, 3))
    head = {"kernel": np.random.default_rng(4).normal(size=(3, 4))}
    calibrated = jax.nn.softmax(features @ head["kernel"], axis=-1)
    assert penalties.irm(head, features, calibrated) < 1e-30
    assert penalties.irm({"kernel": 2 * head["kernel"]}, features, calibrated) > 1e-3


def test_a_large_common_part_of_the_logits_does_not_spoil_irm_in_single_precision():
    rng = np.random.default_rng(5)
    head = {"kernel": rng.normal(size=(3, 4)).astype(np.float32), "bias": np.full(4, 1e5, np.float32)}
    features, labels = rng.normal(size=(2, 50, 3)).astype(np.float32), rng.integers(4, size=(2, 50))
    # The logits as single precision has them: their common part alone is what may not matter.
    logits = np.asarray(jnp.asarray(features) @ head["kernel"] + head["bias"], np.float64)
    exact = penalties.irm({"kernel": np.eye(4)}, logits - 1e5, labels)
    assert_same(penalties.irm(head, features, labels), exact, 1e-5)


# -- Weights of group DRO


def test_group_dro_weights_are_those_of_domainbed_and_of_any_scale():
    weights, losses = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.25, 3.0])
    expected = domain_oracles.group_dro_weights(weights, losses, 0.5)
    for scale in (1.0, 7.0):
        assert_same(penalties.group_dro_weights(scale * weights, losses, 0.5), expected)
    assert penalties.group_dro_weights(weights, losses, 0.0) == pytest.approx(weights)


def test_group_dro_weights_go_to_the_worst_domain_without_overflow_and_a_zero_stays():
    losses = np.array([1.0, 1e4, 1e3, 1e6])
    found = penalties.group_dro_weights(np.array([0.5, 0.25, 0.25, 0.0]), losses, 10.0)
    np.testing.assert_array_equal(found, [0, 1, 0, 0])
    ones = jnp.ones(2, jnp.bfloat16)
    assert penalties.group_dro_weights(ones, ones, 1.0).dtype == jnp.float32


def test_group_dro_ascends_to_the_maximum_over_the_simplex_and_lets_no_gradient_through():
    losses, weights = np.array([0.3, 0.9, 0.1]), np.ones(3)
    for _ in range(200):
        weights = penalties.group_dro_weights(weights, losses, 0.2)
    assert float(weights @ losses) == pytest.approx(0.9, abs=1e-6)
    slope = jax.grad(lambda losses: penalties.group_dro_weights(jnp.ones(3), losses, 1.0)[0])
    assert not np.any(slope(jnp.asarray(losses)))


def test_group_dro_weights_that_cannot_be_are_nan_or_refused():
    for weights, losses in (([1.0, -1.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0]), ([1.0, 1.0], [0.0, np.inf])):
        assert np.all(np.isnan(penalties.group_dro_weights(np.array(weights), np.array(losses), 1.0)))
    with pytest.raises(ValueError, match="weights"):
        penalties.group_dro_weights(np.ones(2), np.ones(3), 1.0)
    with pytest.raises(ValueError, match="step_size"):
        penalties.group_dro_weights(np.ones(2), np.ones(2), -1.0)
    with pytest.raises(TypeError, match="losses"):
        penalties.group_dro_weights(np.ones(2), np.ones(2, int), 1.0)


@pytest.mark.parametrize("name", ["irm", "v_rex", "iga", "fish", "fishr"])
def test_a_class_ruled_out_by_its_bias_is_as_good_as_deleted(name):
    generator = np.random.default_rng(8)
    head = {"kernel": generator.normal(size=(3, 4)), "bias": np.append(generator.normal(size=3), -np.inf)}
    without = {"kernel": head["kernel"][:, :3], "bias": head["bias"][:3]}
    features, labels = generator.normal(size=(2, 5, 3)), generator.integers(3, size=(2, 5))
    found, slopes = jax.value_and_grad(getattr(penalties, name), argnums=(0, 1))(head, features, labels)
    wanted, desired = jax.value_and_grad(getattr(penalties, name), argnums=(0, 1))(without, features, labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(slopes[1], desired[1], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(slopes[0]["kernel"][:, :3], desired[0]["kernel"], rtol=1e-10, atol=1e-14)
    assert not np.any(slopes[0]["kernel"][:, 3])
    assert slopes[0]["bias"][3] == 0
