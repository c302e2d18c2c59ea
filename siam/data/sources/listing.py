"""A text file with one image path per line, relative to the file.

A path may be followed by a tab and a label.
"""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from siam.data.images import ImageSets
from siam.data.labels import sorted_classes
from siam.data.packed import PackedStrings
from siam.data.sources.folder import FolderImages
from siam.errors import DataError
from siam.system.files import regular

LOOKS_LIKE = "a .txt list of paths"
ORDER = 60


def recognizes(name: str) -> bool:
    return Path(name).suffix == ".txt" and os.path.isfile(name)


def open(name: str) -> ImageSets:
    path = Path(name)
    found: dict[str, int] = {}
    labels = array("q")

    def names() -> Iterator[str]:
        with regular(path).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line in lines:
                entry, _, label = line.rstrip("\n").partition("\t")
                if not entry.strip():
                    continue
                if ".." in entry and ".." in Path(entry).parts:
                    raise DataError(f"{name}: {entry} is outside the list's folder; use an absolute path")
                if label:
                    labels.append(found.setdefault(label, len(found)))
                yield entry

    try:
        images = FolderImages(name, path.parent, PackedStrings(names()))
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}") from None
    if not len(images):
        raise DataError(f"found no images in {name}: the list is empty")
    if len(labels) not in (0, len(images)):
        raise DataError(
            f"{name} has labels on {len(labels)} of {len(images)} lines: label all of them or none"
        )
    images.classes, images.labels = (), None
    if labels:
        images.classes, images.labels = sorted_classes(found, np.array(labels, dtype=np.int64))
    return ImageSets(images, None)
