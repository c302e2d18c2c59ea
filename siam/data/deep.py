"""Convert images with more than 8 bits per channel to 8 bits."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siam.data.bands import bands

_LARGEST = tuple(2**depth - 1 for depth in (8, 10, 12, 14, 16))
"""Largest values of the bit depths of cameras and scanners, which are stored in 16 or 32 bits."""

_LITTLE, _BIG = ";16L", ";16B"
_NATIVE = _LITTLE if sys.byteorder == "little" else _BIG
_COLORS = ("RGB", "RGBX", "RGBA")
_GRAY_ALPHA = "LA;16B"


def deep_gray(image: Image.Image) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Convert an image of a gray mode with 16-bit, 32-bit or float pixels to 8 bits, in bands of rows (h, W).

    Integers have the smallest bit depth (8, 10, 12, 14 or 16) that holds the largest
    one: 12 bits if that is between 1024 and 4095. So have floats, unless none exceeds 1:
    then they are multiplied by 255. Images with negative values or values above 65535
    are rescaled to [0, 255]. NaN and infinities become 0.
    """
    low, high = _value_range(image)
    for rows, band in bands(image):
        yield rows, np.rint((_finite(band).astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)


def _value_range(image: Image.Image) -> tuple[float, float]:
    """Return the values that become 0 and 255."""
    extremes = [(values.min(), values.max()) for values in (_finite(band) for _, band in bands(image))]
    low, high = float(min(least for least, _ in extremes)), float(max(most for _, most in extremes))
    if low < 0 or high > 65535:
        return low, max(high, low + 1e-12)
    return 0.0, 1.0 if image.mode == "F" and high <= 1 else _top(high)


def _finite(image: Image.Image) -> NDArray[Any]:
    """Return the pixels (H, W) of a gray image; NaN and infinities become 0."""
    values = np.asarray(image)
    return np.nan_to_num(values, posinf=0, neginf=0) if image.mode == "F" else values


def is_deep_color(image: Image.Image) -> bool:
    """Return True for an image whose channels have 16 bits, of which Pillow keeps only the high byte."""
    tiles = getattr(image, "tile", ())  # empty once the image has been loaded
    return image.format in ("PNG", "TIFF") and bool(tiles) and all(map(_raw_mode, tiles))


def deep_color(image: Any) -> Iterator[tuple[slice, Image.Image]]:
    """Convert an image for which `is_deep_color` holds, opened from bytes, to 8 bits per channel, in bands.

    The file is read twice: for the high bytes, and for the low bytes. The bit depth of the colors is chosen
    as for gray images; alpha has 16 bits.
    """
    low = Image.open(io.BytesIO(image.fp.getvalue()), formats=[image.format])
    low.decodermaxblock = image.decodermaxblock
    colors = 1 if _raw_mode(low.tile[0]) == _GRAY_ALPHA else 3
    low.tile = [tile._replace(args=_other_bytes(tile.args)) for tile in low.tile]
    return _bands_of_both(image, low, colors)


def _bands_of_both(high: Image.Image, low: Image.Image, colors: int) -> Iterator[tuple[slice, Image.Image]]:
    """Yield the bands of an image, given its high and low bytes. colors: channels other than alpha."""
    top = _top(max(float(values[..., :colors].max()) for _, values in _joined(high, low, colors)))
    key = high.info.get("transparency")
    for rows, values in _joined(high, low, colors):
        out = np.empty(values.shape, dtype=np.uint8)
        out[..., :colors] = np.rint(values[..., :colors] / top * 255)
        out[..., colors:] = np.rint(values[..., colors:] / 257)
        band = Image.fromarray(out)
        if isinstance(key, tuple):  # the color that is transparent
            band.info["transparency"] = tuple(round(min(value / top, 1) * 255) for value in key)
        yield rows, band


def _joined(high: Image.Image, low: Image.Image, colors: int) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """Yield 16-bit values (h, W, C) of a band of rows."""
    for (rows, one), (_, other) in zip(bands(high), bands(low), strict=True):
        high_bytes, low_bytes = np.asarray(one), np.asarray(other)
        if colors == 1:  # read as four channels: both bytes of the gray value, and both of alpha
            high_bytes, low_bytes = low_bytes[..., ::2], low_bytes[..., 1::2]
        yield rows, high_bytes.astype(np.uint16) * np.uint16(256) + low_bytes


def _top(high: float) -> float:
    """Return the largest value of the smallest bit depth that holds `high`."""
    return float(next(top for top in _LARGEST if high <= top))


def _raw_mode(tile: Any) -> str:
    """Return Pillow's name of the stored 16-bit color format of a tile; "" for any other format."""
    raw = tile.args if isinstance(tile.args, str) else str(tile.args[0])
    deep = raw == _GRAY_ALPHA or (raw[:-4] in _COLORS and raw[-4:] in (_LITTLE, _BIG, ";16N"))
    return raw if deep else ""


def _other_bytes(args: Any) -> Any:
    """Return the arguments of a tile's decoder with which it returns the low byte of each value."""
    raw, *rest = (args,) if isinstance(args, str) else args
    if raw == _GRAY_ALPHA:
        raw = "RGBA"
    else:
        stored = raw[-4:].replace(";16N", _NATIVE)
        raw = raw[:-4] + (_LITTLE if stored == _BIG else _BIG)
    return raw if isinstance(args, str) else (raw, *rest)
