"""A folder of image files, at any depth, split into train/ and val/ if both exist."""

import os
from collections.abc import Iterator
from pathlib import Path

from siam.data.decode import BrokenImage
from siam.data.images import Encoded, ImageSets
from siam.data.labels import class_folders
from siam.data.packed import PackedStrings
from siam.data.patterns import IMAGE_SUFFIXES, expand_shards
from siam.data.splits import split_by_folder
from siam.errors import DataError
from siam.system.files import regular

LOOKS_LIKE = "a folder of images"
ORDER = 10


def recognizes(name: str) -> bool:
    return os.path.isdir(name) and not expand_shards(name)


def open(name: str) -> ImageSets:
    root = Path(name)
    names = PackedStrings(_walk(root))
    return split_by_folder(name, names, lambda part: FolderImages(name, root, names.part(part)))


class FolderImages(Encoded):
    """Image files in a folder and its subfolders; labeled if every image is in a class folder."""

    def __init__(self, name: str, root: Path, names: PackedStrings) -> None:
        self.name, self.root, self.names = name, root, names
        self.classes, self.labels = class_folders(names)

    def encoded(self, i: int) -> bytes:
        try:
            return regular(self.root / self.names[i]).read_bytes()
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be opened") from None


def _walk(root: Path) -> Iterator[str]:
    """Yield the sorted names of all image files under `root`.

    Hidden files and folders and symlinks to folders are skipped.
    """
    waiting = [""]  # a name that ends in "/" is a folder, so that it sorts like its files
    try:
        while waiting:
            name = waiting.pop()
            if name and not name.endswith("/"):
                yield name
                continue
            with os.scandir(root / name) as entries:
                found = [name + entry for entry in map(_entry, entries) if entry]
            found.sort(reverse=True)
            waiting += found
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _entry(entry: os.DirEntry[str]) -> str:
    """Return an image's name, a folder's name plus "/", or "" for anything else."""
    if entry.name.startswith("."):
        return ""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    # symlinks that are broken, or lead to a pipe, are reported as unreadable
    is_image = entry.name.lower().endswith(IMAGE_SUFFIXES) and (entry.is_symlink() or entry.is_file())
    return entry.name if is_image else ""
