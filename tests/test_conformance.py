"""What every loss must satisfy; one row in ``tests.cases`` enrols it, and forgetting the row fails.

Expected values come from the plain definitions of ``tests.oracles`` in 60 digits. To keep compilation
short, all batches are brought to the same shape, and each loss is compiled once for it. Accuracy is
measured in programs compiled as a user's are; where a program's shape, and not its rounding, is tested, it
is compiled without LLVM's optimisations (``quick_jit``), which takes a fifth of the time.
"""

import functools
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding

from jaxreg import losses
from jaxreg.theory.oracles import quick_jit
from tests import oracles
from tests.cases import LOSSES, OTHER_NAMES

CLASSES, EXAMPLES, ROWS = 5, 8, 64
GENERATOR = np.random.default_rng(20)
LOGITS = np.round(16 * GENERATOR.normal(size=(EXAMPLES, CLASSES))) / 8
"""In eighths, which half precision holds exactly: one expected value serves all precisions."""
LABELS = np.arange(EXAMPLES) % CLASSES
KEPT = np.array([[(k + n) % 4 != 1 or k == y for k in range(CLASSES)] for n, y in enumerate(LABELS)])
ONLY_LABEL = np.arange(CLASSES) == LABELS[:, None]

LARGE = float(np.float32(1e30))
EXTREME = np.array(
    [
        [LARGE, 0, -LARGE, 3, 1],
        [-LARGE, 2, 1, -5, 0],
        [300, -300, 1, 0, 2],
        [-300, 299, 300, 2, 1],
        [-np.inf, 0, 1, 2.5, -2],
        [LARGE, -np.inf, 2, -1, 0],
    ]
)
TIED = np.array([[0, 0, 0, 0, 0], [LARGE, LARGE, 0, -300, 1], [-LARGE] * 5, [5, 5, -np.inf, 5, 0]])
TOLERANCE = {jnp.float32: 4e-6, jnp.float64: 1e-12}


def losses_with(property_):
    """Run for the losses of such a case; the tests of one belong on one worker, which has it compiled."""
    names = [name for name, case in LOSSES.items() if not property_ or getattr(case, property_)]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
    )


every_loss = losses_with(None)


every_precision = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)


# -- Evaluation of a loss, and of its definition


def bind(name, hyper, **static):
    """The loss with its whole-number hyper-parameters bound, and the others apart, to differentiate in."""
    counts = LOSSES[name].counts
    bound = functools.partial(getattr(losses, name), **{key: hyper[key] for key in counts}, **static)
    return bound, {key: value for key, value in hyper.items() if key not in counts}


def value_and_derivatives(name, logits, labels, hyper, where=None, **static):
    """Value, gradient in the logits, and derivative in each hyper-parameter, per example."""
    loss, real = bind(name, hyper, where=where, **static)
    values, pullback = jax.vjp(lambda logits, real: loss(logits, labels, **real), logits, real)
    return values, *pullback(jnp.ones_like(values))


compiled = jax.jit(value_and_derivatives, static_argnames="name")
compiled_quickly = quick_jit(value_and_derivatives, static_argnames="name")


def hessian(name, logits, labels, hyper, forward_last):
    """Second derivatives in the logits and the real hyper-parameters together."""
    names = sorted(key for key in hyper if key not in LOSSES[name].counts)
    point = jnp.concatenate([logits, *(hyper[key][:, None] for key in names)], -1)

    def value(point, label, hyper):
        real = dict(zip(names, point[CLASSES:], strict=True))
        return getattr(losses, name)(point[:CLASSES], label, **{**hyper, **real})

    second = jax.jacfwd(jax.jacrev(value)) if forward_last else jax.jacrev(jax.jacfwd(value))
    return jax.vmap(second)(point, labels, hyper)


# The usual order, that of ``jax.hessian``, as a user compiles it.
HESSIANS = {
    order: compiler(functools.partial(hessian, forward_last=order), static_argnames="name")
    for order, compiler in ((True, jax.jit), (False, quick_jit))
}


def value_and_gradient(loss, logits):
    """Values per example, and the gradient of each."""
    return loss(logits), jax.grad(lambda logits: loss(logits).sum())(logits)


def device_arrays(name, hyper, size, dtype):
    """One value an example, so that the derivative in each is that of one example."""
    dtypes = {key: jnp.int32 if key in LOSSES[name].counts else dtype for key in hyper}
    return {key: jnp.asarray(np.broadcast_to(value, size), dtypes[key]) for key, value in hyper.items()}


