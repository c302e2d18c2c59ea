"""Decode image files of any supported format to upright 8-bit RGB."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from siam.data.bands import bands
from siam.data.deep import deep_color, deep_gray, is_deep_color
from siam.data.metadata import JPEG, exif_orientation, jpeg_orientation, tag_bytes, without_metadata
from siam.errors import first_line
from siam.system.files import regular

T = TypeVar("T")

MAX_BYTES = 2**29
"""Limit for an image file: 512 MiB. It is the same for every format, like the next one."""
MAX_PIXELS = 2**28 // 3
"""Limit for width x height, 89,478,485 (256 MiB of RGB), checked before memory is allocated."""
_MAX_MEMORY = 7 * MAX_PIXELS
"""Limit for the memory that decoding takes beyond the file, 626 MB: 4 bytes per pixel in Pillow, 3 as RGB."""
_BYTES_PER_PIXEL = {"WEBP": 16, "JPEG2000": 19, "AVIF": 12}
"""What decoders that work on whole images take, as measured; 7 for the other formats."""
_DEEP_COLOR = 11  # 16 bits per channel: Pillow reads high and low bytes

_FORMATS = (
    "JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000"
)  # fmt: skip
"""Formats that Pillow may open, regardless of the file extension.

Some others are unsafe: decoding an EPS file runs Ghostscript.
"""
_MAX_SLOW_PIXELS = 2**20
"""Limit for files that Pillow decodes pixel by pixel in Python, such as plain-text PPM."""
_MAX_METADATA = 2**20
"""Largest file whose metadata Pillow may parse: its loops over segments and bytes are slow."""
_BLOCK = 2**24
"""Largest block that Pillow reads, in bytes."""

_FAST_COLORS = ("Gray", "YCbCr", "RGB")
"""JPEG color spaces that the fast decoder supports; Pillow reads the others."""


class BrokenImage(Exception):
    """An image cannot be read; `reason` says why in a few words.

    until: if a whole shard or row group is unreadable, index of the next image.
    """

    def __init__(self, reason: str, until: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.until = reason, until


def read_file(path: Path) -> bytes:
    """Read an encoded image. Raises BrokenImage if it cannot be read, or is larger than MAX_BYTES."""
    try:
        size = regular(path).stat().st_size
        if size > MAX_BYTES:
            raise BrokenImage(f"has {size:,} bytes, more than {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(error.strerror or "cannot be opened") from None


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
    except (ValueError, MemoryError):  # corrupt or merely unusual: Pillow is more tolerant and clearer
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
        size = _with_pillow(data, lambda image: (image.height, image.width))
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
    if not data.startswith(JPEG):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if height * width > MAX_PIXELS:
        raise _too_large(width, height)
    return _JpegHeader(height, width, jpeg_orientation(data)) if colors in _FAST_COLORS else None


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Rotate and flip pixels (H, W, 3) according to an EXIF orientation (1 to 8)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _too_large(width: int, height: int, limit: int = MAX_PIXELS) -> BrokenImage:
    return BrokenImage(f"has too many pixels: {width} x {height}, more than {limit:,}")


def _decode_any(data: bytes) -> Tensor:
    def read(image: Image.Image) -> tuple[NDArray[np.uint8], int]:
        pixels = _to_rgb(image)
        if image.format == "TIFF":  # Pillow has turned it
            return pixels, 1
        if data.startswith(JPEG):  # metadata may have been removed so that Pillow reads it
            return pixels, jpeg_orientation(data)
        return pixels, exif_orientation(image.info.get("exif", b""))

    pixels, orientation = _with_pillow(data, read)
    return torch.from_numpy(_upright(pixels, orientation)).permute(2, 0, 1)  # Pillow's copy is gone


def to_pixels(image: Image.Image) -> Tensor:
    """Convert a PIL image of any mode to upright uint8 RGB (3, H, W)."""
    return torch.from_numpy(_to_rgb(ImageOps.exif_transpose(image))).permute(2, 0, 1)


def _with_pillow(data: bytes, read: Callable[[Image.Image], T]) -> T:
    """Open an image with Pillow and return `read(image)`, if necessary without the file's metadata.

    Raises BrokenImage.
    """
    problem = None
    if len(data) <= _MAX_METADATA:
        try:
            with _opened(data) as image:
                return read(image)
        except BrokenImage as error:
            problem = error
    bare = without_metadata(data)
    if problem is not None and bare == data:
        raise problem
    try:
        with _opened(bare) as image:
            return read(image)
    except BrokenImage as error:
        raise problem or error from None


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image with Pillow; turn any error in the block into BrokenImage."""
    if tag_bytes(data) > 4 * len(data) + _MAX_METADATA:
        raise BrokenImage("is a corrupt TIFF: its tags claim more bytes than it has")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unusual metadata does not make an image unreadable
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _require_small(image)
                # Pillow copies what it has of a row with each block: long rows would take minutes with 64 KiB
                image.decodermaxblock = max(image.decodermaxblock, min(8 * image.width, _BLOCK))
                yield image
    except BrokenImage:
        raise
    except Image.DecompressionBombError:
        raise BrokenImage(f"has too many pixels, more than {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BrokenImage("is a corrupt JPEG" if data.startswith(JPEG) else "is not an image") from None
    except MemoryError:
        raise BrokenImage("needs more memory than is available") from None
    except Exception as error:  # corrupt bytes make Pillow's readers raise errors of any kind
        raise BrokenImage(first_line(error)) from None


def _require_small(image: Image.Image) -> None:
    """Raise BrokenImage if the image's header declares more pixels than can be decoded."""
    pixels = image.width * image.height
    cost = _DEEP_COLOR if is_deep_color(image) else _BYTES_PER_PIXEL.get(image.format or "", 7)
    limit = _MAX_MEMORY // cost
    if pixels > limit:
        raise _too_large(image.width, image.height, limit)
    if pixels > _MAX_SLOW_PIXELS and any(
        tile.codec_name in Image.DECODERS for tile in getattr(image, "tile", ())
    ):
        raise BrokenImage(
            f"is a {image.format} that is slow to decode, {image.width} x {image.height}: save it as PNG"
        )


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert to 8-bit RGB (H, W, 3)."""
    parts = deep_color(image) if is_deep_color(image) else bands(image)  # asked before it is loaded
    image.load()  # may add to image.info, and turn the image
    out = np.empty((image.height, image.width, 3), dtype=np.uint8)
    if image.mode.startswith(("I", "F")):  # 16 bits and more: convert() would clip
        for rows, values in deep_gray(image):
            out[rows] = values[..., None]
        return out
    for rows, band in parts:
        out[rows] = np.asarray(_on_white(band))
    return out


def _on_white(image: Image.Image) -> Image.Image:
    """Convert an image with 8 bits per channel to RGB, compositing transparency onto white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
