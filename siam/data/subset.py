"""A part of a set of images, and how labelled sets are divided: the same way every time."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage, Shrink
from siam.data.images import Images
from siam.data.random import permutation
from siam.errors import DataError


class Subset:
    """Some images of a set, by index, in the order given."""

    def __init__(self, images: Images, indices: NDArray[np.int64]) -> None:
        self.images, self.indices = images, indices
        self.name, self.classes = images.name, images.classes
        self.labels = None if images.labels is None else images.labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, i: int) -> str:
        return self.images.path(int(self.indices[i]))

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        try:
            return self.images.read(int(self.indices[i]), shrink)
        except BrokenImage as error:
            raise BrokenImage(error.reason) from None  # `until` counts in the whole set


def hold_out(images: Images, share: float, seed: int = 0) -> tuple[Subset, Subset]:
    """What is left, and a random share of the set, at least one image; of every class alike where there are
    labels, though none loses its last image.
    """
    order = permutation(seed, 0, len(images))
    labels = np.zeros(len(images), dtype=np.int64) if images.labels is None else images.labels
    held = np.zeros(len(images), dtype=bool)
    for kind in np.unique(labels):
        members = order[labels[order] == kind]
        held[members[: min(round(share * len(members)), len(members) - 1)]] = True
    if not held.any():
        held[order[0]] = True
    everything = np.arange(len(images))
    return Subset(images, everything[~held]), Subset(images, everything[held])


def labeled_subset(images: Images, share: float, seed: int = 0) -> Subset:
    """The same share of every class, at least one image of each, as in semi-supervised evaluation.

    A smaller share of the same seed is contained in a larger one. Raises DataError for images without labels.
    """
    if images.labels is None:
        raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    if not 0 < share <= 1:
        raise DataError(f"a share of the labels must lie in (0, 1], got {share:g}")
    order = permutation(seed, 1, len(images))
    chosen = []
    for kind in range(len(images.classes)):
        members = order[images.labels[order] == kind]
        chosen.append(members[: max(1, round(share * len(members)))])
    return Subset(images, np.sort(np.concatenate(chosen)))