def evaluate(name, logits, labels, hyper, dtype, where=None, compiled=compiled):
    """``compiled`` on a batch that is repeated up to ``ROWS`` rows; NumPy arrays of float64 come back."""
    size = len(labels)
    rows = np.arange(ROWS) % size
    hyper = device_arrays(name, hyper, size, dtype)
    where = None if where is None else where[rows]
    logits = jnp.asarray(np.asarray(logits, np.float64), dtype)[rows]
    found = compiled(name, logits, jnp.asarray(labels)[rows], jax.tree.map(lambda x: x[rows], hyper), where)
    return jax.tree.map(lambda x: np.asarray(x, np.float64)[:size], found)


@functools.cache
def exact_derivatives(name, row, label, hyper):
    jet = oracles.jet(LOSSES[name].definition, row, label, limits=LOSSES[name].limits, **dict(hyper))
    return float(jet.value), oracles.floats(jet.gradient), oracles.floats(jet.hessian)


def exact(name, logits, labels, hyper, where=None):
    """The definition's value and derivatives; removed classes are deleted, and have no gradient."""
    values, gradients = np.empty(len(labels)), np.zeros(np.shape(logits))
    slopes = {key: np.empty(len(labels)) for key in hyper if key not in LOSSES[name].counts}
    for n, (row, y) in enumerate(zip(logits, labels, strict=True)):
        kept = np.flatnonzero(np.ones(len(row)) if where is None else where[n])
        own = tuple((key, np.broadcast_to(value, len(labels))[n].item()) for key, value in hyper.items())
        row = tuple(float(x) for x in row[kept])
        values[n], derivatives, _ = exact_derivatives(name, row, list(kept).index(y), own)
        gradients[n, kept] = derivatives[: len(kept)]
        for (key, _), slope in zip(own, derivatives[len(kept) :], strict=True):
            if key in slopes:
                slopes[key][n] = slope
    return values, gradients, slopes


def assert_close(found, expected, tolerance):
    """Equal up to ``tolerance``, relative to the number or to one, whichever is larger; infinities equal."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for actual, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)


def rounded(numbers, dtype):
    """Round to ``dtype``, where what is beyond its range is infinite."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: np.asarray(x, dtype).astype(np.float64), numbers)


def alternating(name, size=EXAMPLES):
    """Hyper-parameters that differ from example to example."""
    case, even = LOSSES[name], np.arange(size) % 2 == 0
    return {key: np.where(even, value, case.other[key]) for key, value in case.hyper.items()}


def every_label(rows):
    """Each row with each label."""
    return np.repeat(rows, rows.shape[1], axis=0), np.tile(np.arange(rows.shape[1]), len(rows))


# -- Enrolment and the signature


def test_every_public_name_is_enrolled():
    assert set(losses.__all__) == set(LOSSES) | set(OTHER_NAMES)
    assert not set(LOSSES) & set(OTHER_NAMES)


def test_public_names_that_are_not_losses_are_tested_elsewhere():
    root = Path(__file__).parents[1]
    for name, path in OTHER_NAMES.items():
        assert name in (root / path).read_text()


@every_loss
def test_case_states_every_hyperparameter_and_all_are_keyword_only(name):
    case, parameters = LOSSES[name], inspect.signature(getattr(losses, name)).parameters
    keyword_only = {key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert list(parameters)[:2] == ["logits", "labels"]
    assert keyword_only == set(parameters) - {"logits", "labels"}
    assert (
        keyword_only - {"axis", "where", *case.choices}
        == set(case.hyper)
        == set(case.other)
        == set(case.refused)
    )


# -- Values and derivatives against the definition


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, *TOLERANCE], ids=lambda dtype: dtype.__name__)
def test_values_and_gradients_are_those_of_the_definition_in_every_precision(name, dtype):
    result = jnp.float64 if dtype == jnp.float64 else jnp.float32
    rows = np.arange(ROWS) % EXAMPLES
    hyper = device_arrays(name, alternating(name, ROWS), ROWS, result)
    # Half precision is float32 but for the conversions.
    call = compiled if dtype in TOLERANCE else compiled_quickly
    values, gradient, slopes = call(
        name, jnp.asarray(LOGITS, dtype)[rows], jnp.asarray(LABELS)[rows], hyper, None
    )
    assert (values.dtype, gradient.dtype) == (result, dtype)
    assert all(slope.dtype == result for slope in slopes.values())
    expected = exact(name, LOGITS, LABELS, alternating(name))
    found = jax.tree.map(lambda x: np.asarray(x, np.float64)[:EXAMPLES], (values, gradient, slopes))
    assert_close((found[0], found[2]), (expected[0], expected[2]), TOLERANCE[result])
    assert_close(found[1], expected[1], max(float(jnp.finfo(dtype).eps), TOLERANCE[result]))


