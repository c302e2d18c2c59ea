"""Convert images with more than 8 bits per channel to 8 bits."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LARGEST = tuple(2**depth - 1 for depth in (8, 10, 12, 14, 16))
"""Largest values of the bit depths of cameras and scanners, which are stored in 16 or 32 bits."""
_ROWS = 256  # rows converted at a time, to save memory

_LITTLE, _BIG = ";16L", ";16B"
_NATIVE = _LITTLE if sys.byteorder == "little" else _BIG
_COLORS = ("RGB", "RGBX", "RGBA")
_GRAY_ALPHA = "LA;16B"


def to_8_bit(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Convert 16-bit, 32-bit or float pixels (H, W) of a Pillow `mode` to 8 bits.

    Integers have the smallest bit depth (8, 10, 12, 14 or 16) that holds the largest
    one: 12 bits if that is between 1024 and 4095. So have floats, unless none exceeds 1:
    then they are multiplied by 255. Images with negative values or values above 65535
    are rescaled to [0, 255]. NaN and infinities become 0.
    """
    if mode == "F":
        values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        top = max(high, low + 1e-12)
    else:
        low = 0.0
        top = 1.0 if mode == "F" and high <= 1 else _top(high)
    out = np.empty(values.shape, dtype=np.uint8)
    for at in range(0, len(values), _ROWS):
        rows = values[at : at + _ROWS].astype(np.float64)
        out[at : at + _ROWS] = np.rint((rows - low) / (top - low) * 255)
    return out


def is_deep_color(image: Image.Image) -> bool:
    """Return True for an image whose channels have 16 bits, of which Pillow keeps only the high byte."""
    tiles = getattr(image, "tile", ())  # empty once the image has been loaded
    return image.format in ("PNG", "TIFF") and bool(tiles) and all(map(_raw_mode, tiles))


def deep_color(image: Any) -> Image.Image:
    """Convert an image for which `is_deep_color` holds, opened from bytes, to 8 bits per channel.

    The file is read twice: for the high bytes, and for the low bytes. The bit depth of the colors is chosen
    as for gray images; alpha has 16 bits.
    """
    low = Image.open(io.BytesIO(image.fp.getvalue()), formats=[image.format])
    low.tile = [tile._replace(args=_other_bytes(tile.args)) for tile in low.tile]
    is_gray = _raw_mode(image.tile[0]) == _GRAY_ALPHA
    high_bytes, low_bytes = np.asarray(image), np.asarray(low)
    colors = 1 if is_gray else 3
    if is_gray:  # read as four channels: both bytes of the gray value, and both of alpha
        high_bytes, low_bytes = low_bytes[..., ::2], low_bytes[..., 1::2]
    top = _top(max(float(rows[..., :colors].max()) for rows in _joined(high_bytes, low_bytes)))
    out = np.empty(high_bytes.shape, dtype=np.uint8)
    for at, rows in zip(range(0, len(out), _ROWS), _joined(high_bytes, low_bytes), strict=True):
        out[at : at + _ROWS, :, :colors] = np.rint(rows[..., :colors] / top * 255)
        out[at : at + _ROWS, :, colors:] = np.rint(rows[..., colors:] / 257)
    found = Image.fromarray(out)
    key = image.info.get("transparency")
    if isinstance(key, tuple):  # the color that is transparent
        found.info["transparency"] = tuple(round(min(value / top, 1) * 255) for value in key)
    return found


def _top(high: float) -> float:
    """Return the largest value of the smallest bit depth that holds `high`."""
    return float(next(top for top in _LARGEST if high <= top))


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> Iterator[NDArray[np.uint16]]:
    """Yield 16-bit values, a few rows at a time."""
    for at in range(0, len(high), _ROWS):
        yield high[at : at + _ROWS].astype(np.uint16) * np.uint16(256) + low[at : at + _ROWS]


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
