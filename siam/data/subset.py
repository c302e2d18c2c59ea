"""Subsets of image datasets, and reproducible stratified splits."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage
from siam.data.images import UNLABELED, Images
from siam.data.random import permutation
from siam.errors import DataError


class Subset:
    """The images of a dataset at `indices` (n,), which must be ascending."""

    def __init__(self, images: Images, indices: NDArray[np.int64]) -> None:
        self.images, self.indices = images, indices
        self.name, self.classes = images.name, images.classes
        self.labels = None if images.labels is None else images.labels[indices]
        self.groups = None if images.groups is None else np.unique(np.searchsorted(indices, images.groups))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def size_hint(self) -> tuple[int, int]:
        return self.images.size_hint

    def path(self, i: int) -> str:
        return self.images.path(int(self.indices[i]))

    def encoded(self, i: int) -> bytes | None:
        try:
            return self.images.encoded(int(self.indices[i]))
        except BrokenImage as error:
            raise self._reindexed(error) from None

    def read(self, i: int) -> Tensor:
        try:
            return self.images.read(int(self.indices[i]))
        except BrokenImage as error:
            raise self._reindexed(error) from None

    def stacked(self) -> Tensor | None:
        pixels = self.images.stacked()
        return None if pixels is None else pixels[torch.from_numpy(self.indices)]

    def signature(self) -> bytes:
        return self.indices.tobytes() + self.images.signature()

    def _reindexed(self, error: BrokenImage) -> BrokenImage:
        """Convert `until` from an index into the whole dataset to an index into this subset."""
        until = None if error.until is None else int(np.searchsorted(self.indices, error.until))
        return BrokenImage(error.reason, until)


def spaced(images: Images, count: int) -> Images:
    """Return at most `count` of the images, evenly spaced."""
    if len(images) <= count:
        return images
    return Subset(images, np.linspace(0, len(images) - 1, count).astype(np.int64))


def labeled(images: Images) -> Images:
    """Return the images that have a label. Raises DataError if there are none."""
    if images.labels is None:
        raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    chosen = np.flatnonzero(images.labels != UNLABELED)
    return images if len(chosen) == len(images) else Subset(images, chosen)


def hold_out(images: Images, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Hold out a random fraction of images, stratified by class if they are labeled.

    Returns (remaining images, held-out images). At least one image is held out, and at
    least one image of each class remains. Raises DataError if no class has two images.
    """
    order = permutation(seed, 0, len(images))
    labels = np.zeros(len(images), dtype=np.int64) if images.labels is None else images.labels
    held = np.zeros(len(images), dtype=bool)
    for kind in np.unique(labels):
        members = order[labels[order] == kind]
        held[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    if not held.any():  # the fraction of each class is less than an image
        several = np.bincount(labels)[labels[order]] > 1
        if not several.any():
            raise DataError(
                f"{images.name} has only one image of each class, so none can be held out for validation: "
                "add validation images"
            )
        held[order[several][0]] = True
    everything = np.arange(len(images))
    return Subset(images, everything[~held]), Subset(images, everything[held])


def labeled_subset(images: Images, fraction: float, seed: int = 0) -> Subset:
    """Draw the same fraction of images from every class, for semi-supervised evaluation.

    Each class with images has at least one in the subset. With the same seed, a smaller
    fraction yields a subset of the images for a larger one. Raises DataError if there
    are no labels or the fraction is outside (0, 1].
    """
    if images.labels is None:
        raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    if not 0 < fraction <= 1:
        raise DataError(f"the fraction of labels must be in (0, 1], got {fraction:g}")
    order = permutation(seed, 1, len(images))
    chosen = []
    for kind in range(len(images.classes)):
        members = order[images.labels[order] == kind]
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return Subset(images, np.sort(np.concatenate(chosen)))
