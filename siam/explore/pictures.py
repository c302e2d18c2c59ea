"""Full-size images of a map's rows, by number only: nothing outside the dataset can be asked for."""

import io
import os
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from siam.data.decode import BrokenImage, decode, read_file
from siam.data.images import Images, ImageSets
from siam.data.photographs import suffix_of
from siam.data.sources.folder import FolderImages
from siam.system.names import stored

_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
}
"""Formats that browsers show; others are converted."""


class Pictures:
    """The images that the rows of a map show."""

    def __init__(self, sets: ImageSets, paths: Sequence[str]) -> None:
        """Find each row's image. paths: the map's, which are among those of the images, in their order."""
        self.sets: list[Images] = [sets.train] if sets.val is None else [sets.train, sets.val]
        waiting: dict[str, deque[int]] = defaultdict(deque)  # several images of a set may have one name
        for row, path in enumerate(paths):
            waiting[path].append(row)
        self.places = np.full((len(paths), 2), -1, dtype=np.int64)
        for number, images in enumerate(self.sets):
            for i in range(len(images)):
                rows = waiting.get(stored(images.path(i)))
                if rows:
                    self.places[rows.popleft()] = number, i

    def path(self, row: int, otherwise: str) -> str:
        """Return the path of a row's file, absolute; the image's name if it is no file of its own."""
        number, i = self.places[row]
        if number < 0:
            return otherwise
        images = self.sets[number]
        name = images.path(int(i))
        return os.path.abspath(images.root / name) if isinstance(images, FolderImages) else name

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return a row's image and its media type, in a format that browsers show.

        Raises BrokenImage if the row has no image, it cannot be read, or it is a link out of the folder.
        """
        number, i = (int(value) for value in self.places[row]) if 0 <= row < len(self.places) else (-1, -1)
        if number < 0:
            raise BrokenImage("is not among the images")
        images = self.sets[number]
        data = _within(images, i) if isinstance(images, FolderImages) else images.encoded(i)
        kind = _TYPES.get(suffix_of(data) or "") if data else None
        if data and kind:
            return data, kind
        pixels = images.read(i) if data is None else decode(data)
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
        return file.getvalue(), "image/png"


def _within(images: FolderImages, i: int) -> bytes:
    """Read an image file that lies within the dataset's folder, also after all links have been followed."""
    file = os.path.realpath(images.root / images.names[i])
    if os.path.isdir(images.name):
        root = os.path.realpath(images.root)
        if os.path.commonpath([root, file]) != root:
            raise BrokenImage("is a link out of the folder")
    return read_file(Path(file))
