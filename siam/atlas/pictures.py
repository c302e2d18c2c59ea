"""Full-size images of a map's rows, by number only: nothing outside the dataset can be asked for."""

import io
import os
from pathlib import Path

from PIL import Image

from siam.atlas.embedded import Located
from siam.data.decode import BrokenImage, decode, read_file
from siam.data.photographs import suffix_of
from siam.data.sources.folder import FolderImages

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

    def __init__(self, images: Located) -> None:
        self.images = images

    def path(self, row: int, otherwise: str) -> str:
        """Return the path of a row's file, absolute; the image's name if it is no file of its own."""
        found = self.images[row]
        if found is None:
            return otherwise
        images, i = found
        name = images.path(i)
        return os.path.abspath(images.root / name) if isinstance(images, FolderImages) else name

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return a row's image and its media type, in a format that browsers show.

        Raises BrokenImage if the row has no image, it cannot be read, or it is a link out of the folder.
        """
        found = self.images[row] if 0 <= row < len(self.images) else None
        if found is None:
            raise BrokenImage("is not among the images")
        images, i = found
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