@every_loss
@pytest.mark.parametrize("forward_last", [True, False], ids=["forward_over_reverse", "reverse_over_forward"])
def test_second_derivatives_are_those_of_the_definition_at_extreme_logits_too(name, forward_last):
    case = LOSSES[name]
    logits, labels = every_label(EXTREME)
    logits, labels = np.concatenate([LOGITS, logits]), np.concatenate([LABELS, labels])
    hyper = device_arrays(name, case.hyper, len(labels), float)
    found = HESSIANS[forward_last](name, jnp.asarray(logits), jnp.asarray(labels), hyper)
    own = tuple(case.hyper.items())
    order = [CLASSES + n for n, key in enumerate(hyper) if key not in case.counts]
    order.sort(key=lambda n: own[n - CLASSES][0])
    real = [*range(CLASSES), *order]
    for n, (row, label) in enumerate(zip(logits, labels, strict=True)):
        expected = exact_derivatives(name, tuple(float(x) for x in row), label, own)[2][np.ix_(real, real)]
        np.testing.assert_allclose(found[n], expected, rtol=1e-9, atol=1e-9, err_msg=f"{row}, label {label}")


@every_loss
def test_derivatives_agree_with_finite_differences(name):
    rows, step = slice(0, 2), 1e-5
    hyper = device_arrays(name, {key: value[rows] for key, value in alternating(name).items()}, 2, float)
    loss, real = bind(name, hyper, where=KEPT[rows])
    point, unravel = ravel_pytree((jnp.asarray(LOGITS[rows]), real))
    directions = np.random.default_rng(3).normal(size=(3, point.size))

    def value(point):
        logits, real = unravel(point)
        return loss(logits, LABELS[rows], **real)

    @quick_jit
    @jax.vmap
    def derivatives(point, direction):
        """Value, forward and reverse derivative; gradient, and the reverse derivative of that."""
        values, forward = jax.jvp(value, (point,), (direction,))
        jacobian = jax.vmap(jax.vjp(value, point)[1])(jnp.eye(2))[0]
        weigh = jax.grad(lambda point: value(point) @ jnp.array([1.0, -2.0]))
        gradient, pullback = jax.vjp(weigh, point)
        return values, forward, jacobian @ direction, gradient, *pullback(direction)

    points = np.concatenate([np.asarray(point) + move * directions for move in (0, step, -step)])
    found = [np.split(np.asarray(part), 3) for part in derivatives(points, np.tile(directions, (3, 1)))]
    values, forward, reverse, gradient, second = found
    slopes, curvature = ((part[1] - part[2]) / (2 * step) for part in (values, gradient))
    assert_close((forward[0], reverse[0], second[0]), (slopes, slopes, curvature), 1e-7)


@every_loss
@every_precision
def test_extreme_logits_give_the_values_and_derivatives_of_the_limit(name, dtype):
    most = float(jnp.finfo(dtype).max) / 2  # differences of logits are numbers, if barely
    rows = [EXTREME, [[most, -most, 0, 1, 2], [most / 2, 1, 2, -most / 2, 0]]]
    logits, labels = every_label(np.concatenate(rows if LOSSES[name].linear_pieces else [*rows, TIED]))
    expected = rounded(exact(name, logits, labels, LOSSES[name].hyper), dtype)
    found = evaluate(name, logits, labels, LOSSES[name].hyper, dtype)
    assert_close(found, expected, TOLERANCE[dtype])


@losses_with("confident")
def test_float32_keeps_its_relative_accuracy_for_confident_examples(name):
    """The smaller the loss, the more of it the textbook forms lose: 1 - s, log s, 1 - s^q with s near 1."""
    leads = np.linspace(0, 24, 4 * EXAMPLES)
    logits = np.tile(LOGITS / 4, (4, 1))
    labels = np.tile(LABELS, 4)
    logits[np.arange(len(labels)), labels] = logits.max(-1) + leads
    # Also where the powers of the scores, or their squares, are out of float32's range.
    logits += np.repeat([0.0, 40.0, -60.0, 0.0], EXAMPLES)[:, None]
    logits = rounded(logits, np.float32)
    for hyper in (LOSSES[name].hyper, LOSSES[name].other):
        expected = exact(name, logits, labels, hyper)
        found = evaluate(name, logits, labels, hyper, jnp.float32)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        size = np.abs(expected[1]).max(-1, keepdims=True)
        np.testing.assert_allclose(found[1] / size, expected[1] / size, atol=2e-6)


