"""Photographs with boxes, perhaps outlines, around the objects in them, whatever layout they came in."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage, decode

Box = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels from the image's upper left corner; right and bottom are outside."""


@dataclass(frozen=True)
class Instance:
    """One object in a photograph."""

    id: int
    box: Box
    label: int
    """1 ... K; 0 is the background."""
    area: float
    """In pixels, of the outline where there is one."""
    crowd: bool = False
    """Many objects in one outline (COCO): not learnt from, and not counted when measuring."""
    difficult: bool = False
    """Hard to see (VOC): learnt from, but not counted when measuring."""
    outline: Any = None
    """COCO's segmentation: polygons [[x, y, x, y, ...], ...] or RLE {counts, size}."""


@dataclass(frozen=True)
class Example:
    """One photograph and what is in it."""

    id: int
    file: Path
    width: int
    height: int
    things: tuple[Instance, ...]


class Skipped(dict[str, tuple[int, str]]):
    """What in the annotations could not be used: for each reason how often, and where first."""

    def note(self, reason: str, where: str) -> None:
        count, first = self.get(reason, (0, where))
        self[reason] = count + 1, first

    def lines(self) -> list[str]:
        """'12 x a box outside its image, the first in 000012.xml'"""
        return [f"{count} x {reason}, the first in {first}" for reason, (count, first) in self.items()]


class AnnotatedImages:
    """A set of annotated photographs, in a fixed order; `read` and `path` as in `siam.data.images.Images`.

    Held as one block of JSON: millions of small objects would be slow to hand to the data workers.
    """

    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, name: str, photos: Iterable[Example]) -> None:
        self.name = name
        blocks = [_dump(photo) for photo in photos]
        self.offsets = np.cumsum([0, *map(len, blocks)])
        self.block = b"".join(blocks)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _load(self.block[self.offsets[i] : self.offsets[i + 1]])

    def path(self, i: int) -> str:
        return str(self[i].file)

    def read(self, i: int) -> Tensor:
        """uint8 (3, H, W), whole. Raises BrokenImage, also where the size is not the annotated one."""
        photo = self[i]
        try:
            image = decode(photo.file.read_bytes())
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be opened") from None
        height, width = image.shape[1:]
        if (width, height) != (photo.width, photo.height):
            raise BrokenImage(f"is {width} x {height}, but {photo.width} x {photo.height} in its annotation")
        return image


def _dump(photo: Example) -> bytes:
    things = [vars(thing) for thing in photo.things]
    return json.dumps({**vars(photo), "file": str(photo.file), "things": things}).encode()


def _load(block: bytes) -> Example:
    plain = json.loads(block)
    things = tuple(Instance(**{**thing, "box": tuple(thing["box"])}) for thing in plain["things"])
    return Example(**{**plain, "file": Path(plain["file"]), "things": things})


@dataclass(frozen=True)
class DetectionDataset:
    """What a source of annotated photographs holds."""

    name: str
    layout: str
    """voc or coco."""
    years: int
    """How many years of VOC lie together; 1 for COCO."""
    classes: tuple[str, ...]
    """Names of labels 1 ... K."""
    category_ids: tuple[int, ...]
    """What the layout calls labels 1 ... K."""
    train: AnnotatedImages
    """Those with an object to learn from."""
    test: AnnotatedImages
    masks: bool
    """Whether objects have outlines."""
    skipped: Skipped


def clipped(box: Box, width: int, height: int) -> Box | None:
    """The part of the box that lies in the image; None where less than a pixel of it does."""
    left, top, right, bottom = box
    left, right = max(left, 0.0), min(right, float(width))
    top, bottom = max(top, 0.0), min(bottom, float(height))
    if not (right - left >= 1 and bottom - top >= 1):  # NaN too
        return None
    return left, top, right, bottom
