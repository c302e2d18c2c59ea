"""The protocol for image datasets, and a base class for datasets of encoded images.

Datasets are pickled and sent to the data workers, so they should be small: file names
are packed (`PackedStrings`), and pixels stay on disk. The implementations are in
`siam/data/sources/`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage, decode, size_of
from siam.data.left_out import LeftOut, first_few
from siam.data.packed import PackedStrings
from siam.data.unreadable import Unreadable, read_or_replace
from siam.errors import DataError

_SAMPLE = 1000  # images whose paths are looked at

UNLABELED = -1
"""Label of an image without a class, in a dataset in which others have one."""


class Images(Protocol):
    """A dataset of images in a fixed order."""

    name: str
    """The dataset's name or path, as given by the user."""
    labels: NDArray[np.int64] | None
    """Class index of each image (N,), UNLABELED for those without; None if no image is labeled."""
    classes: tuple[str, ...]
    """Class names; () if there are no labels."""

    def __len__(self) -> int: ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Start index of each group, followed by N; None if images are not grouped.

        A group is a remote shard or a Parquet row group, which must be read as a whole.
        An epoch therefore visits only a few groups at a time.
        """

    @property
    def size_hint(self) -> tuple[int, int]:
        """Height and width of the first readable image, in pixels.

        Recipes assume that the other images have similar sizes. Only the image's header
        is read, and only once. Raises DataError if no image can be read.
        """

    def path(self, i: int) -> str:
        """Return image i's name within the dataset."""

    def encoded(self, i: int) -> bytes | None:
        """Return image i's encoded bytes; None if the dataset stores decoded pixels.

        Raises BrokenImage.
        """

    def read(self, i: int) -> Tensor:
        """Return image i as uint8 (3, H, W). Raises BrokenImage."""

    def stacked(self) -> Tensor | None:
        """Return all images as uint8 (N, 3, H, W) if stored as an array, else None."""

    def signature(self) -> bytes:
        """Return bytes that change if the images change, such as the sizes of their files.

        Must be cheap, because it is called at the start of every run.
        """


def class_of(images: Images, i: int) -> str | None:
    """Return the class of image i; None if it has no label."""
    if images.labels is None or images.labels[i] == UNLABELED:
        return None
    return images.classes[images.labels[i]]


def is_labeled(images: Images) -> bool:
    """Return True if any image has a label."""
    return images.labels is not None and bool((images.labels != UNLABELED).any())


class Encoded:
    """Base class for datasets of encoded images; implements all of `Images` except `encoded`.

    A subclass sets name, names, labels and classes, and defines `encoded`.
    """

    name: str
    names: PackedStrings
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def size_hint(self) -> tuple[int, int]:
        try:
            return read_or_replace(self, 0, Unreadable(), lambda i: size_of(self.encoded(i)))[0]
        except BrokenImage as error:
            raise DataError(f"the images in {self.name} cannot be read: {error.reason}") from None

    def path(self, i: int) -> str:
        return self.names[i]

    def encoded(self, i: int) -> bytes:
        """Return image i's encoded bytes. Raises BrokenImage."""
        raise NotImplementedError

    def read(self, i: int) -> Tensor:
        return decode(self.encoded(i))

    def stacked(self) -> Tensor | None:
        return None

    def signature(self) -> bytes:
        """Return no bytes: only names are compared. Sources that know their sizes override this."""
        return b""


@dataclass(frozen=True)
class ImageSets:
    """A source's training and validation images, and an account of what was left out."""

    train: Images
    val: Images | None
    unreadable_files: dict[str, str] = field(default_factory=dict)
    """Tar and Parquet files that are wholly or partly unreadable: path -> reason."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Files and images that are not used, and why."""
    folders: tuple[str, str] = ("", "")
    """Folders of the training and validation images, such as "train/"; "" if not split by folder.

    If `val` is None and the second folder is not "", there are validation images but no
    training images, and `train` holds all images.
    """

    def to_train_on(self) -> Images:
        """Return the training images. Raises DataError if there are only validation images."""
        if self.val is None and self.folders[1]:
            raise DataError(
                f"{self.train.name} has {self.folders[1]} but no train/: put the training images into "
                "train/, or pass the folder that holds them"
            )
        return self.train

    def describe(self) -> str:
        """Return what was taken for what: "24 images in train/, 12 for validation in val/, 2 classes"."""
        train, val = self.train, self.val
        words = [_described(train, "images" if len(train) != 1 else "image", self.folders[0])]
        if val is not None:
            words.append(_described(val, "for validation", self.folders[1]))
            if val.labels is None and train.labels is not None:
                words[-1] += " without labels"
        if train.labels is not None:
            words.append(
                f"{len(train.classes)} classes" + _places_of_classes(train) + _without_images(train, val)
            )
        return ", ".join(words)

    def lines(self) -> list[str]:
        """Return a line on what was taken and left out, and one for each unreadable file."""
        left_out = f"; left out: {self.left_out}" if self.left_out else ""
        unreadable = [f"{file}: {reason}" for file, reason in self.unreadable_files.items()]
        return [f"{self.train.name}: {self.describe()}{left_out}", *unreadable]


def _described(images: Images, noun: str, folder: str) -> str:
    """Return the number of images, their folder, and the number of those without a label."""
    words = f"{len(images):,} {noun}" + (f" in {folder}" if folder else "")
    if images.labels is None:
        return words
    unlabeled = np.flatnonzero(images.labels == UNLABELED)
    if not len(unlabeled):
        return words
    return f"{words} ({len(unlabeled):,} without a label: {first_few(map(images.path, unlabeled.tolist()))})"


def _places_of_classes(images: Images) -> str:
    """Return text that names the folders that hold class folders, if there are several, from a sample."""
    found = set()
    for i in np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(np.int64)):
        folders = images.path(int(i)).split("/")[:-1]
        kind = class_of(images, int(i))
        if kind in folders:
            found.add("".join(f"{folder}/" for folder in folders[: folders.index(kind)]))
    return f" (in each of {first_few(sorted(found))})" if len(found) > 1 else ""


def _without_images(train: Images, val: Images | None) -> str:
    """Return text that names the classes without validation images, if there are others."""
    if val is None or val.labels is None:
        return ""
    present = set(np.unique(val.labels).tolist())
    absent = [c for i, c in enumerate(train.classes) if i not in present]
    return f" (no validation images for {first_few(absent)})" if absent else ""
