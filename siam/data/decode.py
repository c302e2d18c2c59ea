"""Decode image files of any supported format to upright 8-bit RGB."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
"""Pillow's decompression-bomb limit; larger images are rejected before allocation."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
"""Formats that Pillow may open, regardless of the file extension.

Some others are unsafe: decoding an EPS file runs Ghostscript.
"""

_JPEG = b"\xff\xd8"
_FAST_COLORS = ("Gray", "YCbCr", "RGB")
"""JPEG color spaces that the fast decoder supports; Pillow reads the others."""


class BrokenImage(Exception):
    """An image cannot be read; `reason` says why in a few words.

    until: if a whole shard or row group is unreadable, index of the next image.
    """

    def __init__(self, reason: str, until: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.until = reason, until


def decode(data: bytes, downscale: int = 1, smooth_chroma: bool = True) -> Tensor:
    """Decode an image file to uint8 RGB (3, H, W).

    Applies the EXIF orientation and composites transparent images onto white.
    downscale: maximum factor by which to shrink the image. If it is at
    least 2, JPEGs are decoded at 1/2, 1/4 or 1/8 scale with a smaller inverse DCT, in a
    fraction of the time. smooth_chroma: interpolate the subsampled chroma of JPEGs;
    disabling this makes decoding a fifth faster, with no visible difference in
    augmented views. The result is in channels-last layout (a view of an H x W x C
    array), the fastest to resize. Raises BrokenImage.
    """
    if not data:
        raise BrokenImage("the file is empty")
    header = _jpeg_header(data)
    if header is None:
        return _decode_any(data)
    min_size = (0, 0)  # minimum height and width of the result; 0: full size
    if downscale >= 2:
        factor = max(factor for factor in (2, 4, 8) if factor <= downscale)
        min_size = -(-header.height // factor), -(-header.width // factor)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", fastupsample=not smooth_chroma, min_height=min_size[0], min_width=min_size[1]
        )
    except ValueError:  # corrupt or merely unusual: Pillow is more tolerant, and its errors are clearer
        return _decode_any(data)
    return torch.from_numpy(_upright(pixels, header.orientation)).permute(2, 0, 1)


def scalable_size(data: bytes) -> tuple[int, int] | None:
    """Read a JPEG's height and width from its header, after EXIF rotation.

    Returns None for files that `decode` cannot downscale. Raises BrokenImage if the
    header declares too many pixels.
    """
    header = _jpeg_header(data)
    return None if header is None else header.upright


def size_of(data: bytes) -> tuple[int, int]:
    """Read an image's height and width from its header, after EXIF rotation for JPEGs.

    Raises BrokenImage.
    """
    if not data:
        raise BrokenImage("the file is empty")
    size = scalable_size(data)
    if size is None:
        with _opened(data) as image:
            size = image.height, image.width
    return size


@dataclass(frozen=True)
class _JpegHeader:
    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        return (self.height, self.width) if self.orientation < 5 else (self.width, self.height)


def _jpeg_header(data: bytes) -> _JpegHeader | None:
    """Parse the header of a JPEG that the fast decoder supports; return None for any other file."""
    if not data.startswith(_JPEG):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if height * width > MAX_PIXELS:
        raise BrokenImage(f"has too many pixels: {width} x {height}")
    return _JpegHeader(height, width, _orientation(data)) if colors in _FAST_COLORS else None


def _orientation(data: bytes) -> int:
    """Return a JPEG's EXIF orientation, or 1 if it has none.

    Reads only the segments before the start of scan.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:  # start of scan: image data follows
            break
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # padding, or a marker without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _exif_orientation(data[at + 10 : at + 2 + length])
        at += 2 + length
    return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Rotate and flip pixels (H, W, 3) according to an EXIF orientation (1 to 8)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _decode_any(data: bytes) -> Tensor:
    with _opened(data) as image:
        pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image with Pillow; turn any error in the block into BrokenImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unusual metadata does not make an image unreadable
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage("has too many pixels") from None
    except UnidentifiedImageError:
        raise BrokenImage("is a corrupt JPEG" if data.startswith(_JPEG) else "is not an image") from None
    except Exception as error:  # corrupt bytes make Pillow's readers raise errors of any kind
        raise BrokenImage(first_line(error)) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits and more: convert() would clip
        return Image.fromarray(_to_8_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Convert 16-bit, 32-bit or float pixels of a Pillow `mode` to 8 bits.

    16-bit values are divided by 257. Floats are multiplied by 255 if none exceeds 1,
    and left unchanged if none exceeds 255. Images with negative values or values above
    65535 are rescaled to [0, 255]. NaN and infinities become 0.
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


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation (TIFF 6.0, tag 274) stored in the first IFD of EXIF data.

    Returns 1 if the tag is missing or out of range.
    """
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[start : start + 2], order)):
        field = tiff[start + 2 + 12 * entry : start + 14 + 12 * entry]
        if int.from_bytes(field[:2], order) == 274:
            value = int.from_bytes(field[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1
