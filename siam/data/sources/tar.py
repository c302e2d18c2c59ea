"""A tar archive of image files, read in place; train/ and val/ define the split if both exist."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siam.data.images import Encoded, ImageSets
from siam.data.labels import class_folders
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings
from siam.data.splits import split_by_folder
from siam.data.tars import read_member, tar_members

LOOKS_LIKE = "a .tar of images"
ORDER = 20


def recognizes(name: str) -> bool:
    return Path(name).suffix == ".tar" and os.path.isfile(name)


def open(name: str) -> ImageSets:
    file = Path(name)
    left_out = LeftOut()
    names, spans, complaint = tar_members(file, left_out)

    def build(part: range) -> TarImages:
        return TarImages(name, file, names.part(part), spans[part.start : part.stop])

    sets = split_by_folder(name, names, build, left_out)
    if complaint:
        sets.unreadable_files[name] = complaint
    return sets


class TarImages(Encoded):
    """Image files in a tar; labeled if most of them are in class folders."""

    def __init__(self, name: str, file: Path, names: PackedStrings, spans: NDArray[np.int64]) -> None:
        """Create a dataset from image names and their byte offsets and sizes (N, 2)."""
        self.name, self.file, self.names, self.spans = name, file, names, spans
        self.classes, self.labels = class_folders(names)

    def encoded(self, i: int) -> bytes:
        return read_member(self.file, self.spans[i])
