"""A tar archive of image files, read in place; train/ and val/ define the split if both exist."""

import os
from pathlib import Path

import numpy as np

from siam.data.images import Encoded, ImageSets
from siam.data.left_out import LeftOut
from siam.data.samples import TarMembers, has_same_components, labels_of, one_per_sample
from siam.data.splits import Part, split_by_folder
from siam.data.tars import read_member, tar_members

LOOKS_LIKE = "a .tar of images"
ORDER = 20


def recognizes(name: str) -> bool:
    return Path(name).suffix == ".tar" and os.path.isfile(name)


def open(name: str) -> ImageSets:
    file = Path(name)
    left_out = LeftOut()
    members = tar_members(file, left_out)
    strict = members.is_webdataset or has_same_components(members.names)
    members = one_per_sample(members, left_out, strict)

    def build(part: Part) -> TarImages:
        chosen = [np.arange(piece.start, piece.stop) for piece in part]
        return TarImages(name, file, members.take(np.concatenate(chosen)))

    sets = split_by_folder(name, members.names, build, left_out)
    if members.complaint:
        sets.unreadable_files[name] = members.complaint
    return sets


class TarImages(Encoded):
    """Image files in a tar; labeled if there are .cls files, or if most images are in class folders."""

    def __init__(self, name: str, file: Path, members: TarMembers) -> None:
        self.name, self.file, self.names, self.spans = name, file, members.names, members.spans
        self.classes, self.labels = labels_of(members.names, members.labels)

    def encoded(self, i: int) -> bytes:
        return read_member(self.file, self.spans[i])

    def signature(self) -> bytes:
        """Return the sizes of all images."""
        return self.spans[:, 1].tobytes()
