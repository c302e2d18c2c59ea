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
from siam.data.packed import PackedStrings
from siam.data.unreadable import Unreadable, read_or_replace
from siam.errors import DataError


class Images(Protocol):
    """A dataset of images in a fixed order."""

    name: str
    """The dataset's name or path, as given by the user."""
    labels: NDArray[np.int64] | None
    """Class index of each image (N,); None if unlabeled."""
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


@dataclass(frozen=True)
class ImageSets:
    """A source's training and validation images."""

    train: Images
    val: Images | None
    unreadable_files: dict[str, str] = field(default_factory=dict)
    """Tar and Parquet files that are wholly or partly unreadable: path -> reason."""
    ignored: str = ""
    """Message about images outside the training and validation folders, or ""."""
