"""A folder of image files, at any depth, split into train/ and val/ if both exist."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from siam.data.decode import read_file
from siam.data.fingerprint import size_of_file
from siam.data.images import Encoded, ImageSets
from siam.data.kinds import BROKEN, HIDDEN, LINKS, LOCKED, NOT_FILES, Reason, is_image, is_side_folder, reason
from siam.data.labels import class_folders
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings
from siam.data.patterns import expand_shards
from siam.data.splits import split_by_folder
from siam.errors import DataError

LOOKS_LIKE = "a folder of images"
ORDER = 10


def recognizes(name: str) -> bool:
    return os.path.isdir(name) and not expand_shards(name)


def open(name: str) -> ImageSets:
    root, left_out = Path(name), LeftOut()
    names = PackedStrings(_Walk(root, left_out).names())
    return split_by_folder(name, names, lambda part: FolderImages(name, root, names.part(part)), left_out)


class FolderImages(Encoded):
    """Image files in a folder and its subfolders; labeled if most of them are in class folders."""

    def __init__(self, name: str, root: Path, names: PackedStrings) -> None:
        self.name, self.root, self.names = name, root, names
        self.classes, self.labels = class_folders(names)

    def encoded(self, i: int) -> bytes:
        return read_file(self.root / self.names[i])

    def signature(self) -> bytes:
        """Return the sizes of all files."""
        root, join = str(self.root), os.path.join  # names in lists may be absolute
        sizes = (size_of_file(join(root, name)) for name in self.names)
        return np.fromiter(sizes, np.int64, len(self)).tobytes()


class _Walk:
    """Lists the image files under a folder, following links to folders, but each real folder only once."""

    def __init__(self, root: Path, left_out: LeftOut) -> None:
        self.root, self.left_out = root, left_out
        self.real_root = Path(os.path.realpath(root))
        self.followed: set[tuple[int, int]] = set()  # device and inode of the folders after the first link

    def names(self) -> Iterator[str]:
        """Yield the names of all images, sorted."""
        waiting = [""]  # a name that ends in "/" is a folder, so that it sorts like its files
        try:
            while waiting:
                name = waiting.pop()
                if name and not name.endswith("/"):
                    yield name
                    continue
                found = self._list(name)
                found.sort(reverse=True)
                waiting += found
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from None

    def _list(self, folder: str) -> list[str]:
        """Return the names of a folder's images, and of its subfolders plus "/"."""
        try:
            with os.scandir(self.root / folder) as entries:
                found, links = [], []
                for entry in entries:
                    if entry.is_symlink():
                        links.append(entry)
                    else:
                        found.append(self._entry(folder, entry))
            found += [self._entry(folder, link) for link in sorted(links, key=lambda link: link.name)]
            return [folder + name for name in found if name]
        except PermissionError:
            if not folder:
                raise
            self.left_out.add(LOCKED, [folder])
            return []

    def _entry(self, folder: str, entry: os.DirEntry[str]) -> str:
        """Return an image's name, a folder's name plus "/", or "" for anything else, which is recorded."""
        is_link, is_folder, is_file = _kind(entry)
        why: Reason | None
        if is_folder:
            why = HIDDEN if is_side_folder(entry.name) else self._repeated(entry, is_link)
        elif not is_file and is_link and not os.path.exists(entry.path):
            why = None if is_image(entry.name) else BROKEN  # an image that is missing counts as unreadable
        elif not is_image(entry.name):
            why = reason(entry.name)
        elif is_file:
            why = None
        else:
            why = NOT_FILES  # reading a pipe would block forever
        name = entry.name + "/" * is_folder
        if why is not None:
            self.left_out.add(why, [folder + name])
            return ""
        return name if is_folder or is_image(entry.name) else ""

    def _repeated(self, folder: os.DirEntry[str], is_link: bool) -> Reason | None:
        """Return the reason to leave out a folder whose images are listed under another name, or None."""
        if not is_link and not self.followed:
            return None
        found = os.stat(folder.path)
        key = found.st_dev, found.st_ino
        if key in self.followed or (is_link and self._leads_back(folder.path)):
            return LINKS
        self.followed.add(key)
        return None

    def _leads_back(self, link: str) -> bool:
        """Return True if a link leads to a listed folder of the root, or to one that contains the link."""
        target = Path(os.path.realpath(link))
        if target.is_relative_to(self.real_root):
            return not any(map(is_side_folder, target.relative_to(self.real_root).parts))
        holder = Path(os.path.realpath(os.path.dirname(link)))
        return self.real_root.is_relative_to(target) or holder.is_relative_to(target)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool, bool]:
    """Return whether an entry is a link, and whether it is, or leads to, a folder or a file."""
    try:
        return entry.is_symlink(), entry.is_dir(), entry.is_file()
    except OSError:  # a link that leads to itself, or to where nothing may be read
        return True, False, False
