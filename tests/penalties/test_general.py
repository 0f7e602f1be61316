"""The penalties of any head: on a linear one they equal the closed forms, which share no code with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import penalties
from jaxreg.penalties import general
from jaxreg.theory.oracles import quick_jit
from tests import penalty_oracles
from tests.test_penalty_conformance import PROBLEMS

ALIGNMENTS = [name for name in general.__all__ if name.endswith("alignment")]
OTHERS = {
    "irm": [{}, {"halves": True}],
    "v_rex": [{}],
    "iga": [{}, {"domain_reduction": "sum"}],
    "fish": [{}],
    "fishr": [{}, {"entry_reduction": "mean"}],
}
"""The options of DomainBed's variants come second."""
PROBES = {"key": np.array([0, 1], np.uint32), "probes": 3}
GENERATOR = np.random.default_rng(10)
HEAD = {"kernel": GENERATOR.normal(size=(3, 3)), "bias": GENERATOR.normal(size=3)}
FEATURES = GENERATOR.normal(size=(2, 5, 3))
TARGETS = GENERATOR.dirichlet(np.ones(3), (2, 5))
BATCHES = FEATURES, TARGETS, np.ones((2, 5))


def test_every_twin_is_tried():
    assert set(general.__all__) == {*ALIGNMENTS, *OTHERS, "gradient_variances"}
    assert set(general.__all__) <= set(penalties.__all__)


def loss_fn(head, batch):
    return penalty_oracles.domain_loss(head, *batch)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_on_a_linear_head_it_is_the_closed_form(name):
    key = PROBES if name == "hutchinson_alignment" else {}
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

    programs = [
        [
            quick_jit(jax.value_and_grad(lambda *a, k=k, i=index: both(*a)[i][k], (0, 1)))(HEAD, FEATURES)
            for k in (0, 1)
        ]
        for index in range(len(choices))
    ]
    for own, twin in programs:
        for actual, wanted in zip(jax.tree.leaves(twin), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)


def random_cases(count, classes):
    """Heads, features and targets, as many of each; the domains have means and scales of their own."""
    rng = np.random.default_rng(11)
    head = {"kernel": rng.normal(size=(count, 3, classes)), "bias": rng.normal(size=(count, classes))}
    features = rng.normal(size=(count, 3, 5, 3)) * rng.uniform(0.5, 2, (count, 3, 1, 1))
    targets = rng.dirichlet(np.ones(max(classes, 2)), (count, 3, 5))[..., :classes]
    return head, features + rng.normal(size=(count, 3, 1, 3)), targets


@pytest.mark.parametrize("classes", [4, 1])
def test_twins_of_the_other_penalties_have_their_values_and_gradients(classes):
    """Random cases side by side under jit, an odd number of examples; in both precisions."""
    calls = [(name, options) for name, variants in OTHERS.items() for options in variants]
    mix = np.random.default_rng(12).uniform(1, 2, len(calls))

    def closed(head, features, targets, name, options):
        return getattr(penalties, name)(head, features, targets, **options)

    def twin(head, features, targets, name, options):
        batches = features, targets, jnp.ones(features.shape[:2], features.dtype)
        return getattr(general, name)(loss_fn, head, batches, **options)

    def all_of(function):
        """All values, and the gradients of one mixture of them."""

        def mixed(head, features, targets):
            values = jnp.stack([function(head, features, targets, *one) for one in calls])
            return values @ mix.astype(values.dtype), values

        return quick_jit(jax.vmap(jax.value_and_grad(mixed, (0, 1), has_aux=True)))

    cases = random_cases(20, classes)
    expected, found = all_of(closed)(*cases), all_of(twin)
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), cases)
    for arguments, dtype, tolerance in ((cases, np.float64, 1e-11), (single, np.float32, 2e-4)):
        for actual, wanted in zip(jax.tree.leaves(found(*arguments)), jax.tree.leaves(expected), strict=True):
            assert actual.dtype == dtype
            np.testing.assert_allclose(
                actual, wanted, rtol=tolerance, atol=tolerance * np.max(np.abs(wanted))
            )


def test_irm_of_a_network_takes_the_factor_of_its_logits_as_params():
    network = {"first": GENERATOR.normal(size=(3, 4)), "last": GENERATOR.normal(size=(4, 3))}

    def features_of(network):
        return jnp.tanh(FEATURES @ network["first"])

    def by_factor(network):
        def loss(factor, batch):
            return penalty_oracles.domain_loss({"kernel": factor * network["last"]}, *batch)

        return general.irm(loss, jnp.ones(()), (features_of(network), *map(jnp.asarray, BATCHES[1:])))

    def closed(network):
        return penalties.irm({"kernel": network["last"]}, features_of(network), TARGETS)

    found, wanted = quick_jit(lambda n: [jax.value_and_grad(f)(n) for f in (by_factor, closed)])(network)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), found, wanted)


