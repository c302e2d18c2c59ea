"""Which layout a folder has, and batches of photographs with their targets, from any step on.

As in pretraining, what happens to a photograph follows from (seed, epoch, index): a run does not depend on
the number of workers, and a resumed run is the uninterrupted one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from siam.data.decode import BrokenImage
from siam.data.random import GEOMETRY, counter_uniform, permutation
from siam.data.unreadable import Unreadable, read_or_replace
from siam.data.workers import batches_of
from siam.errors import DataError
from siam.transfer.annotations import AnnotatedImages, DetectionDataset, Example, clipped
from siam.transfer.coco import coco_files, open_coco
from siam.transfer.outlines import mask_of
from siam.transfer.voc import open_voc, voc_years

MAX_UNREADABLE = 0.1

Target = dict[str, Tensor]
"""boxes float (n, 4): left, top, right, bottom; labels int64 (n,) from 1; perhaps masks uint8 (n, H, W)"""

Examples = list[tuple[Tensor, Target]]
"""images uint8 (3, H, W) of one batch, each of its own size, and what is in them"""


def open_annotated(data: str | Path, masks: bool) -> DetectionDataset:
    """Photographs with boxes (and outlines, if `masks`), in VOC's layout or COCO's, which is told by looking.

    Raises DataError: neither of the two, no outlines where they are needed, nothing usable.
    """
    name, root = str(data), Path(data)
    if not root.is_dir():
        what = "is not a folder: unpack it" if root.exists() else "does not exist"
        raise DataError(f"{name} {what}; transfer needs a folder in the layout of VOC or COCO")
    years, files = voc_years(root), coco_files(root)
    if files is not None:
        found = open_coco(name, files, masks)
    elif years:
        found = open_voc(name, years)
    else:
        raise DataError(
            f"{name} is in neither layout: looked for VOC's ImageSets/Main and COCO's "
            "annotations/instances_train*.json with instances_val*.json"
        )
    if masks and not found.masks:
        raise DataError(
            f"{name} has boxes only, as VOC has: choose --task detection, or data in COCO's layout"
        )
    for photos, purpose in ((found.train, "train"), (found.test, "test")):
        if not any(photos[i].things for i in range(len(photos))):
            why = "; skipped: " + "; ".join(found.skipped.lines()) if found.skipped else ""
            raise DataError(f"{name} has no usable photograph with an object to {purpose} on{why}")
    return found


class Batches:
    """Training batches: iterate over `batches(first)`; this process gets its share of each.

    rank, world: which process of how many. What could not be read is collected in `unreadable`; over 10 % of
    the set raises DataError.
    """

    def __init__(
        self,
        photos: AnnotatedImages,
        batch_size: int,
        seed: int,
        masks: bool,
        workers: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.photos, self.workers, self.unreadable = photos, workers, Unreadable()
        self.dataset = _Examples(photos, seed, masks)
        self.order = (batch_size, seed, rank, world)

    def batches(self, first: int, last: int) -> Iterator[Examples]:
        """Those of steps `first` ... `last` - 1, each made from (seed, epoch, index) alone."""
        order = _Order(len(self.photos), *self.order, first, last)
        for examples, broken, reason in batches_of(self.dataset, order, self.workers):
            self.unreadable.update(broken)
            if len(self.unreadable) > MAX_UNREADABLE * len(self.photos):
                raise DataError(
                    f"{len(self.unreadable)} of {len(self.photos)} photographs in {self.photos.name} cannot "
                    f"be read, more than 10 %: {self.unreadable.first_few()}; put whole ones in their place"
                )
            if reason:
                raise DataError(f"the photographs of {self.photos.name} cannot be read: {reason}")
            yield examples


_Key = list[tuple[int, int]]
"""epoch and index of each photograph in a batch"""


class _Order(Sampler[_Key]):
    """Which photographs make which batch: epoch after epoch, each in an order of its own."""

    def __init__(
        self, size: int, batch: int, seed: int, rank: int, world: int, first: int, last: int
    ) -> None:
        self.size, self.batch, self.seed, self.rank, self.world = size, batch, seed, rank, world
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[_Key]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.first, self.last):
            key = []
            for place in range(step * self.batch, (step + 1) * self.batch):
                if place // self.size != epoch:
                    epoch = place // self.size
                    order = permutation(self.seed, epoch, self.size)
                key.append((epoch, int(order[place % self.size])))
            yield key[self.rank :: self.world]


class _Examples(Dataset[Any]):
    """dataset[key] -> the batch, what could not be read in it, and why there is none. Runs in the workers."""

    def __init__(self, photos: AnnotatedImages, seed: int, masks: bool) -> None:
        self.photos, self.seed, self.masks = photos, seed, masks

    def __getitem__(self, key: _Key) -> tuple[Examples, Unreadable, str]:
        broken, examples = Unreadable(), []
        for epoch, index in key:
            try:
                image, used = read_or_replace(self.photos, index, broken, self.photos.read)
            except BrokenImage as error:  # as a word: an error that a worker raises comes with its traceback
                return [], broken, error.reason
            flip = counter_uniform(self.seed, epoch, np.array([used]), GEOMETRY, 1)[0, 0] < 0.5
            examples.append(example(image, self.photos[used], bool(flip), self.masks))
        return examples, broken, ""


def example(image: Tensor, photo: Example, flip: bool, masks: bool) -> tuple[Tensor, Target]:
    """The image uint8 (3, H, W), perhaps mirrored, and its target. Crowds are left out."""
    things = [thing for thing in photo.things if not thing.crowd]
    boxes = [clipped(thing.box, photo.width, photo.height) for thing in things]
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([thing.label for thing in things], dtype=torch.int64),
    }
    if masks:
        drawn = [mask_of(thing.outline, photo.width, photo.height) for thing in things]
        stacked: NDArray[np.uint8] = np.stack(drawn)
        target["masks"] = torch.from_numpy(stacked)
    if flip:
        image = image.flip(2)
        left, top, right, bottom = target["boxes"].unbind(1)
        target["boxes"] = torch.stack([photo.width - right, top, photo.width - left, bottom], dim=1)
        if masks:
            target["masks"] = target["masks"].flip(2)
    return image, target


class TestImages(Dataset[Any]):
    """dataset[i] -> image uint8 (3, H, W), or None and why it cannot be read; its place in the set."""

    def __init__(self, photos: AnnotatedImages, indices: list[int]) -> None:
        self.photos, self.indices = photos, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> tuple[int, Tensor | None, str]:
        index = self.indices[at]
        try:
            return index, self.photos.read(index), ""
        except BrokenImage as error:
            return index, None, error.reason
