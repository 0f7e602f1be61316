"""The argument checks that all families share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import checks

LOGITS, LABELS = np.zeros((4, 3)), np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
    ],
)
def test_scores_are_computed_in_at_least_float32(given, computed):
    assert checks.floating("scores", jnp.zeros(3, given)).dtype == computed


@pytest.mark.parametrize("wrong", [np.zeros(3, int), np.zeros(3, bool), np.zeros(3, complex)])
def test_what_is_not_floating_is_refused_by_name(wrong):
    with pytest.raises(TypeError, match=r"weights.*floating"):
        checks.floating("weights", wrong)


def test_python_and_numpy_numbers_are_known_at_trace_time_and_device_arrays_are_not():
    assert all(map(checks.is_concrete, (1, 0.5, np.float32(1), np.zeros(3), np.array(1))))
    assert not checks.is_concrete(jnp.zeros(3))
    jax.eval_shape(lambda x: pytest.fail("a tracer") if checks.is_concrete(x) else x, 1.0)


def test_labels_outside_the_classes_and_removed_labels_are_marked():
    kept = np.array([True, True, False])
    batch = checks.classified(LOGITS, np.array([-1, 3, 2, 1]), where=kept)
    np.testing.assert_array_equal(np.ravel(batch.valid), [False, False, False, True])
    assert np.all((np.ravel(batch.labels) >= 0) & (np.ravel(batch.labels) < 3))
    assert batch.where is not None
    assert batch.where.shape == LOGITS.shape


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_labels_of_every_integer_type_may_have_more_classes_than_the_type(dtype):
    """300 classes do not fit in eight bits: the class number must not wrap around."""
    labels = np.array([0, 5, 100], dtype)
    batch = checks.classified(np.zeros((3, 300)), labels)
    np.testing.assert_array_equal(np.ravel(batch.labels), labels)
    np.testing.assert_array_equal(np.argmin(batch.wrong, -1), labels)
    assert np.all(batch.valid)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_the_entry_of_the_label_is_picked_along_any_axis(axis):
    scores = np.random.default_rng(0).normal(size=(4, 2, 3))
    labels = np.random.default_rng(1).integers(3, size=(4, 2))
    batch = checks.classified(np.moveaxis(scores, -1, axis), labels, axis=axis)
    picked = np.take_along_axis(scores, labels[..., None], -1)[..., 0]
    np.testing.assert_array_equal(np.reshape(batch.of_label(batch.logits), (4, 2)), picked)
    np.testing.assert_array_equal(np.sum(~np.asarray(batch.wrong), axis), np.ones((4, 2)))


def test_the_axis_is_an_integer_in_range():
    for wrong in (2, -3, 0.5, None, "last"):
        with pytest.raises((TypeError, ValueError), match="axis"):
            checks.classified(LOGITS, LABELS, axis=wrong)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, inf]", (0, 0.5, np.inf), (-1e-30, -np.inf, np.nan)),
        ("[0, inf)", (0, 1e300), (np.inf, -1)),
        ("(0, 1]", (1e-30, 1), (0, 1.0001)),
        ("(-inf, 0)", (-1e300, -1e-30), (0, -np.inf, 1)),
        ("(0, 1)", (0.5,), (0, 1)),
    ],
)
def test_intervals_are_open_and_closed_as_written(interval, inside, outside):
    batch = checks.classified(LOGITS, LABELS)
    traced = jax.jit(lambda value: checks.hyperparameter("level", value, interval, batch))
    for value in inside:
        assert checks.hyperparameter("level", value, interval, batch) == value
        assert traced(float(value)) == value
    for value in outside:
        with pytest.raises(ValueError, match="level") as error:
            checks.hyperparameter("level", value, interval, batch)
        assert interval in str(error.value)
        assert np.isnan(traced(float(value)))


@pytest.mark.parametrize(
    ("interval", "outside", "inside"),
    [
        ("[0, inf)", (1e39, 3.5e38), (1e-60, 3.4e38, 1e-40)),
        ("(0, inf)", (1e39, 1e-60, 1e-40), (2e-38, 3.4e38)),
        ("(1, inf)", (1 + 1e-9,), (1 + 1e-6,)),
        ("[0, 1)", (1 - 1e-9,), (1 - 1e-7,)),
        ("(-inf, 0)", (-1e-40, -1e39), (-2e-38,)),
        ("[0, inf]", (), (1e39, 1e-60)),
    ],
)
def test_numbers_that_become_an_excluded_end_in_float32_are_refused_with_what_they_become(
    interval, outside, inside
):
    batch = checks.classified(LOGITS.astype(np.float32), LABELS)
    calls = (
        lambda value: checks.hyperparameter("level", value, interval, batch),
        lambda value: checks.scalar("level", value, interval, dtype=jnp.float32),
        lambda value: checks.per_example("level", value, interval, batch.logits),
    )
    for call in calls:
        for value in outside:
            for given in (value, np.full((), value)):
                with pytest.raises(ValueError, match=r"level must lie in .* which is .* in float32"):
                    call(given)
            if abs(value) != 1e-40:  # a program may flush it to 0 before the comparison or after
                assert np.all(np.isnan(jax.jit(call)(value)))
        for value in inside:
            with np.errstate(over="ignore"):
                assert np.all(call(value) == np.float32(value))
    # float64 holds them all.
    for value in (*outside, *inside):
        assert checks.scalar("level", value, interval) == value


def test_one_value_outside_the_interval_is_enough_to_refuse_an_array():
    batch = checks.classified(LOGITS, LABELS)
    with pytest.raises(ValueError, match="level"):
        checks.hyperparameter("level", np.array([0.1, 0.2, -0.1, 0.3]), "[0, 1]", batch)
    device = jnp.array([0.1, 0.2, -0.1, 0.3])
    found = np.ravel(checks.hyperparameter("level", device, "[0, 1]", batch))
    np.testing.assert_array_equal(found, [0.1, 0.2, np.nan, 0.3])


def test_hyperparameters_take_the_dtype_of_the_computation():
    batch = checks.classified(LOGITS.astype(np.float16), LABELS)
    for value in (1, 0.5, np.float64(0.5), jnp.asarray(0.5, jnp.float64), jnp.asarray(1), np.ones(4)):
        assert checks.hyperparameter("level", value, "[0, 1]", batch).dtype == jnp.float32


@pytest.mark.parametrize("wrong", [True, 1j, "0.5", None, np.array(["a"]), jnp.array(True)])
def test_what_is_not_a_real_number_is_refused_by_name(wrong):
    with pytest.raises(TypeError, match="level"):
        checks.hyperparameter("level", wrong, "[0, 1]", checks.classified(LOGITS, LABELS))


def test_messages_state_what_was_given_and_what_is_accepted():
    with pytest.raises(ValueError, match=r"labels.*\(4,\).*\(3,\)"):
        checks.classified(LOGITS, LABELS[:3])
    with pytest.raises(TypeError, match=r"labels.*integer.*float64"):
        checks.classified(LOGITS, LABELS.astype(float))
    with pytest.raises(ValueError, match=r"where.*\(4, 3\).*\(5,\)"):
        checks.classified(LOGITS, LABELS, where=np.full(5, True))
    with pytest.raises(ValueError, match=r"level.*\(4,\).*\(3,\)"):
        checks.hyperparameter("level", np.ones(3), "[0, 1]", checks.classified(LOGITS, LABELS))
