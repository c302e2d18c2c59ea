"""Data structures for annotated images, shared by the VOC and COCO readers."""

import hashlib
import json
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import MAX_PIXELS, BrokenImage, decode, read_file, size_of
from siam.data.fingerprint import Fingerprint, fingerprint_of, size_of_file
from siam.transfer.values import whole

Box = tuple[float, float, float, float]
"""Box as (left, top, right, bottom) in pixels; right and bottom are exclusive."""


@dataclass(frozen=True)
class Instance:
    """An annotated object in an image."""

    id: int
    box: Box
    label: int
    """Class label from 1 to K; 0 is the background."""
    area: float
    """Mask area in pixels, or the box area if there is no mask."""
    iscrowd: bool = False
    """COCO crowd region; excluded from training and ignored in evaluation."""
    difficult: bool = False
    """VOC object marked difficult; used in training but ignored in evaluation."""
    segmentation: Any = None
    """COCO segmentation: polygons [[x, y, x, y, ...], ...] or RLE {counts, size}."""


@dataclass(frozen=True)
class Example:
    """An image and its annotated objects."""

    id: int
    file: Path
    width: int
    height: int
    instances: tuple[Instance, ...]


class Skipped(dict[str, tuple[int, str]]):
    """Counts of skipped annotations and images: reason -> (count, first location)."""

    def note(self, reason: str, where: str) -> None:
        """Record that the annotation or image at `where` was skipped for `reason`."""
        count, first = self.get(reason, (0, where))
        self[reason] = count + 1, first

    def lines(self) -> list[str]:
        """Format one line per reason, with its count and first location."""
        return [f"{count} x {reason} (first: {first})" for reason, (count, first) in self.items()]


class AnnotatedImages:
    """Annotated images, with the same interface as `siam.data.images.Images`.

    Examples are stored in one JSON buffer, because sending millions of small objects to
    the data-loading workers would be slow.
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
        file: str = json.loads(self.block[self.offsets[i] : self.offsets[i + 1]])["file"]
        return file

    def signature(self) -> bytes:
        """Return the sizes of all files, and a digest of their annotations."""
        sizes, annotations = array("q"), hashlib.sha256()
        for i in range(len(self)):
            plain = json.loads(self.block[self.offsets[i] : self.offsets[i + 1]])
            sizes.append(size_of_file(plain.pop("file")))
            annotations.update(json.dumps(plain).encode())
        return sizes.tobytes() + annotations.digest()

    def read(self, i: int) -> Tensor:
        """Decode image `i` at full size as uint8 (3, H, W).

        Raises BrokenImage if the image cannot be decoded or its size does not match the
        annotation.
        """
        example = self[i]
        image = decode(read_file(example.file))
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
    """A detection dataset in VOC or COCO format."""

    name: str
    layout: str
    """Dataset format: `voc` or `coco`."""
    years: int
    """Number of VOC years combined; 1 for COCO."""
    classes: tuple[str, ...]
    """Class names, in label order 1 to K."""
    category_ids: tuple[int, ...]
    """COCO category ids, in label order; 1 to K for VOC."""
    train: AnnotatedImages
    """Training images, each with at least one non-crowd object."""
    test: AnnotatedImages
    masks: bool
    """Whether instances may have segmentation masks."""
    skipped: Skipped

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of images and annotations."""
        return fingerprint_of({"training": self.train, "test": self.test})


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Clip `box` to the image; return None if not finite, or less than a pixel wide or high."""
    if not all(map(math.isfinite, box)):
        return None
    left, top, right, bottom = box
    left, right = max(left, 0.0), min(right, float(width))
    top, bottom = max(top, 0.0), min(bottom, float(height))
    if right - left < 1 or bottom - top < 1:
        return None
    return left, top, right, bottom


def read_size(width: Any, height: Any, file: Path, where: str, skipped: Skipped) -> tuple[int, int] | None:
    """Return the (width, height) that an annotation gives, else the image's own, else None."""
    stated = whole(width) or 0, whole(height) or 0
    if min(stated) >= 1 and stated[0] * stated[1] <= MAX_PIXELS:
        return stated
    try:
        rows, columns = size_of(read_file(file))
    except BrokenImage:
        skipped.note("an annotation without a size, for an image that cannot be read", where)
        return None
    skipped.note("an annotation without a size, which was read from the image", where)
    return columns, rows
