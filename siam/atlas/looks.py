"""Read each image once: a thumbnail to show, a small gray picture to compare, and a hash of its bytes."""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from siam.atlas.embedded import Located
from siam.data.decode import BrokenImage, decode, size_of
from siam.data.images import Images
from siam.data.workers import batches_of
from siam.runs.bars import OnProgress, running_total

GRAY = 32
"""Side of the gray thumbnails, in pixels."""
THUMBNAIL = 64
"""Longer side of the thumbnails to show, in pixels."""

_QUALITY = 75
_BATCH = 64  # images per message of a worker


@dataclass(frozen=True)
class Looks:
    """Small pictures of N images."""

    gray: NDArray[np.uint8]
    """The whole image squeezed to a square (N, GRAY, GRAY); zeros if it cannot be read."""
    digests: list[bytes]
    """Hashes of the encoded images, or of the pixels if the set stores pixels; b"" if it cannot be read."""
    thumbnails: list[bytes | None]
    """JPEG files; None if it cannot be read, or no thumbnails were asked for."""


def look_at(images: Located, workers: int, progress: OnProgress, thumbnails: bool = True) -> Looks:
    """Read each image once, in worker processes. JPEGs are decoded at a fraction of their size."""
    gray = np.zeros((len(images), GRAY, GRAY), np.uint8)
    digests: list[bytes] = []
    shown: list[bytes | None] = []
    add = running_total(progress, len(images))
    keys = [range(at, min(at + _BATCH, len(images))) for at in range(0, len(images), _BATCH)]
    for batch in batches_of(_Looks(images, thumbnails), lambda n: keys[n:], workers):
        for one, digest, thumbnail in batch:
            if one is not None:
                gray[len(digests)] = one
            digests.append(digest)
            shown.append(thumbnail)
        add(len(batch))
    return Looks(gray, digests, shown)


def thumbnail_of(images: Images, i: int) -> bytes | None:
    """Return an image's thumbnail as a JPEG file; None if it cannot be read."""
    try:
        return _jpeg(_read_small(images, i)[0])
    except BrokenImage:
        return None


_Look = tuple[NDArray[np.uint8] | None, bytes, bytes | None]


class _Looks(Dataset[Any]):
    def __init__(self, images: Located, thumbnails: bool) -> None:
        self.images, self.thumbnails = images, thumbnails

    def __getitem__(self, rows: range) -> list[_Look]:
        return [self._look(self.images[row]) for row in rows]

    def _look(self, place: tuple[Images, int] | None) -> _Look:
        if place is None:
            return None, b"", None
        try:
            picture, data = _read_small(*place)
        except BrokenImage:
            return None, b"", None
        digest = hashlib.blake2b(data, digest_size=16).digest()
        gray = picture.convert("L").resize((GRAY, GRAY), Image.Resampling.BOX)
        return np.asarray(gray), digest, _jpeg(picture) if self.thumbnails else None


def _read_small(images: Images, i: int) -> tuple[Image.Image, bytes]:
    """Return an image, at least twice as large as its thumbnail if it is, and the bytes that identify it."""
    data = images.encoded(i)
    if data is None:
        pixels = images.read(i)
        data = str(tuple(pixels.shape)).encode() + pixels.contiguous().numpy().tobytes()
    else:
        pixels = decode(data, max(1, min(size_of(data)) // (2 * THUMBNAIL)))
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), data


def _jpeg(picture: Image.Image) -> bytes:
    scale = min(1.0, THUMBNAIL / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    file = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BOX).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
