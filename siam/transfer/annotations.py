"""Images with annotated objects (boxes and optional masks), independent of their layout on disk."""

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
"""left, top, right, bottom in pixels from the image's upper left corner; right and bottom are exclusive."""


@dataclass(frozen=True)
class Instance:
    """One object in an image."""

    id: int
    box: Box
    label: int
    """1 ... K; 0 is the background."""
    area: float
    """Area in pixels, of the mask if there is one."""
    iscrowd: bool = False
    """One annotation for many objects (COCO): neither trained on nor counted in the test."""
    difficult: bool = False
    """Hard to recognize (VOC): trained on, but not counted in the test."""
    segmentation: Any = None
    """As in COCO: polygons [[x, y, x, y, ...], ...] or RLE {counts, size}."""


@dataclass(frozen=True)
class Example:
    """One image and the objects in it."""

    id: int
    file: Path
    width: int
    height: int
    instances: tuple[Instance, ...]


class Skipped(dict[str, tuple[int, str]]):
    """Unusable annotations: reason -> (number, location of the first one)."""

    def note(self, reason: str, where: str) -> None:
        """Count one more annotation that was skipped for this reason."""
        count, first = self.get(reason, (0, where))
        self[reason] = count + 1, first

    def lines(self) -> list[str]:
        """Return '12 x a box outside its image, the first in 000012.xml' for each reason."""
        return [f"{count} x {reason}, the first in {first}" for reason, (count, first) in self.items()]


class AnnotatedImages:
    """A sequence of examples; `read` and `path` as in `siam.data.images.Images`.

    Held as one block of JSON: millions of small objects would be slow to send to the data workers.
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
        """Return image i, uint8 (3, H, W), at full size. Raises BrokenImage, also for an unexpected size."""
        example = self[i]
        try:
            image = decode(example.file.read_bytes())
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be opened") from None
        height, width = image.shape[1:]
        if (width, height) != (example.width, example.height):
            annotated = f"{example.width} x {example.height}"
            raise BrokenImage(f"is {width} x {height}, but {annotated} in its annotation")
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
    """A dataset for detection, from either layout."""

    name: str
    layout: str
    """voc or coco."""
    years: int
    """Number of VOC years that are merged; 1 for COCO."""
    classes: tuple[str, ...]
    """Names of labels 1 ... K."""
    category_ids: tuple[int, ...]
    """The layout's own ids of labels 1 ... K."""
    train: AnnotatedImages
    """Images with at least one object to learn from."""
    test: AnnotatedImages
    masks: bool
    """True where instances may have a segmentation."""
    skipped: Skipped


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Return the part of a box inside the image; None if that is less than a pixel wide or high."""
    left, top, right, bottom = box
    left, right = max(left, 0.0), min(right, float(width))
    top, bottom = max(top, 0.0), min(bottom, float(height))
    if not (right - left >= 1 and bottom - top >= 1):  # NaN too
        return None
    return left, top, right, bottom
