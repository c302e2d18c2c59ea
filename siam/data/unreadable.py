"""Record unreadable images, and replace them with readable ones."""

import itertools
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from siam.data.decode import BrokenImage
from siam.system.names import shown

T = TypeVar("T")

_ATTEMPTS = 100
"""Number of consecutive images to try before giving up."""


class Unreadable(dict[str, str]):
    """Images that could not be read: path -> reason."""

    def first_few(self) -> str:
        """List the first 5 images with their reasons, and count the rest."""
        named = [f"{path} ({reason})" for path, reason in itertools.islice(self.items(), 5)]
        return ", ".join(named) + (f" and {len(self) - 5} more" if len(self) > 5 else "")

    def as_text(self) -> str:
        """Return one line per image: its path, a tab, and the reason."""
        return "".join(f"{shown(path)}\t{shown(reason)}\n" for path, reason in self.items())


class HasPaths(Protocol):
    """A dataset with a path for each item."""

    def __len__(self) -> int: ...

    def path(self, i: int) -> str: ...


class Readable(HasPaths, Protocol):
    """A dataset of images."""

    def read(self, i: int) -> object: ...


def unreadable_among(images: Readable, indices: Iterable[int]) -> Unreadable:
    """Return those of the images at `indices` that cannot be read, with their reasons."""
    found = Unreadable()
    for i in indices:
        try:
            images.read(int(i))
        except BrokenImage as error:
            found[images.path(int(i))] = error.reason
    return found


def read_or_replace(
    images: HasPaths, index: int, unreadable: Unreadable, read: Callable[[int], T]
) -> tuple[T, int]:
    """Return `read(i)` and i for the first readable image i at or after `index`.

    The search wraps around at the end of the dataset. Unreadable images are added to
    `unreadable`. Raises BrokenImage after 100 consecutive unreadable images.
    """
    at, attempts = index, min(_ATTEMPTS, len(images))
    for _ in range(attempts):
        try:
            return read(at), at
        except BrokenImage as error:
            unreadable[images.path(at)] = error.reason
            at = (at + 1 if error.until is None else error.until) % len(images)
    first = images.path(index)
    raise BrokenImage(
        f"{attempts} image{'s' * (attempts > 1)} in a row, starting at {first}, cannot be read "
        f"({unreadable[first]})"
    )
