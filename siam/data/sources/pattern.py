"""Image files that match a pattern with {000..099}, {a,b}, *, ** or ?, such as photos/*.jpg."""

import os
import re
from pathlib import Path, PurePath

from siam.data.images import ImageSets
from siam.data.kinds import is_image, is_side_folder
from siam.data.packed import PackedStrings
from siam.data.patterns import expand, is_pattern
from siam.data.remote import is_remote
from siam.data.sources.folder import FolderImages
from siam.data.splits import split_by_folder

LOOKS_LIKE = "a pattern of image files (photos/*.jpg)"
ORDER = 70


def recognizes(name: str) -> bool:
    return not is_remote(name) and is_pattern(name) and any(map(_is_image_file, expand(name)))


def open(name: str) -> ImageSets:
    root = _folder_of(name)
    found = sorted({os.path.relpath(file, root) for file in expand(name) if _is_image_file(file)})
    names = PackedStrings(PurePath(one).as_posix() for one in found)
    return split_by_folder(name, names, lambda part: FolderImages(name, root, names.part(part)))


def _is_image_file(file: str) -> bool:
    *folders, base = Path(file).parts
    is_file = os.path.isfile(file) or not os.path.exists(file)  # a missing file is an unreadable image
    return is_image(base) and is_file and not any(part != ".." and is_side_folder(part) for part in folders)


def _folder_of(pattern: str) -> Path:
    """Return the deepest folder whose name contains no pattern."""
    start = re.split(r"[*?\[{]", pattern)[0]
    return Path(start[: start.rfind("/") + 1])
