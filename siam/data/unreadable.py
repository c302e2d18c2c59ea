"""Images that cannot be read: which ones, why, and what takes their place."""

import itertools
from collections.abc import Callable
from typing import Protocol, TypeVar

from siam.data.decode import BrokenImage

T = TypeVar("T")

_ATTEMPTS = 100
"""Images tried in place of one that cannot be read."""


class Unreadable(dict[str, str]):
    """Images that could not be read: path to reason."""

    def first_few(self) -> str:
        """Name up to 5 of them with their reasons, and say how many more there are."""
        named = [f"{path} ({reason})" for path, reason in itertools.islice(self.items(), 5)]
        return ", ".join(named) + (f" and {len(self) - 5} more" if len(self) > 5 else "")


class HasPaths(Protocol):
    """A sequence whose items have names."""

    def __len__(self) -> int: ...

    def path(self, i: int) -> str: ...


def read_or_replace(
    images: HasPaths, index: int, unreadable: Unreadable, read: Callable[[int], T]
) -> tuple[T, int]:
    """Return `read(index)`, or that of the first image after it that can be read, and the index it has.

    Images that cannot be read are added to `unreadable`. Raises BrokenImage after 100 of them in a row.
    """
    at, most = index, min(_ATTEMPTS, len(images))
    for _ in range(most):
        try:
            return read(at), at
        except BrokenImage as error:
            unreadable[images.path(at)] = error.reason
            at = (at + 1 if error.until is None else error.until) % len(images)
    first = images.path(index)
    raise BrokenImage(f"{most} images in a row, from {first} on, cannot be read ({unreadable[first]})")
