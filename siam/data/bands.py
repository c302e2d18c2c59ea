"""Take images in bands of rows: converting a whole image would take twice its memory."""

from collections.abc import Iterator

from PIL import Image

_PIXELS = 2**20
"""Pixels of a band."""


def bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield an image in bands of at most a million pixels, or of one row, with the rows that each covers."""
    rows = max(1, _PIXELS // image.width)
    if rows >= image.height:
        yield slice(None), image
        return
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))
