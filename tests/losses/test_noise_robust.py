"""What the noise-robust losses are to each other: symmetry, range, special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxreg import losses
from jaxreg.theory.oracles import quick_jit

CLASSES = 6
GENERATOR = np.random.default_rng(6)
LOGITS = GENERATOR.normal(size=(200, CLASSES)) * np.logspace(-2, 1.3, 200)[:, None]
LABELS = GENERATOR.integers(CLASSES, size=200)
SOFTMAX = scipy.special.softmax(LOGITS, -1)
OWN = SOFTMAX[np.arange(200), LABELS]
CROSS_ENTROPY = -np.log(OWN)


def of(name, **hyper):
    return np.asarray(jax.jit(getattr(losses, name))(LOGITS, LABELS, **hyper))


def over_labels(name, **hyper):
    every = jnp.repeat(LOGITS[:, None], CLASSES, 1), jnp.tile(np.arange(CLASSES), (200, 1))
    return np.asarray(jax.jit(getattr(losses, name))(*every, **hyper)).sum(-1)


@pytest.mark.parametrize(
    ("name", "hyper", "constant"),
    [
        ("mean_absolute_error", {}, 2 * (CLASSES - 1)),
        ("reverse_cross_entropy", {"log_zero": -5.0}, 5 * (CLASSES - 1)),
        ("normalized_cross_entropy", {}, 1),
        ("robust_log_loss", {"a": 0.5}, CLASSES * np.log(3)),
        ("generalized_cross_entropy", {"q": 1.0}, CLASSES - 1),
        ("asymmetric_unhinged", {"a": 1.5, "q": 1.0}, CLASSES - 1),
        ("asymmetric_generalized_cross_entropy", {"a": 1.0, "q": 1.0}, CLASSES - 1),
    ],
)
def test_symmetric_losses_add_up_to_a_constant_over_the_labels(name, hyper, constant):
    np.testing.assert_allclose(over_labels(name, **hyper), constant, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("generalized_cross_entropy", {}),
        ("truncated_generalized_cross_entropy", {}),
        ("symmetric_cross_entropy", {}),
        ("jensen_shannon", {}),
        ("brier", {}),
        ("asymmetric_unhinged", {}),
        ("asymmetric_generalized_cross_entropy", {}),
        ("weston_watkins", {}),
        ("crammer_singer", {}),
    ],
)
def test_the_others_do_not(name, hyper):
    assert np.ptp(over_labels(name, **hyper)) > 1e-2


def test_generalized_cross_entropy_lies_between_cross_entropy_and_half_the_absolute_error():
    np.testing.assert_allclose(of("generalized_cross_entropy", q=0.0), CROSS_ENTROPY, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        of("generalized_cross_entropy", q=1.0), of("mean_absolute_error") / 2, rtol=1e-12
    )
    exponents = np.linspace(0, 1, 11)
    values = np.stack([of("generalized_cross_entropy", q=q) for q in exponents])
    assert np.all(np.diff(values, axis=0) <= 1e-12)


def test_truncation_caps_the_generalized_cross_entropy_and_stops_its_gradient():
    threshold, q = 0.3, 0.6
    cap = (1 - threshold**q) / q
    expected = np.minimum(of("generalized_cross_entropy", q=q), cap)
    np.testing.assert_allclose(
        of("truncated_generalized_cross_entropy", q=q, threshold=threshold), expected, rtol=1e-12
    )
    slope = jax.grad(
        lambda z: losses.truncated_generalized_cross_entropy(z, LABELS, q=q, threshold=threshold).sum()
    )(LOGITS)
    np.testing.assert_array_equal(np.all(np.asarray(slope) == 0, -1)[threshold > OWN], True)
    assert np.all(np.any(np.asarray(slope) != 0, -1)[(threshold < OWN) & (OWN < 0.999)])


def test_no_truncation_at_threshold_zero():
    np.testing.assert_allclose(
        of("truncated_generalized_cross_entropy", q=0.6, threshold=0.0),
        of("generalized_cross_entropy", q=0.6),
        rtol=1e-13,
    )


def test_symmetric_cross_entropy_in_both_parametrisations():
    expected = 0.1 * CROSS_ENTROPY + 1.0 * 4 * (1 - OWN)
    np.testing.assert_allclose(of("symmetric_cross_entropy"), expected, rtol=1e-9, atol=1e-12)
    balance = 0.3
    found = of("symmetric_cross_entropy", ce_weight=1 - balance, rce_weight=balance, log_zero=-4.0)
    expected = (1 - balance) * CROSS_ENTROPY + balance * of("reverse_cross_entropy", log_zero=-4.0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_jensen_shannon_tends_to_cross_entropy_and_slowly_to_half_the_absolute_error():
    # The limit is reached where the weight is small against the label's probability.
    likely = OWN > 1e-2
    small = of("jensen_shannon", label_weight=1e-7)
    np.testing.assert_allclose(small[likely], CROSS_ENTROPY[likely], rtol=1e-4, atol=1e-6)
    errors = [
        np.max(np.abs(of("jensen_shannon", label_weight=1 - rest) - (1 - OWN))) for rest in (1e-3, 1e-6, 1e-9)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


@pytest.mark.parametrize(
    ("name", "hyper", "supremum"),
    [
        ("mean_absolute_error", {}, 2),
        ("brier", {}, 2),
        ("reverse_cross_entropy", {"log_zero": -4.0}, 4),
        ("generalized_cross_entropy", {"q": 0.4}, 2.5),
        ("truncated_generalized_cross_entropy", {"q": 0.5, "threshold": 0.25}, 1),
        ("normalized_cross_entropy", {}, 1),
        ("jensen_shannon", {"label_weight": 0.5}, 2),
        ("asymmetric_unhinged", {"a": 1.5, "q": 0.5}, 2 * (1.5**0.5 - 0.5**0.5)),
        ("asymmetric_generalized_cross_entropy", {"a": 1.0, "q": 2.0}, 1.5),
    ],
)
def test_bounded_losses_start_at_zero_and_reach_their_bound(name, hyper, supremum):
    values = of(name, **hyper)
    assert np.all((values >= 0) & (values <= supremum * (1 + 1e-12)))
    loss = getattr(losses, name)
    assert abs(loss(np.array([300.0, 0, 0]), 0, **hyper)) < 1e-100
    # Brier's loss needs another class to be certain as well.
    np.testing.assert_allclose(loss(np.array([-1e9, 0.0, 30.0]), 0, **hyper), supremum, rtol=1e-6)


def test_robust_log_loss_is_largest_where_all_other_classes_are_equal():
    a = 0.5
    largest = np.log((a + 1) / a) - np.log(a) + np.log(a + 1 / (CLASSES - 1))
    assert np.all(of("robust_log_loss", a=a) <= largest + 1e-12)
    at = losses.robust_log_loss(np.array([-1e3, 0, 0, 0, 0, 0]), 0, a=a)
    np.testing.assert_allclose(at, largest, rtol=1e-13)


def test_margin_losses_are_the_sum_and_the_largest_of_the_same_hinges():
    hinges = np.maximum(0, 0.7 + LOGITS - np.take_along_axis(LOGITS, LABELS[:, None], -1))
    hinges[np.arange(200), LABELS] = 0
    np.testing.assert_allclose(of("weston_watkins", margin=0.7), hinges.sum(-1), rtol=1e-12)
    np.testing.assert_allclose(of("crammer_singer", margin=0.7), hinges.max(-1), rtol=1e-12)


def test_crammer_singer_is_the_cold_limit_of_ldr_kl():
    np.testing.assert_allclose(
        of("crammer_singer", margin=0.7), of("ldr_kl", temperature=0.0, margin=0.7), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize(
    ("name", "constant"), [("mean_absolute_error", 2 * (CLASSES - 1)), ("normalized_cross_entropy", 1)]
)
def test_uniform_label_noise_only_scales_and_shifts_the_risk_of_a_symmetric_loss(name, constant, rate):
    """The identity behind the robustness: noisy risk = (1 - rate K/(K-1)) clean risk + rate C/(K-1)."""
    clean = GENERATOR.dirichlet(np.ones(CLASSES), size=200)
    noisy = (1 - rate) * clean + rate * (1 - clean) / (CLASSES - 1)
    risk = jax.jit(losses.expected(getattr(losses, name)))
    expected = (1 - rate * CLASSES / (CLASSES - 1)) * risk(LOGITS, clean) + rate * constant / (CLASSES - 1)
    np.testing.assert_allclose(risk(LOGITS, noisy), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "hyper", "slope"),
    [
        ("mean_absolute_error", {}, lambda own, rest: -2 * own * rest),
        ("brier", {}, lambda own, rest: -4 * own * rest * rest),
        (
            "symmetric_cross_entropy",
            {"ce_weight": 0.0, "rce_weight": 2.0, "log_zero": -4.0},
            lambda own, rest: -8 * own * rest,
        ),
        (
            "asymmetric_unhinged",
            {"a": 1.5, "q": 0.5},
            lambda own, rest: -((1.5 - own) ** -0.5) * own * rest,
        ),
        (
            "asymmetric_generalized_cross_entropy",
            {"a": 2.0**-16, "q": 0.5},
            lambda own, rest: -((2.0**-16 + own) ** -0.5) * own * rest,
        ),
    ],
)
def test_slopes_at_improbable_labels_keep_their_relative_accuracy(name, hyper, slope):
    leads = np.linspace(1, 60, 64, dtype=np.float32)
    logits = np.stack([0 * leads, leads], -1)

    def loss(logits):
        return getattr(losses, name)(logits, np.zeros(64, int), **hyper).sum()

    expected = slope(scipy.special.expit(-np.float64(leads)), scipy.special.expit(np.float64(leads)))
    found = np.asarray(jax.jit(jax.grad(loss))(logits))
    np.testing.assert_allclose(found, np.stack([expected, -expected], -1), rtol=1e-5)


def test_asymmetric_losses_are_accurate_where_their_offset_is_nearly_0_or_its_power_underflows():
    leads = np.linspace(-20, 20, 16, dtype=np.float32)
    logits, labels = np.stack([0 * leads, leads], -1), np.zeros(16, int)
    own, rest = scipy.special.expit(-np.float64(leads)), scipy.special.expit(np.float64(leads))
    a, q = 2.0**-20, 0.25
    found = losses.asymmetric_generalized_cross_entropy(logits, labels, a=a, q=q)
    expected = -((1 + a) ** q) * np.expm1(
        q * np.where(own < 0.5, np.log((a + own) / (1 + a)), np.log1p(-rest / (1 + a)))
    )
    np.testing.assert_allclose(found, expected / q, rtol=1e-6)
    found = losses.asymmetric_unhinged(logits, labels, a=1 + 2.0**-16, q=10.0)
    expected = (2.0**-16 + rest) ** 10 - 2.0**-160
    np.testing.assert_allclose(found, expected / 10, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize(
    ("name", "settings", "plain"),
    [
        (
            "asymmetric_unhinged",
            [(1.4, 0.9), (1.5, 0.9), (1.5, 1.1), (3.0, 1e-3), (3.0, 2.9), (3.0, 3.1)],
            lambda own, a, q: ((a - own) ** q - (a - 1) ** q) / q,
        ),
        (
            "asymmetric_generalized_cross_entropy",
            [(0.99, 2.0), (1.0, 2.0), (1.0, 1.7), (1.01, 1.8), (5.0, 2e-3), (0.5, 0.5)],
            lambda own, a, q: ((a + 1) ** q - (a + own) ** q) / q,
        ),
    ],
)
def test_asymmetric_losses_are_the_same_on_either_side_of_mild_hyperparameters(name, settings, plain):
    def ours(z):
        return [getattr(losses, name)(z, LABELS, a=a, q=q).sum() for a, q in settings]

    def definition(z):
        own = jnp.take_along_axis(jax.nn.softmax(z), LABELS[:, None], -1)[:, 0]
        return [plain(own, a, q).sum() for a, q in settings]

    moderate = jnp.asarray(LOGITS) / 4
    for derivative in (lambda f: f, jax.jacrev):
        found, expected = (quick_jit(derivative(f))(moderate) for f in (ours, definition))
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-12)


def test_brier_gives_back_what_rounding_takes_from_a_gap():
    """Of two classes it is 2 sigmoid(-gap)^2; a gap of 20 rounded to float32 alone costs 2e-6."""
    rng = np.random.default_rng(0)
    lead, other = rng.uniform(0, 8, 2000).astype(np.float32), rng.uniform(-25, -8, 2000).astype(np.float32)
    found = losses.brier(jnp.stack([lead, other], axis=-1), jnp.zeros(2000, int))
    expected = 2 / (1 + np.exp(lead.astype(float) - other)) ** 2
    np.testing.assert_allclose(found, expected, rtol=8e-7)
