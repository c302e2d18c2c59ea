"""Bytes to pixels: whatever a photograph's file holds, 8-bit RGB comes out, upright."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from siam.errors import first_line

MAX_PIXELS = 178_956_970
"""Files that declare more are refused before memory is taken: Pillow's own limit for decompression bombs."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
"""What Pillow may take a file for, whatever its name says: some others start programs, as EPS does."""

_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_PLAIN = (1, 3)  # components of a JPEG for the fast decoder: grey and YCbCr


Shrink = Callable[[int, int], int]
"""Of an image's height and width in pixels: how many times smaller (1 or more) would still do."""


class BrokenImage(Exception):
    """An image that cannot be read; `reason` says why in a few words.

    until: index of the first image after it that may not share the fault, where a whole file is lost.
    """

    def __init__(self, reason: str, until: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.until = reason, until


def decode(data: bytes, shrink: Shrink | None = None) -> Tensor:
    """uint8 (3, H, W), RGB, EXIF orientation applied; alpha lies on white. Raises BrokenImage.

    shrink: for views. Where it allows that, a JPEG comes out at a half, a quarter or an eighth of its size,
    in a fraction of the time: its cosine transform is inverted at fewer points (scaled decoding). Nor
    is color smoothed between the pixels that share it, which takes a fifth of the time and does not show.
    The memory is channels-last (a view of H x W x C), which is how resizing is fastest.
    """
    if not data:
        raise BrokenImage("the file is empty")
    if data[:2] == b"\xff\xd8":
        header = _jpeg_header(data)
        if header.width * header.height > MAX_PIXELS:
            raise BrokenImage(f"declares {header.width} x {header.height} pixels, too many for a photograph")
        if header.components in _PLAIN:
            return _decode_jpeg(data, header, shrink)
    return _decode_any(data)


def _decode_jpeg(data: bytes, header: "_JpegHeader", shrink: Shrink | None) -> Tensor:
    least = (0, 0)  # the size asked for, in pixels; 0: as it is
    upright = (header.height, header.width) if header.orientation < 5 else (header.width, header.height)
    allowed = 1 if shrink is None else shrink(*upright)
    if allowed >= 2:
        factor = max(factor for factor in (2, 4, 8) if factor <= allowed)
        least = -(-header.height // factor), -(-header.width // factor)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", fastupsample=shrink is not None, min_height=least[0], min_width=least[1]
        )
    except ValueError:  # damaged, or merely odd: Pillow forgives more, and knows which
        return _decode_any(data)
    return torch.from_numpy(_upright(pixels, header.orientation)).permute(2, 0, 1)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo EXIF orientation, 1 to 8 (TIFF 6.0, tag 274), on (H, W, 3)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _decode_any(data: bytes) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is not a broken image
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage("declares too many pixels for a photograph") from None
    except UnidentifiedImageError:
        raise BrokenImage("is not an image") from None
    except Exception as error:  # damaged bytes lead Pillow's readers to errors of any kind
        raise BrokenImage(first_line(error)) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits and more: scale, where convert() would clip
        return Image.fromarray(_to_8_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """16-bit levels over 257; floats up to 1 times 255, up to 255 as they are; others by their own range.

    A float that is no number counts as 0.
    """
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        scaled = (values - low) / max(high - low, 1e-12) * 255
    elif mode != "F" or high > 255:
        scaled = values / 257
    else:
        scaled = values * 255 if high <= 1 else values
    return np.rint(scaled).astype(np.uint8)


@dataclass(frozen=True)
class _JpegHeader:
    width: int
    height: int
    components: int
    orientation: int


def _jpeg_header(data: bytes) -> _JpegHeader:
    """What the frame header and EXIF declare, without decoding anything."""
    at, orientation = 2, 1
    while at + 9 < len(data):
        if data[at] != 0xFF:
            raise BrokenImage("is a damaged JPEG")
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # padding, and markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _SIZE_MARKERS:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return _JpegHeader(width, height, data[at + 9], orientation)
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 10 : at + 2 + length])
        at += 2 + length
    raise BrokenImage("is a JPEG without a frame")


def _exif_orientation(tiff: bytes) -> int:
    """Tag 274 of the first directory, 1 where it is absent or senseless."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[start : start + 2], order)):
        field = tiff[start + 2 + 12 * entry : start + 14 + 12 * entry]
        if int.from_bytes(field[:2], order) == 274:
            value = int.from_bytes(field[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1
