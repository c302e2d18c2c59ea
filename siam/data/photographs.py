"""Tell photographs from masks and the like by the names of their columns, components or folders."""

import re

_PHOTOGRAPHS = (
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "rgb", "pixels", "input", "x",
)  # fmt: skip
_FORMATS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_OTHERS = (
    "mask", "masks", "seg", "segmentation", "segm", "semantic", "instance", "panoptic", "annotation",
    "annotations", "ann", "label", "labels", "gt", "truth", "groundtruth", "target", "depth", "disparity",
    "normal", "normals", "flow", "edge", "edges", "trimap", "trimaps", "matte", "alpha", "heatmap",
    "saliency", "thumbnail", "thumbnails", "thumb", "conditioning", "control",
)  # fmt: skip

PHOTOGRAPH, UNKNOWN, OTHER = 0, 1, 2

_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""The boundaries between words that are written together."""


def rank(name: str) -> tuple[int, int]:
    """Return a sort key for the name of a column, component or folder: photographs first, masks last.

    The first number is PHOTOGRAPH, UNKNOWN or OTHER. Words are separated by anything but letters, as in
    "image_mask", "seg.png" and "depth01", or begin with a capital, as in "JPEGImages" and "gtFine".
    """
    words = [word for word in re.split(r"[^a-z]+", _WORDS.sub(" ", name).lower()) if word]
    if any(word in _OTHERS for word in words):
        return OTHER, 0
    is_numbered = any(letter.isdecimal() for letter in name)  # as in 1.jpg, one of several photographs
    if len(words) == 1 and words[0] in _FORMATS and not is_numbered:  # WebDataset's name for the photograph
        return PHOTOGRAPH, _FORMATS.index(words[0])
    known = [_PHOTOGRAPHS.index(word) for word in words if word in _PHOTOGRAPHS]
    return (PHOTOGRAPH, len(_FORMATS) + min(known)) if known else (UNKNOWN, 0)


_FIRST_BYTES = {
    b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp",
    b"II*\0": "tif", b"MM\0*": "tif", b"P5": "pgm", b"P6": "ppm",
}  # fmt: skip


def suffix_of(data: bytes) -> str | None:
    """Return the usual suffix of an image's format, from its first bytes; None if it is unknown."""
    return next((suffix for start, suffix in _FIRST_BYTES.items() if data.startswith(start)), None)
