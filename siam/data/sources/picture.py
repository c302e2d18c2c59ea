"""A single image file."""

import os
from pathlib import Path

from siam.data.images import ImageSets
from siam.data.kinds import IMAGE_SUFFIXES
from siam.data.packed import PackedStrings
from siam.data.sources.folder import FolderImages

LOOKS_LIKE = "an image file"
ORDER = 70


def recognizes(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(name)


def open(name: str) -> ImageSets:
    return ImageSets(files([name]), None)


def files(names: list[str]) -> FolderImages:
    """Return the image files with these names, unlabeled, in this order."""
    images = FolderImages(names[0] if len(names) == 1 else "the list", Path(), PackedStrings(names))
    images.classes, images.labels = (), None
    return images
