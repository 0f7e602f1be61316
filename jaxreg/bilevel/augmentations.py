"""Random changes of images with strengths that are arrays (MacKay et al., ICLR 2019, arXiv 1903.03088).

Functions ``(key, images, strength) -> images`` for images ``[..., H, W, C]``. The strength is one number or
one per image, traced or not; at 0 the images come back bit for bit. As in ``regularizers`` none passes a
gradient to its strength.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import checks

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


def cutout(
    key: ArrayLike,
    images: ArrayLike,
    length: ArrayLike,
    holes: ArrayLike = 1,
    *,
    max_holes: int | None = None,
) -> jax.Array:
    r"""Set squares of an image to zero.

    .. math:: y_{ij} = 0 \ \text{ if } \ 0 \le i - r + \lfloor L/2 \rfloor < L
        \ \text{ and } \ 0 \le j - c + \lfloor L/2 \rfloor < L

    for a centre (r, c) drawn uniformly from the pixels: exactly :math:`L^2` of them, less those beyond the
    border.

    Args:
      key: random key.
      images: floating, shape ``[..., H, W, C]``.
      length: side of a square in pixels, in [0, inf), rounded down to an integer: a number, or an array that
        broadcasts against the leading axes of ``images``, such as one per image ``[B]``.
      holes: number of squares of an image, at least 0, rounded down, likewise.
      max_holes: the most squares that an image can get, a static number; None takes it from ``holes``, which
        must be known at trace time then.

    Returns:
      The shape and dtype of ``images``; NaN where a traced argument is out of range. No gradient goes to
      ``length`` and ``holes``.

    Raises:
      TypeError: images not floating, or an argument not real.
      ValueError: Python or NumPy arguments out of range, shapes that do not fit, or ``max_holes`` missing.

    References:
      DeVries and Taylor (2017), arXiv 1708.04552. The code released with MacKay et al. (2019) shifts squares
      of odd length by half a pixel and loses those at the upper and left border.

    Example:
      >>> images = cutout(jax.random.key(0), jnp.ones([4, 32, 32, 1]), jnp.array([0, 1, 2, 100]))
      >>> print(jnp.sum(images == 0, axis=(1, 2, 3)))
      [   0    1    4 1024]
    """
    values = _images(images)
    if max_holes is None:
        if not checks.is_concrete(holes):
            raise ValueError("max_holes must be given where holes is not known at trace time")
        max_holes = int(np.max(holes))
    *leading, height, width, _ = values.shape
    side = checks.per_example("length", length, "[0, inf)", values[..., 0, 0, 0])
    count = checks.per_example("holes", holes, f"[0, {max_holes + 1})", values[..., 0, 0, 0])
    side, count = (jnp.floor(jax.lax.stop_gradient(number)) for number in (side, count))
    centres = jax.random.randint(key, (*leading, max_holes, 2), 0, jnp.array([height, width]))
    first = centres.astype(values.dtype) - jnp.floor(side / 2)[..., None, None]
    last = first + side[..., None, None]
    present = jnp.arange(max_holes, dtype=count.dtype) < count[..., None]
    rows, columns = (
        _between(first[..., axis], last[..., axis], size) for axis, size in ((0, height), (1, width))
    )
    inside = rows[..., :, None] & columns[..., None, :] & present[..., None, None]
    # A factor of NaN for arguments out of range, which compare as false above.
    valid = jnp.where(jnp.isnan(side + count), jnp.nan, 1.0).astype(values.dtype)[..., None, None, None]
    kept = jnp.where(jnp.any(inside, axis=-3)[..., None], 0, values * valid)
    return kept.astype(jnp.asarray(images).dtype)


def random_brightness(key: ArrayLike, images: ArrayLike, strength: ArrayLike) -> jax.Array:
    r"""Multiply an image by a random factor.

    .. math:: y = [u x]_0^1, \qquad u \sim U(\max(0, 1 - b), 1 + b)

    Args:
      key: random key.
      images: floating, shape ``[..., H, W, C]``, entries in [0, 1].
      strength: half-width ``b`` in [0, inf), a number or one per image ``[B]``.

    Returns:
      The shape and dtype of ``images``; NaN where a traced ``strength`` is out of range. No gradient goes to
      ``strength``.

    Raises:
      TypeError: images not floating, or ``strength`` not real.
      ValueError: a Python or NumPy ``strength`` out of range, or shapes that do not fit.

    References:
      The colour jitter of MacKay et al. (2019), arXiv 1903.03088, with the usual definitions.

    Example:
      >>> y = random_brightness(jax.random.key(0), jnp.full([3, 2, 2, 1], 0.5), jnp.array([0.0, 0.1, 0.5]))
      >>> print(jnp.abs(y - 0.5).max((1, 2, 3)) <= jnp.array([0.0, 0.05, 0.25]))
      [ True  True  True]
    """
    return _jitter(key, images, strength, lambda x, factor: factor * x)


def random_contrast(key: ArrayLike, images: ArrayLike, strength: ArrayLike) -> jax.Array:
    r"""Stretch an image about its mean luma by a random factor.

    .. math:: y = [u x + (1 - u)\, \bar g(x)]_0^1, \qquad u \sim U(\max(0, 1 - c), 1 + c)

    with the luma :math:`g = 0.299 R + 0.587 G + 0.114 B`, or the one channel there is, and its mean
    :math:`\bar g` over the image.

    Args:
      key: random key.
      images: floating, shape ``[..., H, W, C]``, C of 1 or 3, entries in [0, 1].
      strength: half-width ``c`` in [0, inf), a number or one per image ``[B]``.

    Returns:
      As :func:`random_brightness`.

    Raises:
      TypeError: as :func:`random_brightness`.
      ValueError: as :func:`random_brightness`, or another number of channels.

    References:
      As :func:`random_brightness`.

    Example:
      >>> y = random_contrast(jax.random.key(0), jnp.array([0.4, 0.6]).reshape(2, 1, 1), 0.5)
      >>> print(f"{y.mean():.4f}")
      0.5000
    """
    _luma(_images(images))

    def blend(x: jax.Array, factor: jax.Array) -> jax.Array:
        return factor * x + (1 - factor) * jnp.mean(_luma(x), axis=(-3, -2), keepdims=True)

    return _jitter(key, images, strength, blend)


def random_saturation(key: ArrayLike, images: ArrayLike, strength: ArrayLike) -> jax.Array:
    r"""Stretch the colours of an image away from grey by a random factor.

    .. math:: y = [u x + (1 - u)\, g(x)]_0^1, \qquad u \sim U(\max(0, 1 - s), 1 + s)

    with the luma ``g`` of each pixel as in :func:`random_contrast`; images of one channel stay.

    Args:
      key: random key.
      images: floating, shape ``[..., H, W, C]``, C of 1 or 3, entries in [0, 1].
      strength: half-width ``s`` in [0, inf), a number or one per image ``[B]``.

    Returns:
      As :func:`random_brightness`.

    Raises:
      TypeError: as :func:`random_brightness`.
      ValueError: as :func:`random_contrast`.

    References:
      As :func:`random_brightness`.

    Example:
      >>> grey = jnp.full([2, 2, 3], 0.3)
      >>> print(jnp.allclose(random_saturation(jax.random.key(0), grey, 1.0), grey))
      True
    """
    _luma(_images(images))
    return _jitter(
        key,
        images,
        strength,
        lambda x, factor: x if x.shape[-1] == 1 else factor * x + (1 - factor) * _luma(x),
    )


def random_hue(key: ArrayLike, images: ArrayLike, strength: ArrayLike) -> jax.Array:
    r"""Turn the hue of an image by a random angle, at equal value and chroma.

    .. math:: H \mapsto H + u \pmod 1, \qquad u \sim U(-h, h)

    Args:
      key: random key.
      images: floating, shape ``[..., H, W, C]``, C of 1 or 3, entries in [0, 1].
      strength: half-width ``h`` in [0, 1/2], in turns, a number or one per image ``[B]``; 1/2 reaches the
        complementary colour.

    Returns:
      As :func:`random_brightness`; grey stays, and so do images of one channel.

    Raises:
      TypeError: as :func:`random_brightness`.
      ValueError: as :func:`random_contrast`.

    References:
      As :func:`random_brightness`; hue as in Smith (1978), SIGGRAPH.

    Example:
      >>> y = random_hue(jax.random.key(0), jnp.array([0.9, 0.5, 0.1]).reshape(1, 1, 3), 0.5)
      >>> print(f"{y.max():.4f} {y.min():.4f}")
      0.9000 0.1000
    """
    values = _images(images)
    _luma(values)
    width = checks.per_example("strength", strength, "[0, 0.5]", values)
    turn = jax.lax.stop_gradient(_draw(key, values, -width, width))
    turned = values if values.shape[-1] == 1 else _turn(values, turn)
    # The way to the hue and back rounds, and a width out of range must be seen even on grey.
    changed = jnp.where(turn == 0, values, turned + 0 * turn)
    return changed.astype(jnp.asarray(images).dtype)


def color_jitter(
    key: ArrayLike,
    images: ArrayLike,
    *,
    brightness: ArrayLike = 0.0,
    contrast: ArrayLike = 0.0,
    saturation: ArrayLike = 0.0,
    hue: ArrayLike = 0.0,
) -> jax.Array:
    """Brightness, contrast, saturation and hue, changed at random in this order.

    Args:
      key: random key.
      images: floating, shape ``[..., H, W, C]``, C of 1 or 3, entries in [0, 1] (so before images are
        normalised).
      brightness: as in :func:`random_brightness`.
      contrast: as in :func:`random_contrast`.
      saturation: as in :func:`random_saturation`.
      hue: as in :func:`random_hue`. A strength given as the Python number 0 costs nothing.

    Returns:
      As :func:`random_brightness`.

    Raises:
      TypeError: as :func:`random_brightness`.
      ValueError: as :func:`random_contrast`.

    References:
      As :func:`random_brightness`, where the order is random; a fixed order keeps the program small.

    Example:
      >>> images = jax.random.uniform(jax.random.key(0), [2, 4, 4, 3])
      >>> changed = color_jitter(jax.random.key(1), images, contrast=jnp.array([0.0, 0.3]), hue=0.0)
      >>> print(jnp.any(changed != images, axis=(1, 2, 3)))
      [False  True]
    """
    changes: list[tuple[Callable, ArrayLike]] = [
        (random_brightness, brightness), (random_contrast, contrast),
        (random_saturation, saturation), (random_hue, hue),
    ]  # fmt: skip
    changed = jnp.asarray(images)
    for number, (change, strength) in enumerate(changes):
        if checks.is_concrete(strength) and np.all(np.asarray(strength) == 0):
            continue
        changed = change(jax.random.fold_in(key, number), changed, strength)
    return changed


def input_scale(key: ArrayLike, x: ArrayLike, rate: ArrayLike) -> jax.Array:
    r"""Multiply each example by a random factor.

    .. math:: y = u x, \qquad u \sim U\big(1/(1 + s),\ 1 + s\big)

    Args:
      key: random key.
      x: floating, any shape; one factor is drawn for each entry of its first axis.
      rate: ``s`` in [0, inf), a number or one per example ``[B]``.

    Returns:
      The shape and dtype of ``x``, not clipped; NaN where a traced ``rate`` is out of range. No gradient goes
      to ``rate``. The mean of the factor is above 1, ``1 + s^2 / (2 (1 + s))``.

    Raises:
      TypeError: ``x`` not floating, or ``rate`` not real.
      ValueError: a Python or NumPy ``rate`` out of range, or a shape that does not fit.

    References:
      MacKay et al. (2019), arXiv 1903.03088.

    Example:
      >>> y = input_scale(jax.random.key(0), jnp.ones([3, 5]), jnp.array([0.0, 0.1, 1.0]))
      >>> print(jnp.ptp(y, axis=1).max(), y[0, 0], (y >= 0.5).all() & (y <= 2).all())
      0.0 1.0 True
    """
    values = checks.floating("x", x)
    spread = checks.per_example("rate", rate, "[0, inf)", values)
    shape = values.shape[:1] + (1,) * (values.ndim - 1)
    factor = _uniform(key, shape, 1 / (1 + spread), 1 + spread)
    return (jax.lax.stop_gradient(factor) * values).astype(jnp.asarray(x).dtype)


def _images(images: ArrayLike) -> jax.Array:
    values = checks.floating("images", images)
    if values.ndim < 3:
        raise ValueError(f"images must have the shape [..., H, W, C], got {values.shape}")
    return values


def _between(first: jax.Array, last: jax.Array, size: int) -> jax.Array:
    """Which of ``0 .. size - 1`` lie in ``[first, last)``: adds an axis of ``size``."""
    pixels = jnp.arange(size, dtype=first.dtype)
    return (pixels >= first[..., None]) & (pixels < last[..., None])


def _uniform(key: ArrayLike, shape: tuple[int, ...], low: jax.Array, high: jax.Array) -> jax.Array:
    """Uniform on ``[low, high]``, exactly ``low`` where the two are equal."""
    return low + (high - low) * jax.random.uniform(key, shape, low.dtype)


def _draw(key: ArrayLike, values: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """One uniform number for each image."""
    return _uniform(key, (*values.shape[:-3], 1, 1, 1), low, high)


def _jitter(key: ArrayLike, images: ArrayLike, strength: ArrayLike, change: Callable) -> jax.Array:
    """A change by a factor drawn for each image, clipped to [0, 1]."""
    values = _images(images)
    width = checks.per_example("strength", strength, "[0, inf)", values)
    factor = _draw(key, values, jnp.maximum(1 - width, 0), 1 + width)
    factor = jax.lax.stop_gradient(factor)
    # Entries beyond [0, 1] stay where nothing is changed; a width out of range must be seen.
    changed = jnp.clip(change(values, factor) + 0 * factor, 0, 1)
    return jnp.where(factor == 1, values, changed).astype(jnp.asarray(images).dtype)


def _luma(images: jax.Array) -> jax.Array:
    """The luma of each pixel, ``[..., H, W, 1]``."""
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got shape {images.shape}")
    if images.shape[-1] == 1:
        return images
    return jnp.sum(images * jnp.array(LUMA, images.dtype), axis=-1, keepdims=True)


def _turn(images: jax.Array, turn: jax.Array) -> jax.Array:
    """Images with their hue increased by ``turn``, in turns."""
    red, green, blue = (images[..., channel : channel + 1] for channel in range(3))
    value = jnp.max(images, axis=-1, keepdims=True)
    chroma = value - jnp.min(images, axis=-1, keepdims=True)
    safe = jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Channel n is value - chroma max(0, min(k, 4 - k, 1)) with k = n + hue mod 6, n = 5, 3, 1.
    phase = jnp.mod(jnp.array([5, 3, 1], images.dtype) + sextant + 6 * turn, 6)
    return value - chroma * jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