@every_loss
def test_logits_divided_or_scaled_in_the_same_program_are_those_made_before(name):
    """XLA may compute them once for a maximum and once for what is compared with it, rounded differently."""
    case, generator = LOSSES[name], np.random.default_rng(5)
    settings = [case.hyper, case.other, *case.ends]
    hyper = {key: [settings[n % len(settings)][key] for n in range(ROWS)] for key in case.hyper}
    hyper = device_arrays(name, hyper, ROWS, jnp.float64)
    # Many ties, also for the largest score.
    halves = jnp.asarray(np.round(3 * generator.normal(size=(ROWS, CLASSES))) / 2)
    factor = jnp.asarray(10 ** generator.uniform(-1, 1, (ROWS, 1)))
    bias, labels = jnp.asarray([0.0, 0.25, 0.0, -0.5, 0.25]), jnp.arange(ROWS) % CLASSES
    makers = (lambda z, factor: z / factor, lambda z, factor: z * factor + bias)
    coarse = [(halves.astype(dtype), factor.astype(dtype)) for dtype in (jnp.float32, jnp.bfloat16)]
    single = jax.tree.map(lambda x: x if x.dtype == jnp.int32 else x.astype(jnp.float32), hyper)

    def of_divided(halves, factor):
        return value_and_gradient(lambda z: getattr(losses, name)(z, labels, **single), halves / factor)

    # The factor is an argument: a constant would be inverted before the program runs.
    @jax.jit
    def together(halves, factor, hyper, coarse):
        exact = [value_and_derivatives(name, make(halves, factor), labels, hyper) for make in makers]
        return exact, [of_divided(*arrays) for arrays in coarse]

    found, rounded_found = together(halves, factor, hyper, coarse)
    for make, each in zip(makers, found, strict=True):
        expected = compiled(name, jax.jit(make)(halves, factor), labels, hyper, None)
        assert_close(each, expected, 1e-11)
    # A quotient that is not rounded to its dtype, as XLA may leave it, is as near as its precision.
    for (z, by), each in zip(coarse, rounded_found, strict=True):
        divided = jax.jit(jnp.divide)(z, by)
        expected = compiled(name, divided.astype(jnp.float32), labels, single, None)[:2]
        error = 4 * float(jnp.finfo(z.dtype).eps) * (1 + np.abs(np.asarray(divided, float)).max(-1))
        for actual, wanted in zip(each, expected, strict=True):
            actual, wanted = (np.asarray(array, float).reshape(ROWS, -1) for array in (actual, wanted))
            size = np.maximum(1, np.abs(wanted).max(-1, keepdims=True))
            assert np.all(np.abs(actual - wanted) <= error[:, None] * size), z.dtype


# -- Axes, classes removed, shapes


@every_loss
@pytest.mark.parametrize("axis", [0, 1])
def test_the_class_axis_may_stand_anywhere(name, axis):
    grid = (2, 4)
    hyper = {key: value.reshape(grid) for key, value in alternating(name).items()}
    moved = (np.moveaxis(array.reshape(*grid, CLASSES), -1, axis) for array in (LOGITS, KEPT))
    call = functools.partial(value_and_derivatives, name, axis=axis)
    logits, kept = (jnp.asarray(array) for array in moved)
    values, gradient, slopes = quick_jit(call)(logits, jnp.asarray(LABELS.reshape(grid)), hyper, kept)
    found = (
        np.ravel(values),
        np.moveaxis(gradient, axis, -1).reshape(LOGITS.shape),
        jax.tree.map(np.ravel, slopes),
    )
    assert_close(found, exact(name, LOGITS, LABELS, alternating(name), KEPT), 1e-12)


@every_loss
@every_precision
def test_removing_a_class_equals_deleting_it_whatever_its_logit(name, dtype):
    expected = exact(name, LOGITS, LABELS, alternating(name), KEPT)
    for left_over in (0.0, 1e30, -np.inf, np.inf, np.nan):
        filled = np.where(KEPT, LOGITS, left_over)
        found = evaluate(name, filled, LABELS, alternating(name), dtype, KEPT)
        assert_close(found, expected, TOLERANCE[dtype])


@every_loss
def test_removing_no_class_changes_nothing_and_minus_infinity_is_not_removal(name):
    hyper = alternating(name)
    nothing = evaluate(name, LOGITS, LABELS, hyper, jnp.float64, np.full(LOGITS.shape, True))
    assert_close(nothing, exact(name, LOGITS, LABELS, hyper), 1e-12)
    logits = np.where((np.arange(CLASSES) == (LABELS + 1)[:, None] % CLASSES), -np.inf, LOGITS)
    found = evaluate(name, logits, LABELS, hyper, jnp.float64, KEPT | np.isinf(logits))
    assert_close(found, exact(name, logits, LABELS, hyper, KEPT | np.isinf(logits)), 1e-12)


