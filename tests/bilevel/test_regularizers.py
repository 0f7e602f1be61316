"""What is tuned: means, areas, ends of the ranges, gradients, dtypes, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import bilevel

KEY = jax.random.key(3)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 6, 5, 3)), jnp.float32)
ROWS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 7, 6)), jnp.float32)

# Name: function of key, array and rate; the array; a rate inside its range, and one outside.
RANDOM = {
    "dropout": (bilevel.dropout, ROWS, 0.5, 1.5),
    "channel_dropout": (bilevel.channel_dropout, IMAGES, 0.5, -0.1),
    "variational_dropout": (bilevel.variational_dropout, ROWS, 0.5, 1.5),
    "drop_connect": (bilevel.drop_connect, ROWS[0], 0.5, 1.5),
    "embedding_dropout": (bilevel.embedding_dropout, ROWS[0], 0.5, 1.5),
    "cutout": (bilevel.cutout, IMAGES, 2.0, -1.0),
    "cutout_holes": (lambda k, x, n: bilevel.cutout(k, x, 2, n, max_holes=3), IMAGES, 2.0, 4.0),
    "random_brightness": (bilevel.random_brightness, IMAGES, 0.5, -0.1),
    "random_contrast": (bilevel.random_contrast, IMAGES, 0.5, -0.1),
    "random_saturation": (bilevel.random_saturation, IMAGES, 0.5, -0.1),
    "random_hue": (bilevel.random_hue, IMAGES, 0.25, 0.6),
    "input_scale": (bilevel.input_scale, ROWS, 0.5, -0.1),
}
SHARED = ("drop_connect", "embedding_dropout")  # one rate for the whole batch


@pytest.fixture(params=RANDOM, scope="module")
def case(request):
    return request.param, *RANDOM[request.param]


@functools.cache
def compiled(name):
    """Value and gradients in the array and the rate, one program for all tests and dtypes of the rate."""
    function = RANDOM[name][0]

    @jax.jit
    def both(key, x, rate):
        y, pull = jax.vjp(lambda x, rate: function(key, x, rate), x, rate)
        return y, *pull(jnp.ones_like(y))

    return both


def rates(name, values):
    """One rate per example, or the first of them for all."""
    return jnp.float32(values[0]) if name in SHARED else jnp.asarray(values, jnp.float32)


def test_at_rate_zero_the_array_comes_back_bit_for_bit_and_no_gradient_reaches_the_rate(case):
    name, _, x, rate, _ = case
    y, slope, of_rate = compiled(name)(KEY, x, rates(name, [0.0] * 4))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(slope, jnp.ones_like(x))
    changed, _, _ = compiled(name)(KEY, x, rates(name, [rate] * 4))
    assert np.any(changed != x)
    for end in (0.0, rate, {"cutout": 100.0, "cutout_holes": 3.0, "random_hue": 0.5}.get(name, 1.0)):
        y, slope, of_rate = compiled(name)(KEY, x, rates(name, [end] * 4))
        assert np.all(np.isfinite(y)) and np.all(np.isfinite(slope))
        np.testing.assert_array_equal(of_rate, jnp.zeros_like(of_rate))
    if name.endswith(("dropout", "drop_connect")):
        np.testing.assert_array_equal(y, jnp.zeros_like(y))
        np.testing.assert_array_equal(slope, jnp.zeros_like(slope))


def test_a_rate_of_one_example_changes_that_example_alone(case):
    name, _, x, rate, outside = case
    if name in SHARED:
        return
    y, _, _ = compiled(name)(KEY, x, rates(name, [0.0, rate, 0.0, outside]))
    changed = np.any(np.asarray(y != x).reshape(4, -1), axis=-1)
    # By chance a mask may leave an example as it is; with this key none does.
    np.testing.assert_array_equal(changed, [False, True, False, True])
    if name != "cutout_holes":
        equal, _, _ = compiled(name)(KEY, x, rates(name, [rate] * 4))
        np.testing.assert_array_equal(y[1], equal[1])


def test_a_traced_rate_out_of_range_gives_nan_and_a_known_one_is_refused(case):
    name, function, x, rate, outside = case
    for bad in (outside, np.nan):
        y, _, of_rate = compiled(name)(KEY, x, rates(name, [bad] * 4))
        assert np.all(np.isnan(y))
        np.testing.assert_array_equal(of_rate, jnp.zeros_like(of_rate))
        with pytest.raises(ValueError, match=r"must lie in"):
            function(KEY, x, bad)
    with pytest.raises((ValueError, TypeError), match=r"scalar"):
        function(KEY, x, np.zeros(3))
    with pytest.raises(TypeError, match=r"real"):
        function(KEY, x, "much")
    with pytest.raises(TypeError, match=r"floating"):
        function(KEY, x.astype(jnp.int32), rate)


def test_dtypes_are_kept(case):
    _, function, x, rate, _ = case
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float64):
        found = jax.eval_shape(function, KEY, x.astype(dtype), jnp.float32(rate))
        assert (found.dtype, found.shape) == (dtype, x.shape)
        assert jax.eval_shape(lambda x: function(KEY, x, rate), x.astype(dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["dropout", "cutout", "random_hue"])
def test_a_batch_sharded_over_devices_gives_the_same(name):
    function, x, rate, _ = RANDOM[name]
    x, rate = jnp.concatenate([x, x]), jnp.full(8, rate, jnp.float32)
    wanted = jax.jit(function)(KEY, x, rate)
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        found = jax.jit(function)(KEY, *jax.device_put((x, rate), jax.P("data")))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


# -- Masks


def test_masks_keep_the_mean_and_drop_the_share_that_was_asked_for():
    rate = jnp.array([0.1, 0.5, 0.9])
    y = bilevel.dropout(KEY, jnp.ones([3, 200_000]), rate)
    np.testing.assert_allclose((y == 0).mean(-1), rate, atol=4 * 0.5 / 200_000**0.5)
    np.testing.assert_allclose(y.mean(-1), 1, atol=4 * 3 / 200_000**0.5)
    np.testing.assert_allclose(y.max(-1), 1 / (1 - rate), rtol=1e-6)


def test_a_dropped_infinity_is_gone():
    y = bilevel.dropout(KEY, jnp.full([100], jnp.inf), 0.5)
    assert set(np.unique(y)) == {0.0, np.inf}


def test_masks_are_shared_along_the_axes_that_they_should_be():
    ones = jnp.ones([3, 20, 50])

    @jax.jit
    def masks(ones):
        tables = {"in": ones[0], "out": 2 * ones[0]}
        channels = [bilevel.channel_dropout(KEY, ones, 0.5, channel_axis=axis) for axis in (-1, 1)]
        return (
            *channels,
            bilevel.variational_dropout(KEY, ones, 0.5),
            bilevel.embedding_dropout(KEY, tables, 0.5),
        )

    per_channel, second, over_time, rows = jax.tree.map(np.asarray, masks(ones))
    assert np.all(np.ptp(per_channel, axis=1) == 0) and np.ptp(per_channel[0, 0]) > 0
    assert np.all(np.ptp(second, axis=2) == 0) and np.ptp(second[0, :, 0]) > 0
    assert np.all(np.ptp(over_time, axis=1) == 0) and np.ptp(over_time[0, 0]) > 0
    assert np.any(over_time[0] != over_time[1])
    assert np.all(np.ptp(rows["in"], axis=1) == 0) and np.ptp(rows["in"][:, 0]) > 0
    np.testing.assert_array_equal(rows["out"], 2 * rows["in"])


def test_arrays_that_cannot_share_a_mask_are_refused():
    for tree in ((jnp.ones(3), jnp.ones(4)), ()):
        with pytest.raises(ValueError, match="one shape"):
            bilevel.drop_connect(KEY, tree, 0.5)
    with pytest.raises(ValueError, match=r"\[V, D\]"):
        bilevel.embedding_dropout(KEY, jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match="shared_axes"):
        bilevel.dropout(KEY, jnp.ones(3), 0.5, shared_axes=(1,))


# -- Cutout


def windows(size, length):
    """The pixels covered for each centre, by the definition."""
    return [
        {i for i in range(center - length // 2, center - length // 2 + length) if 0 <= i < size}
        for center in range(size)
    ]


def test_holes_are_exactly_the_squares_about_some_pixel():
    height, width, draws = 6, 5, 400
    lengths = jnp.repeat(jnp.arange(14), draws)
    images = jnp.ones([lengths.size, height, width, 1])
    cut = np.asarray(jax.jit(bilevel.cutout)(KEY, images, lengths))[..., 0] == 0
    for length in range(14):
        allowed = {
            np.outer([i in rows for i in range(height)], [j in columns for j in range(width)]).tobytes()
            for rows, columns in itertools.product(windows(height, length), windows(width, length))
        }
        found = {mask.tobytes() for mask in cut[length * draws : (length + 1) * draws]}
        assert found == allowed  # every square is met in 400 draws, the first and last rows included


def test_each_pixel_is_cut_as_often_as_uniform_centres_cut_it():
    size, length, draws = 7, 3, 20_000
    images = jnp.ones([draws, size, size, 1])
    cut = np.asarray(jax.jit(bilevel.cutout)(KEY, images, jnp.full(draws, length)))[..., 0] == 0
    share = np.array([sum(i in window for window in windows(size, length)) for i in range(size)]) / size
    np.testing.assert_allclose(cut.mean(0), np.outer(share, share), atol=4.5 * 0.5 / draws**0.5)


def test_several_holes_are_drawn_independently_and_counted_per_image():
    draws = 2000
    holes = jnp.repeat(jnp.arange(4), draws)
    images = jnp.ones([4 * draws, 30, 30, 1])
    cutout = jax.jit(bilevel.cutout, static_argnames="max_holes")
    cut = cutout(KEY, images, 1.9, holes, max_holes=3)  # rounded down to one pixel
    area = np.sum(np.asarray(cut) == 0, axis=(1, 2, 3)).reshape(4, draws)
    assert np.all(area <= np.arange(4)[:, None])
    # Two of n holes of one pixel coincide with probability 1/900 a pair.
    expected = [0, 1, 2 - 1 / 900, 3 - 3 / 900 + 1 / 900**2]
    np.testing.assert_allclose(area.mean(1), expected, atol=4 * 0.06 / draws**0.5)
    with pytest.raises(ValueError, match="max_holes"):
        bilevel.cutout(KEY, images, 1, holes)


# -- Colours and scales


def test_jitter_agrees_with_the_definitions_through_hue_saturation_and_value():
    import colorsys

    pixels = jnp.asarray(np.random.default_rng(5).uniform(size=(64, 1, 1, 3)))
    grey = np.asarray(pixels) @ np.array([0.299, 0.587, 0.114])
    image = pixels.reshape(1, 64, 1, 3)

    @jax.jit
    def changed(pixels, image):
        return (
            bilevel.random_hue(KEY, pixels, 0.5), bilevel.random_hue(KEY, image, 0.3),
            bilevel.random_saturation(KEY, pixels, 0.2), bilevel.random_brightness(KEY, pixels, 0.3),
        )  # fmt: skip

    turned, together, desaturated, brighter = (np.asarray(part) for part in changed(pixels, image))
    rows = np.asarray(pixels).reshape(-1, 3)
    for before, after in zip(rows, np.asarray(turned).reshape(-1, 3), strict=True):
        np.testing.assert_allclose(
            colorsys.rgb_to_hsv(*after)[1:], colorsys.rgb_to_hsv(*before)[1:], rtol=1e-10
        )
    # The same turn by the library that knows hue, for one image of many pixels.
    turned = together.reshape(-1, 3)
    hues = [
        (colorsys.rgb_to_hsv(*after)[0] - colorsys.rgb_to_hsv(*before)[0]) % 1
        for before, after in zip(rows, turned, strict=True)
    ]
    assert np.ptp(np.exp(2j * np.pi * np.array(hues)).real) < 1e-9
    assert min(hues[0], 1 - hues[0]) <= 0.3
    desaturated = desaturated[:, 0, 0]
    inside = np.all((desaturated > 0) & (desaturated < 1), axis=-1)
    np.testing.assert_allclose(
        (desaturated @ np.array([0.299, 0.587, 0.114]))[inside], grey[inside, 0, 0], rtol=1e-10
    )
    assert np.all(brighter / np.asarray(pixels) <= 1.3 + 1e-12)


def test_factors_are_uniform_over_their_range():
    draws = 20_000
    factor = np.asarray(bilevel.input_scale(KEY, jnp.ones([draws, 2]), np.full(draws, 0.5)))
    assert np.ptp(factor, axis=1).max() == 0
    low, high = 1 / 1.5, 1.5
    quantiles = np.quantile(factor[:, 0], np.linspace(0, 1, 11))
    np.testing.assert_allclose(quantiles, np.linspace(low, high, 11), atol=0.02)
    assert abs(factor.mean() - (1 + 0.5**2 / (2 * 1.5))) < 4 * 0.25 / draws**0.5
    bright = np.asarray(bilevel.random_brightness(KEY, jnp.full([draws, 1, 1, 1], 0.25), 1.0))
    np.testing.assert_allclose(np.quantile(bright, np.linspace(0, 1, 11)), np.linspace(0, 0.5, 11), atol=0.01)


def test_images_of_one_channel_keep_hue_and_saturation_and_others_are_refused():
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(bilevel.random_hue(KEY, grey, 0.5), grey)
    np.testing.assert_array_equal(bilevel.random_saturation(KEY, grey, 0.5), grey)
    changed = bilevel.color_jitter(KEY, grey, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2)
    assert changed.shape == grey.shape
    with pytest.raises(ValueError, match="channels"):
        bilevel.random_contrast(KEY, IMAGES[..., :2], 0.5)
    with pytest.raises(ValueError, match="H, W, C"):
        bilevel.cutout(KEY, IMAGES[0, 0], 2)


# -- Penalties


def test_penalties_are_means_over_all_entries_and_differentiable_in_their_weight():
    hidden = ROWS.astype(jnp.float64)
    weights = jnp.array([0.0, 0.5, 1.0, 2.0])
    squares = np.asarray(hidden**2)
    np.testing.assert_allclose(bilevel.activation_regularization(hidden, 3.0), 3 * squares.mean(), rtol=1e-12)
    found = bilevel.activation_regularization(hidden, weights)
    np.testing.assert_allclose(found, weights * squares.mean((1, 2)), rtol=1e-12)
    changes = np.diff(np.asarray(hidden), axis=1) ** 2
    found = bilevel.temporal_activation_regularization(hidden, weights)
    np.testing.assert_allclose(found, weights * changes.mean((1, 2)), rtol=1e-12)
    swapped = bilevel.temporal_activation_regularization(jnp.swapaxes(hidden, 0, 1), 2.0, time_axis=0)
    np.testing.assert_allclose(swapped, 2 * changes.mean(), rtol=1e-12)
    slope = jax.grad(bilevel.activation_regularization, 1)(hidden, jnp.asarray(3.0))
    np.testing.assert_allclose(slope, squares.mean(), rtol=1e-12)
    assert bilevel.temporal_activation_regularization(hidden[:, :1], 2.0) == 0


def test_weight_decay_has_a_rate_for_each_group_or_example():
    params = {"a": [jnp.array([1.0, 2.0]), jnp.array(3.0)], "b": jnp.array([[4.0]], jnp.bfloat16)}
    np.testing.assert_allclose(bilevel.weight_decay(params, 0.5), 0.25 * 30)
    np.testing.assert_allclose(bilevel.weight_decay(params, {"a": 1.0, "b": 0.25}), 0.5 * (14 + 4))
    rates = jnp.array([0.0, 1.0, jnp.nan, -1.0])
    np.testing.assert_allclose(bilevel.weight_decay(params, rates), [0, 15, np.nan, np.nan])
    gradient = jax.grad(bilevel.weight_decay)(params, 0.5)
    np.testing.assert_allclose(gradient["a"][0], [0.5, 1.0])
    assert gradient["b"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="rate must lie"):
        bilevel.weight_decay(params, -1.0)
