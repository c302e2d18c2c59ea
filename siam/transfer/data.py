"""Load detection datasets in VOC or COCO format, and iterate over training batches.

As in pretraining, augmentation depends only on (seed, epoch, index), so results do not
depend on the number of workers, and a resumed run is identical to an uninterrupted one.
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
from siam.transfer.annotations import AnnotatedImages, DetectionDataset, Example, clip_box
from siam.transfer.coco import coco_files, open_coco
from siam.transfer.masks import decode_mask
from siam.transfer.values import listed
from siam.transfer.voc import open_voc, voc_years

MAX_UNREADABLE = 0.1

Target = dict[str, Tensor]
"""Target: boxes float (n, 4), labels int64 (n,), optional masks uint8 (n, H, W)."""

Examples = list[tuple[Tensor, Target]]
"""A batch of (image, target) pairs; images are uint8 (3, H, W) and vary in size."""


def open_annotated(data: str | Path, masks: bool) -> DetectionDataset:
    """Load a detection dataset in VOC or COCO format.

    masks: require segmentation masks as well as boxes. Raises DataError if the dataset
    is in neither format, if masks are required but missing, or if the training or test
    set has no annotated objects.
    """
    name, root = str(data), Path(data)
    listed.cache_clear()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{name} {problem}: transfer needs an unpacked dataset folder in VOC or COCO format")
    years, files = voc_years(root), coco_files(root)
    if files is not None:
        found = open_coco(name, files, masks)
    elif years:
        found = open_voc(name, years)
    else:
        raise DataError(
            f"{name} is in neither VOC nor COCO format: expected ImageSets/Main (VOC), or "
            "annotations/instances_train*.json and instances_val*.json, or train/_annotations.coco.json and "
            "valid/_annotations.coco.json (COCO)"
        )
    if masks and not found.masks:
        raise DataError(
            f"{name} has no masks (VOC data is read for boxes only): use --task detection or COCO data"
        )
    for images, purpose in ((found.train, "training"), (found.test, "test")):
        if not any(images[i].instances for i in range(len(images))):
            why = "; skipped: " + "; ".join(found.skipped.lines()) if found.skipped else ""
            raise DataError(f"{name} has no {purpose} images with valid annotations{why}")
    return found


class Batches:
    """One rank's training batches; iterate over `batches(first, last)`.

    batch_size: images per step across all ranks. world: number of ranks. Unreadable
    images are replaced by others and recorded in `unreadable`.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        batch_size: int,
        seed: int,
        masks: bool,
        workers: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.images, self.workers, self.unreadable = images, workers, Unreadable()
        self.dataset = _Examples(images, seed, masks)
        self.order = (batch_size, seed, rank, world)

    def batches(self, first: int, last: int) -> Iterator[Examples]:
        """Yield this rank's batches for steps `first` to `last` - 1.

        Raises DataError if more than 10 % of the images are unreadable.
        """

        def keys(n: int) -> _Order:
            return _Order(len(self.images), *self.order, first + n, last)

        for examples, unreadable, reason in batches_of(self.dataset, keys, self.workers):
            self.unreadable.update(unreadable)
            if len(self.unreadable) > MAX_UNREADABLE * len(self.images):
                raise DataError(
                    f"{len(self.unreadable)} of {len(self.images)} images in {self.images.name} cannot be "
                    f"read, more than 10 %: {self.unreadable.first_few()}; remove or replace them"
                )
            if reason:
                raise DataError(f"the images in {self.images.name} cannot be read: {reason}")
            yield examples


_Key = list[tuple[int, int]]
"""The (epoch, index) pairs of the images in a batch."""


class _Order(Sampler[_Key]):
    """Batch sampler that shuffles every epoch; a batch may span two epochs."""

    def __init__(
        self, size: int, batch: int, seed: int, rank: int, world: int, first: int, last: int
    ) -> None:
        self.size, self.batch, self.seed, self.rank, self.world = size, batch, seed, rank, world
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[_Key]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.first, self.last):
            key = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = permutation(self.seed, epoch, self.size)
                key.append((epoch, int(order[position % self.size])))
            yield key[self.rank :: self.world]


class _Examples(Dataset[Any]):
    """Dataset that loads one batch per key, as (batch, unreadable images, error).

    error: reason that the batch could not be read, or "".
    """

    def __init__(self, images: AnnotatedImages, seed: int, masks: bool) -> None:
        self.images, self.seed, self.masks = images, seed, masks

    def __getitem__(self, key: _Key) -> tuple[Examples, Unreadable, str]:
        unreadable, examples = Unreadable(), []
        for epoch, index in key:
            try:
                image, used = read_or_replace(self.images, index, unreadable, self.images.read)
            except BrokenImage as error:  # returned, not raised: a worker would add its traceback
                return [], unreadable, error.reason
            flip = counter_uniform(self.seed, epoch, np.array([used]), GEOMETRY, 1)[0, 0] < 0.5
            examples.append(with_target(image, self.images[used], bool(flip), self.masks))
        return examples, unreadable, ""


def with_target(image: Tensor, example: Example, flip: bool, masks: bool) -> tuple[Tensor, Target]:
    """Return the image and its training target, without crowds.

    image: uint8 (3, H, W). flip: mirror both horizontally. masks: include masks in the
    target.
    """
    instances = [one for one in example.instances if not one.iscrowd]
    width, height = example.width, example.height
    boxes = [clip_box(one.box, width, height) for one in instances]
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([one.label for one in instances], dtype=torch.int64),
    }
    if masks:
        stacked: NDArray[np.uint8] = np.stack(
            [decode_mask(one.segmentation, width, height) for one in instances]
        )
        target["masks"] = torch.from_numpy(stacked)  # (n, H, W)
    if flip:
        image = image.flip(2)
        left, top, right, bottom = target["boxes"].unbind(1)
        target["boxes"] = torch.stack([width - right, top, width - left, bottom], dim=1)
        if masks:
            target["masks"] = target["masks"].flip(2)
    return image, target


class TestImages(Dataset[Any]):
    """Dataset that returns (index into `images`, image, error) for each of `indices`.

    image: uint8 (3, H, W), or None if unreadable. error: reason it is unreadable, or
    "".
    """

    def __init__(self, images: AnnotatedImages, indices: list[int]) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> tuple[int, Tensor | None, str]:
        index = self.indices[at]
        try:
            return index, self.images.read(index), ""
        except BrokenImage as error:
            return index, None, error.reason