@every_loss
def test_where_broadcasts_against_the_logits(name):
    loss = quick_jit(functools.partial(getattr(losses, name), **LOSSES[name].hyper))
    kept, labels = np.array([True, False, True, True, True]), np.where(LABELS == 1, 0, LABELS)
    values = loss(LOGITS, labels, where=kept)
    assert_close(
        np.asarray(values), exact(name, LOGITS, labels, LOSSES[name].hyper, [kept] * EXAMPLES)[0], 1e-12
    )


@every_loss
def test_loss_of_a_single_class_is_zero_and_flat(name):
    hyper = LOSSES[name].hyper | dict.fromkeys(LOSSES[name].counts, 1)
    alone = jnp.array([3.0, -1e30, 300.0])[:, None]
    found = compiled_quickly(name, alone, jnp.zeros(3, int), device_arrays(name, hyper, 3, float))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(found))


@every_loss
@every_precision
def test_removing_all_classes_but_the_label_gives_zero(name, dtype):
    hyper = LOSSES[name].hyper | dict.fromkeys(LOSSES[name].counts, 1)
    logits = np.where(ONLY_LABEL, LOGITS, [-np.inf, 0, 1e30, np.nan, 7])
    found = evaluate(name, logits, LABELS, hyper, dtype, ONLY_LABEL)
    assert all(np.all(np.abs(leaf) <= 2 * jnp.finfo(dtype).eps) for leaf in jax.tree.leaves(found))


@every_loss
@pytest.mark.parametrize("shape", [(0,), (2, 3)], ids=str)
def test_any_batch_shape(name, shape):
    size = int(np.prod(shape))
    batch = jnp.asarray(LOGITS[:size]).reshape(*shape, CLASSES), jnp.asarray(LABELS[:size]).reshape(shape)
    loss = functools.partial(getattr(losses, name), **LOSSES[name].hyper)
    values, gradient = quick_jit(lambda z, y: value_and_gradient(lambda z: loss(z, y), z))(*batch)
    assert (values.shape, gradient.shape) == (shape, batch[0].shape)
    expected = exact(name, LOGITS[:size], LABELS[:size], LOSSES[name].hyper)
    assert_close((np.ravel(values), gradient.reshape(size, CLASSES)), expected[:2], 1e-12)


@every_loss
@pytest.mark.parametrize("shape", [(), (2, 1), (3,)], ids=str)
def test_traces_where_arrays_of_unequal_rank_are_refused(name, shape):
    case = LOSSES[name]
    arrays = {
        key: jnp.full(shape, value)
        for key, value in case.hyper.items()
        if key not in case.counts + case.choices
    }
    labels = jnp.zeros((2, 3), int)
    for hyper in (case.hyper, {**case.hyper, **arrays}):
        loss = functools.partial(getattr(losses, name), **hyper)
        logits = jnp.zeros((2, 3, CLASSES))
        with jax.numpy_rank_promotion("raise"):
            with pytest.raises(ValueError, match="rank_promotion"):  # so the option is in force
                jnp.ones((2, 3)) + jnp.ones(3)
            gradient = jax.eval_shape(jax.grad(lambda f, loss=loss: loss(f, labels).sum()), logits)
        assert (gradient.shape, gradient.dtype) == (logits.shape, logits.dtype)


# -- Hyper-parameters --


@every_loss
def test_one_example_at_a_time_equals_the_batch_without_recompiling(name):
    """Hyper-parameters are traced scalars here: another value must not compile again."""
    traces = []

    @quick_jit
    def loss(logits, label, hyper):
        traces.append(name)
        return getattr(losses, name)(logits, label, **hyper)

    kinds = {key: int if key in LOSSES[name].counts else float for key in LOSSES[name].hyper}
    values = [
        loss(row, label, {key: kinds[key](value[n]) for key, value in alternating(name).items()})
        for n, (row, label) in enumerate(zip(LOGITS, LABELS, strict=True))
    ]
    assert len(traces) == loss._cache_size() == 1
    assert_close(np.array(values), exact(name, LOGITS, LABELS, alternating(name))[0], 1e-12)


