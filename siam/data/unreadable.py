"""Unreadable images: a record of them, and their replacement by readable ones."""

import itertools
from collections.abc import Callable
from typing import Protocol, TypeVar

from siam.data.decode import BrokenImage

T = TypeVar("T")

_ATTEMPTS = 100
"""Maximum number of images to try in place of one that cannot be read."""


class Unreadable(dict[str, str]):
    """Images that could not be read: path to reason."""

    def first_few(self) -> str:
        """Return up to 5 of them with their reasons, and the number of the others."""
        named = [f"{path} ({reason})" for path, reason in itertools.islice(self.items(), 5)]
        return ", ".join(named) + (f" and {len(self) - 5} more" if len(self) > 5 else "")


class HasPaths(Protocol):
    """A sequence whose items have names."""

    def __len__(self) -> int: ...

    def path(self, i: int) -> str: ...


def read_or_replace(
    images: HasPaths, index: int, unreadable: Unreadable, read: Callable[[int], T]
) -> tuple[T, int]:
    """Return `read(i)` and i for the first image i from `index` on that can be read.

    Images that cannot be read are added to `unreadable`. Raises BrokenImage after 100 of them in a row.
    """
    at, attempts = index, min(_ATTEMPTS, len(images))
    for _ in range(attempts):
        try:
            return read(at), at
        except BrokenImage as error:
            unreadable[images.path(at)] = error.reason
            at = (at + 1 if error.until is None else error.until) % len(images)
    first = images.path(index)
    raise BrokenImage(f"{attempts} images in a row, from {first} on, cannot be read ({unreadable[first]})")
