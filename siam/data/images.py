"""Sets of images: the protocol that every source implements, and the base of sources of encoded files.

An image set is pickled to the data workers, so it is small: names are packed (`PackedStrings`), and pixels
stay on disk. The sources themselves are in `siam/data/sources/`, one file each.
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
    """A set of images, in a fixed order."""

    name: str
    """The name that the user gave."""
    labels: NDArray[np.int64] | None
    """The class of each image (N,), if class folders, label arrays or label columns give one."""
    classes: tuple[str, ...]
    """Names of the classes; empty without labels."""

    def __len__(self) -> int: ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Index of the first image of each file, and N, if files are read whole (remote shards, row groups).

        An epoch then visits few of the files at a time. None if images are read one by one.
        """

    @property
    def size_hint(self) -> tuple[int, int]:
        """Height and width in pixels of the first readable image; recipes assume that others are similar.

        Read once, from one file's header. Raises DataError if no image can be read.
        """

    def path(self, i: int) -> str:
        """Return the name of image i within the set."""

    def encoded(self, i: int) -> bytes | None:
        """Return the bytes of image i's file; None from a set that holds pixels. Raises BrokenImage."""

    def read(self, i: int) -> Tensor:
        """Return image i, uint8 (3, H, W). Raises BrokenImage."""

    def stacked(self) -> Tensor | None:
        """Return all images, uint8 (N, 3, H, W), if they are in memory; None from a set of files."""


class Encoded:
    """The part of `Images` that sources of encoded files share.

    A source sets name, names, labels and classes, and defines `encoded`.
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
            raise DataError(f"the images of {self.name} cannot be read: {error.reason}") from None

    def path(self, i: int) -> str:
        return self.names[i]

    def encoded(self, i: int) -> bytes:
        """Return the bytes of image i's file. Raises BrokenImage."""
        raise NotImplementedError

    def read(self, i: int) -> Tensor:
        return decode(self.encoded(i))

    def stacked(self) -> Tensor | None:
        return None


@dataclass(frozen=True)
class ImageSets:
    """The training and validation images of a source."""

    train: Images
    val: Images | None
    unreadable_files: dict[str, str] = field(default_factory=dict)
    """Files (tars, shards, Parquet files) that are unreadable in whole or in part, and why."""
    ignored: str = ""
    """A sentence about images that are in neither set; "" if there are none."""