@every_loss
@every_precision
def test_python_numpy_and_device_hyperparameters_agree(name, dtype):
    case, logits = LOSSES[name], jnp.asarray(LOGITS, dtype)
    expected = exact(name, LOGITS, LABELS, case.hyper)[:2]
    own_kinds = {
        jnp.float32: (float, np.float64, lambda x: jnp.asarray(x, jnp.float32)),
        jnp.float64: (float, np.asarray, jnp.asarray, lambda x: jnp.asarray(x, jnp.float32)),
    }[dtype]
    calls = []
    for kind in own_kinds if case.hyper else [float]:
        hyper = {key: value if key in case.counts else kind(value) for key, value in case.hyper.items()}
        calls.append(functools.partial(getattr(losses, name), labels=LABELS, **hyper))
    if case.counts:
        for kind in (np.int32, np.int64, jnp.int32, lambda x: np.full(EXAMPLES, x)):
            hyper = case.hyper | {key: kind(case.hyper[key]) for key in case.counts}
            calls.append(functools.partial(getattr(losses, name), labels=LABELS, **hyper))
    # All in one program, in which XLA compiles once what is the same.
    together = quick_jit(lambda z: [value_and_gradient(call, z) for call in calls])
    for values, gradient in together(logits):
        assert values.dtype == gradient.dtype == dtype
        assert_close((values, gradient), expected, TOLERANCE[dtype])


@losses_with("hyper")
def test_vectorising_over_hyperparameters_equals_each(name):
    case = LOSSES[name]
    grid = {key: jnp.asarray([value, case.other[key]]) for key, value in case.hyper.items()}
    values = quick_jit(jax.vmap(lambda hyper: getattr(losses, name)(LOGITS, LABELS, **hyper)))(grid)
    expected = [exact(name, LOGITS, LABELS, hyper)[0] for hyper in (case.hyper, case.other)]
    assert_close(values, np.stack(expected), 1e-12)


@every_loss
@every_precision
def test_ends_of_the_range_are_exact_limits_with_exact_derivatives(name, dtype):
    counts = LOSSES[name].counts
    for hyper in (*LOSSES[name].ends, *LOSSES[name].near_ends):
        own = {key: value if key in counts else float(rounded(value, dtype)) for key, value in hyper.items()}
        expected = exact(name, LOGITS, LABELS, own)
        for where in (None, np.full(LOGITS.shape, True)):
            assert_close(evaluate(name, LOGITS, LABELS, own, dtype, where), expected, TOLERANCE[dtype])


@every_loss
@every_precision
def test_hyperparameters_known_at_trace_time_may_stand_at_the_ends(name, dtype):
    ends = LOSSES[name].ends
    calls = [functools.partial(getattr(losses, name), labels=LABELS, **hyper) for hyper in ends]
    together = quick_jit(lambda z: [value_and_gradient(call, z) for call in calls])
    for hyper, found in zip(ends, together(jnp.asarray(LOGITS, dtype)), strict=True):
        assert_close(found, exact(name, LOGITS, LABELS, hyper)[:2], TOLERANCE[dtype])


@every_loss
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(lambda x: x, id="python"),
        pytest.param(lambda x: np.asarray(x)[()], id="numpy"),
        pytest.param(np.asarray, id="array"),
        pytest.param(lambda x: np.full(EXAMPLES, x), id="per_example"),
    ],
)
def test_concrete_hyperparameters_outside_their_range_are_refused_by_name(name, kind):
    case, loss = LOSSES[name], getattr(losses, name)
    for key, bad_values in case.refused.items():
        for bad in bad_values:
            hyper = dict(case.hyper) | {key: np.int64(bad) if key in case.counts else kind(bad)}
            with pytest.raises(ValueError, match=key):
                loss(LOGITS, LABELS, **hyper)
            with pytest.raises(ValueError, match=key):
                jax.eval_shape(lambda z, hyper=hyper: loss(z, LABELS, **hyper), LOGITS)


@every_loss
def test_traced_hyperparameters_outside_their_range_give_nan(name):
    case = LOSSES[name]
    bad_row = np.arange(EXAMPLES) == 3
    for key, bad_values in case.refused.items():
        for bad in bad_values:
            hyper = dict(case.hyper) | {key: np.where(bad_row, bad, case.hyper[key])}
            values, _, _ = evaluate(name, LOGITS, LABELS, hyper, jnp.float64)
            assert np.array_equal(np.isnan(values), bad_row), (key, bad)