def test_gradient_variances_of_weighted_examples_and_moving_averages():
    weights = np.array([[1.0, 2, 0, 1, 1], [0.5, 0.25, 0.25, 0, 0]])
    spoiled = jnp.asarray(np.where(weights[..., None] > 0, FEATURES, 1e300))
    averages = {"kernel": GENERATOR.uniform(size=(2, 3, 3)), "bias": GENERATOR.uniform(size=(2, 3))}
    moving = {"averages": averages, "decay": 0.9}

    @quick_jit
    def both(head):
        batches = (spoiled, *map(jnp.asarray, BATCHES[1:]))
        closed, twin = {"weights": weights}, {"weights": jnp.asarray(weights)}
        data = head, FEATURES, TARGETS
        return (
            (general.gradient_variances(loss_fn, head, batches, **twin),
             general.fishr(loss_fn, head, batches, **twin, **moving)),
            (penalties.gradient_variances(*data, **closed), penalties.fishr(*data, **closed, **moving)),
        )  # fmt: skip

    found, wanted = both(HEAD)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), found, wanted)
    with pytest.raises(ValueError, match="averages"):
        general.fishr(loss_fn, HEAD, BATCHES, averages={"kernel": averages["kernel"]})


def test_half_precision_gradients_are_compared_in_single_and_one_domain_has_no_distance():
    head = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), HEAD)
    for domains in (2, 1):
        batches = [jnp.asarray(leaf[:domains], jnp.bfloat16) for leaf in BATCHES]

        def values(*data):
            options = {name: {} for name in [*ALIGNMENTS, *OTHERS]}
            options["hutchinson_alignment"] = PROBES | {"shared_probes": True}
            return {name: getattr(general, name)(loss_fn, *data, **more) for name, more in options.items()}

        for name, value in quick_jit(values)(head, batches).items():
            assert value.dtype == jnp.float32
            assert np.isfinite(value)
            assert name == "irm" or domains > 1 or value == 0


@pytest.mark.parametrize("names", [ALIGNMENTS, list(OTHERS)], ids=["alignments", "others"])
def test_twins_are_the_closed_forms_wherever_these_are_finite(names):
    """No gradient at all, saturated predictions, equal domains, duplicated and weighted examples."""
    kept = [key for key in PROBLEMS if "empty" not in key]  # here every domain counts
    cases = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(PROBLEMS[key] for key in kept))
    options = {name: {} for name in names} | {"hutchinson_alignment": PROBES}
    mix = np.random.default_rng(13).uniform(1, 2, len(names))

    def closed(name, head, features, targets, weights):
        return getattr(penalties, name)(head, features, targets, weights=weights, **options[name])

    def twin(name, head, *batches):
        more = {"weights": batches[2]} if name == "fishr" else {}
        return getattr(general, name)(loss_fn, head, batches, **options[name], **more)

    def derivatives(function):
        def mixed(head, *batches):
            values = jnp.stack([function(name, head, *batches) for name in names])
            return values @ mix.astype(values.dtype), values

        return quick_jit(jax.vmap(jax.value_and_grad(mixed, (0, 1), has_aux=True)))

    found = derivatives(twin)
    pairs = zip(jax.tree.leaves(found(*cases)), jax.tree.leaves(derivatives(closed)(*cases)), strict=True)
    for actual, wanted in pairs:
        for key, one, other in zip(kept, np.asarray(actual), np.asarray(wanted), strict=True):
            size = max(np.max(np.abs(other)), 1e-3)
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10 * size, err_msg=key)
    single = found(*jax.tree.map(lambda leaf: leaf.astype(np.float32), cases))
    assert all(leaf.dtype == np.float32 and np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(single))


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
    for name in OTHERS:
        with pytest.raises(ValueError, match="batches"):
            getattr(general, name)(loss_fn, HEAD, (FEATURES, TARGETS[:1]))
    for name, option in (("iga", "domain_reduction"), ("fishr", "entry_reduction")):
        with pytest.raises(ValueError, match=option):
            getattr(general, name)(loss_fn, HEAD, BATCHES, **{option: "none"})
    with pytest.raises(ValueError, match="examples"):
        general.gradient_variances(loss_fn, HEAD, (FEATURES, TARGETS[:, :1]))
    with pytest.raises(ValueError, match="examples"):
        general.irm(loss_fn, HEAD, jax.tree.map(lambda leaf: leaf[:, :1], BATCHES), halves=True)
    with pytest.raises(ValueError, match="weights"):
        general.fishr(loss_fn, HEAD, BATCHES, weights=np.ones((2, 4)))
    with pytest.raises(ValueError, match="weights"):
        general.fishr(loss_fn, HEAD, BATCHES, weights=-np.ones((2, 5)))
    with pytest.raises(TypeError, match="weights"):
        general.fishr(loss_fn, HEAD, BATCHES, weights=np.ones((2, 5), bool))
    with pytest.raises(ValueError, match="loss_fn"):
        general.v_rex(lambda params, domain: jnp.ones(2), HEAD, domains)
    for probes, remove_bias in ((0, False), (1, True)):
        with pytest.raises(ValueError, match="probes"):
            general.hutchinson_alignment(
                loss_fn, HEAD, domains, key=jax.random.key(0), probes=probes, remove_bias=remove_bias
            )
