"""Images annotated with object boxes and optional masks, regardless of their layout on disk."""

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
"""Left, top, right, bottom in pixels from the image's top-left corner; right and bottom are exclusive."""


@dataclass(frozen=True)
class Instance:
    """One object in an image."""

    id: int
    box: Box
    label: int
    """From 1 to K; 0 is the background."""
    area: float
    """Mask area in pixels, or box area if there is no mask."""
    iscrowd: bool = False
    """True if the annotation covers many objects (COCO); excluded from training and ignored in evaluation."""
    difficult: bool = False
    """True if the object is hard to recognize (VOC); used for training but ignored in evaluation."""
    segmentation: Any = None
    """In COCO format: polygons [[x, y, x, y, ...], ...] or RLE {counts, size}."""


@dataclass(frozen=True)
class Example:
    """One image with its annotated objects."""

    id: int
    file: Path
    width: int
    height: int
    instances: tuple[Instance, ...]


class Skipped(dict[str, tuple[int, str]]):
    """Skipped annotations and images: reason -> (count, location of the first occurrence)."""

    def note(self, reason: str, where: str) -> None:
        """Record that the annotation or image at `where` was skipped for `reason`."""
        count, first = self.get(reason, (0, where))
        self[reason] = count + 1, first

    def lines(self) -> list[str]:
        """Return one line per reason, such as '12 x a box outside its image, the first in 000012.xml'."""
        return [f"{count} x {reason}, the first in {first}" for reason, (count, first) in self.items()]


class AnnotatedImages:
    """A sequence of annotated images, with the interface of `siam.data.images.Images`.

    Stored as one block of JSON, because sending millions of small objects to the data workers would be slow.
    """

    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, name: str, examples: Iterable[Example]) -> None:
        self.name = name
        blocks = [_dump(example) for example in examples]
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
        """Return image i at full size, uint8 (3, H, W).

        Raises BrokenImage if the image cannot be decoded or its size differs from the annotated size.
        """
        example = self[i]
        try:
            image = decode(example.file.read_bytes())
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be opened") from None
        height, width = image.shape[1:]
        if (width, height) != (example.width, example.height):
            annotated = f"{example.width} x {example.height}"
            raise BrokenImage(f"is {width} x {height}, but its annotation says {annotated}")
        return image


def _dump(example: Example) -> bytes:
    instances = [vars(instance) for instance in example.instances]
    return json.dumps({**vars(example), "file": str(example.file), "instances": instances}).encode()


def _load(block: bytes) -> Example:
    plain = json.loads(block)
    instances = tuple(Instance(**{**one, "box": tuple(one["box"])}) for one in plain["instances"])
    return Example(**{**plain, "file": Path(plain["file"]), "instances": instances})


@dataclass(frozen=True)
class DetectionDataset:
    """A detection dataset read from VOC or COCO layout."""

    name: str
    layout: str
    """`voc` or `coco`."""
    years: int
    """Number of VOC years merged; 1 for COCO."""
    classes: tuple[str, ...]
    """Class names, in label order 1 to K."""
    category_ids: tuple[int, ...]
    """Category ids used in the annotation files, in label order 1 to K."""
    train: AnnotatedImages
    """Training images; each has at least one object to learn from."""
    test: AnnotatedImages
    masks: bool
    """True if instances may have segmentations."""
    skipped: Skipped


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Return the part of `box` inside the image, or None if that part is less than a pixel wide or high."""
    left, top, right, bottom = box
    left, right = max(left, 0.0), min(right, float(width))
    top, bottom = max(top, 0.0), min(bottom, float(height))
    if not (right - left >= 1 and bottom - top >= 1):  # NaN too
        return None
    return left, top, right, bottom