@every_loss
def test_hyperparameters_that_do_not_broadcast_or_are_not_real_are_refused_by_name(name):
    case, loss = LOSSES[name], getattr(losses, name)
    for key, value in case.hyper.items():
        shapes = ((3,), (EXAMPLES, CLASSES), (1, EXAMPLES))
        for wrong in [np.full(shape, value) for shape in shapes] + [jnp.full((3,), value)]:
            with pytest.raises(ValueError, match=key):
                loss(LOGITS, LABELS, **dict(case.hyper) | {key: wrong})
        for wrong in (True, 1j, "0.5", None):
            with pytest.raises((TypeError, ValueError), match=key):
                loss(LOGITS, LABELS, **dict(case.hyper) | {key: wrong})


# -- Bad scores and labels


@every_loss
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        pytest.param(LABELS, LOGITS, "logits|labels", id="swapped"),
        pytest.param(LOGITS, LABELS.astype(float), "labels", id="real_labels"),
        pytest.param(LOGITS, LABELS > 1, "labels", id="boolean_labels"),
        pytest.param(LOGITS.astype(int), LABELS, "logits", id="integer_logits"),
        pytest.param(LOGITS.astype(complex), LABELS, "logits", id="complex_logits"),
        pytest.param(LOGITS, LABELS[:3], "labels", id="too_few_labels"),
        pytest.param(LOGITS, LABELS[:, None], "labels", id="labels_with_a_class_axis"),
        pytest.param(LOGITS, 1, "labels", id="one_label"),
        pytest.param(LOGITS[:, :0], LABELS, "logits", id="no_class"),
        pytest.param(1.0, 0, "logits", id="scalar"),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused_by_name(name, logits, labels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(losses, name)(logits, labels, **LOSSES[name].hyper)


@every_loss
def test_wrong_axis_and_where_are_refused_by_name(name):
    loss = functools.partial(getattr(losses, name), LOGITS, LABELS, **LOSSES[name].hyper)
    for wrong, error, key in (
        ({"axis": 2}, ValueError, "axis"),
        ({"axis": -3}, ValueError, "axis"),
        ({"axis": 0}, ValueError, "labels"),
        ({"where": KEPT[:3]}, ValueError, "where"),
        ({"where": KEPT[None]}, ValueError, "where"),
        ({"where": KEPT.astype(float)}, TypeError, "where"),
        ({"where": KEPT.astype(int)}, TypeError, "where"),
    ):
        with pytest.raises(error, match=key):
            loss(**wrong)


@every_loss
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint32])
def test_labels_outside_the_classes_give_nan_in_value_and_gradient(name, dtype):
    bad = [CLASSES, 127] + ([] if np.issubdtype(dtype, np.unsignedinteger) else [-1, -CLASSES, -128])
    labels = LABELS.astype(dtype)
    labels[: len(bad)] = bad
    hyper = LOSSES[name].hyper
    values, gradient, _ = evaluate(name, LOGITS, labels, hyper, jnp.float64, compiled=compiled_quickly)
    assert np.all(np.isnan(values[: len(bad)]))
    assert np.all(np.any(np.isnan(gradient[: len(bad)]), axis=-1))
    expected = exact(name, LOGITS[len(bad) :], LABELS[len(bad) :], LOSSES[name].hyper)
    assert_close((values[len(bad) :], gradient[len(bad) :]), expected[:2], 1e-12)


@every_loss
def test_removed_label_gives_nan_in_value_and_gradient(name):
    for removed in (~ONLY_LABEL, np.zeros_like(KEPT)):
        mask = np.where(np.arange(EXAMPLES)[:, None] < 3, removed, KEPT)
        values, gradient, _ = evaluate(name, LOGITS, LABELS, LOSSES[name].hyper, jnp.float64, mask)
        assert np.array_equal(np.isnan(values), np.arange(EXAMPLES) < 3)
        assert np.array_equal(np.any(np.isnan(gradient), axis=-1), np.arange(EXAMPLES) < 3)


# -- Symmetries


