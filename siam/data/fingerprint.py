"""Fingerprints of image sets: image names and file sizes, so that a resumed job recognizes its images.

A fingerprint does not depend on the place: a copy of a folder has the fingerprint of the folder.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from siam.data.images import ImageSets

Fingerprint = dict[str, Any]
"""Of each split: the number of images, and digests of their names and contents (usually, sizes)."""


class Named(Protocol):
    """Images with names, and bytes that differ if the images do; `siam.data.images.Images` is one."""

    def __len__(self) -> int: ...

    def path(self, i: int) -> str:
        """Return image i's name."""

    def signature(self) -> bytes:
        """Return bytes that change if the images change, such as the sizes of their files."""


def fingerprint(sets: "ImageSets") -> Fingerprint:
    """Return the fingerprint of the training and validation images."""
    return fingerprint_of({"training": sets.train} | ({} if sets.val is None else {"validation": sets.val}))


def fingerprint_of(splits: Mapping[str, Named]) -> Fingerprint:
    """Return the fingerprint of each split."""
    return {name: _of(images) for name, images in splits.items()}


def _of(images: Named) -> dict[str, Any]:
    first, last = (choose(_names(images), default="") for choose in (min, max))
    shared = len(_shared_folder(first, last))
    digest = hashlib.sha256()
    for name in _names(images):
        digest.update(name[shared:].encode("utf-8", "surrogatepass") + b"\0")
    return {
        "images": len(images),
        "names": digest.hexdigest(),
        "contents": hashlib.sha256(images.signature()).hexdigest(),
    }


def _names(images: Named) -> Iterator[str]:
    return (images.path(i) for i in range(len(images)))  # one by one: there may be millions


def _shared_folder(first: str, last: str) -> str:
    """Return the folder that contains all names, given the first and the last of them in sorted order."""
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[: first.rfind("/", 0, same) + 1]


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Describe how the images changed; [] if they are the same."""
    found = []
    for split in dict.fromkeys([*before, *now]):
        one, other = before.get(split), now.get(split)
        if one == other:
            continue
        counts = [0 if part is None else part["images"] for part in (one, other)]
        if counts[0] != counts[1]:
            found.append(f"{counts[1]:,} {split} images instead of {counts[0]:,}")
        elif one["names"] != other["names"]:  # type: ignore[index]
            found.append(f"{split} images with other names")
        else:
            found.append(f"{split} images with other contents")
    return found


def size_of_file(file: str) -> int:
    """Return the size of a file in bytes; -1 if there is none."""
    try:
        return os.stat(file).st_size
    except OSError:
        return -1