@every_loss
def test_a_score_that_is_nan_gives_nan_in_value_and_gradient(name):
    logits = np.array(LOGITS)
    logits[np.arange(EXAMPLES), (LABELS + np.arange(EXAMPLES) // 3) % CLASSES] = np.nan
    values, gradient, _ = evaluate(name, logits, LABELS, LOSSES[name].hyper, jnp.float32)
    assert np.all(np.isnan(values))
    assert np.all(np.isnan(gradient))


@every_loss
def test_adding_a_constant_to_all_logits_changes_nothing(name):
    expected = evaluate(name, LOGITS, LABELS, LOSSES[name].hyper, jnp.float64)
    for constant in (-30.0, 1.0, 512.0):
        found = evaluate(name, LOGITS + constant, LABELS, LOSSES[name].hyper, jnp.float64)
        assert_close(found, expected, 1e-12)


@every_loss
def test_renaming_the_classes_renames_the_gradient(name):
    order = np.array([3, 0, 4, 1, 2])
    expected = evaluate(name, LOGITS, LABELS, LOSSES[name].hyper, jnp.float64)
    labels = np.argsort(order)[LABELS]
    values, gradient, slopes = evaluate(name, LOGITS[:, order], labels, LOSSES[name].hyper, jnp.float64)
    assert_close((values, gradient[:, np.argsort(order)], slopes), expected, 1e-12)


# -- Transformations and devices


@every_loss
def test_device_hyperparameters_outside_their_range_give_nan_without_compilation(name):
    case = LOSSES[name]
    for key, bad_values in case.refused.items():
        hyper = device_arrays(
            name, alternating(name) | {key: np.full(EXAMPLES, bad_values[0])}, EXAMPLES, float
        )
        assert np.all(np.isnan(getattr(losses, name)(LOGITS, LABELS, **hyper)))


@every_loss
def test_no_nan_arises_on_the_way_to_a_number(name):
    """Evaluated operation by operation, where ``jax_debug_nans`` stops at the first."""
    loss = functools.partial(getattr(losses, name), **LOSSES[name].hyper)
    logits = jnp.asarray([LOGITS[0], [-np.inf, 2, 1, -5, 0]])
    with jax.debug_nans(True):
        found = value_and_gradient(lambda z: loss(z, np.array([0, 2])), logits)
    assert_close(found, exact(name, logits, [0, 2], LOSSES[name].hyper)[:2], 1e-12)


@every_loss
def test_eager_and_vectorised_equal_compiled(name):
    hyper = alternating(name)
    expected = exact(name, LOGITS, LABELS, hyper)[0]
    assert_close(np.asarray(getattr(losses, name)(LOGITS, LABELS, **hyper)), expected, 1e-12)
    one = quick_jit(jax.vmap(lambda z, y, h: getattr(losses, name)(z, y, **h)))
    assert_close(
        np.asarray(one(LOGITS, LABELS, device_arrays(name, hyper, EXAMPLES, float))), expected, 1e-12
    )


def sixteen(name):
    """A batch of which each of the 8 devices has two examples."""
    hyper = device_arrays(name, alternating(name, 16), 16, float)
    return jnp.asarray(np.tile(LOGITS, (2, 1))), jnp.asarray(np.tile(LABELS, 2)), hyper, np.tile(KEPT, (2, 1))


def expected_of_sixteen(name):
    expected = exact(name, LOGITS, LABELS, alternating(name), KEPT)
    return jax.tree.map(lambda x: np.concatenate([x, x]), expected)


@every_loss
def test_parallel_map_over_eight_devices(name):
    batch = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), sixteen(name))
    found = jax.pmap(functools.partial(value_and_derivatives, name))(*batch)
    assert_close(jax.tree.map(lambda x: x.reshape(16, *x.shape[2:]), found), expected_of_sixteen(name), 1e-12)


@every_loss
def test_shard_map_over_eight_devices(name):
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    call = functools.partial(value_and_derivatives, name)
    sharded = jax.shard_map(call, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    assert_close(quick_jit(sharded)(*sixteen(name)), expected_of_sixteen(name), 1e-12)


@every_loss
def test_explicit_mesh_of_eight_devices_keeps_the_sharding_and_averages_gradients(name):
    """Hyper-parameters and ``where`` are sharded with the examples, the model's weights are replicated."""
    mesh, case = jax.make_mesh((8,), ("data",), (AxisType.Explicit,)), LOSSES[name]
    weights = np.eye(CLASSES)

    def step(weights, logits, labels, hyper, where):
        def risk(weights):
            return jnp.mean(getattr(losses, name)(logits @ weights, labels, **case.hyper))

        return value_and_derivatives(name, logits, labels, hyper, where), jax.value_and_grad(risk)(weights)

    with jax.set_mesh(mesh):
        batch = jax.device_put(sixteen(name), NamedSharding(mesh, jax.P("data")))
        found, (risk, slope) = quick_jit(step)(jax.device_put(weights, NamedSharding(mesh, jax.P())), *batch)
        for array in jax.tree.leaves(found):
            assert array.sharding.is_equivalent_to(NamedSharding(mesh, jax.P("data")), array.ndim)
    assert_close(found, expected_of_sixteen(name), 1e-12)
    values, gradients, _ = exact(name, LOGITS, LABELS, case.hyper)
    assert_close((risk, slope), (values.mean(), LOGITS.T @ gradients / EXAMPLES), 1e-12)
