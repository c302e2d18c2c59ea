"""Images of every format that Siam reads. The oracle is Pillow: what it reads, Siam reads, and equal."""

import io
import random
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.Image import Transpose

from siam.data.decode import BrokenImage, decode, scalable_size, size_of
from tests.fuzz.cases import Case
from tests.fuzz.mutate import exif, jpeg_segment, png_chunk

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
PLAIN_MODES = ("1", "L", "P", "RGB", "YCbCr", "CMYK")
"""Modes whose conversion to RGB is Pillow's. Alpha and deep modes have rules of Siam's own."""
PIXELS = 4_000_000
"""Larger images may be refused: mutated headers claim sizes that no one has pixels for."""

SPECIAL = {
    ".jpg": (jpeg_segment,), ".png": (png_chunk,),
}  # fmt: skip


def seeds() -> dict[str, Case]:
    """Return small images: every format, mode and compression that Pillow writes."""
    return {name: {f"image.{name.split('-')[0]}": data} for name, data in _all().items()}


def _all() -> dict[str, bytes]:
    found = {}
    for kind, name, mode, options in _FORMS:
        image = _drawn(mode, len(found))
        if "animated" in name:
            other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            options = {**options, "save_all": True, "append_images": [other, image]}
        data = io.BytesIO()
        image.save(data, kind, **options)
        found[name] = data.getvalue()
    return found


_TIFF_MODES = ("1", "L", "RGB", "CMYK", "I;16", "F", "RGBA")
_COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
_FORMS = (
    *(("JPEG", f"jpg-{s}-{q}", "RGB", {"subsampling": s, "quality": q}) for s in (0, 1, 2) for q in (30, 95)),
    ("JPEG", "jpg-progressive", "RGB", {"progressive": True}),
    ("JPEG", "jpg-exif", "RGB", {"exif": b"Exif\0\0" + exif(6)}),
    ("JPEG", "jpg-restarts", "RGB", {"restart_marker_blocks": 2, "comment": b"made by hand"}),
    ("JPEG", "jpg-gray", "L", {}),
    ("JPEG", "jpg-cmyk", "CMYK", {}),
    *(("PNG", f"png-{mode}", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "png-exif", "RGB", {"exif": b"Exif\0\0" + exif(3)}),
    ("PNG", "png-transparent", "P", {"transparency": 3}),
    ("PNG", "png-animated", "RGB", {}),
    ("WEBP", "webp-lossy", "RGB", {}),
    ("WEBP", "webp-lossless", "RGBA", {"lossless": True, "exif": exif(8)}),
    ("WEBP", "webp-animated", "RGB", {}),
    *(("BMP", f"bmp-{mode}", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ("DIB", "dib-RGB", "RGB", {}),
    ("GIF", "gif-P", "P", {}),
    ("GIF", "gif-transparent", "P", {"transparency": 1}),
    ("GIF", "gif-animated", "P", {"duration": 20}),
    *(("TIFF", f"tif-{mode.replace(';', '')}", mode, {}) for mode in _TIFF_MODES),
    *(("TIFF", f"tif-{c}", "RGB", {"compression": c}) for c in _COMPRESSIONS),
    ("TIFF", "tif-group4", "1", {"compression": "group4"}),
    ("TIFF", "tif-animated", "L", {}),
    *(("PPM", f"ppm-{mode.replace(';', '')}", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
)  # fmt: skip


def _drawn(mode: str, seed: int) -> Image.Image:
    """Draw a smooth random image in a mode."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(9, 34, 2))
    soft = Image.fromarray(rng.integers(0, 256, (4, 4, 4), dtype=np.uint8), "RGBA").resize((width, height))
    if mode == "I;16":
        return Image.fromarray(np.asarray(soft.convert("L"), dtype=np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(soft.convert("L"), dtype=np.float32) / 255)
    return soft if mode == "RGBA" else soft.convert("RGB").convert(mode)


Reading = torch.Tensor | BrokenImage


def check(case: Case, folder: Path) -> Reading:
    (data,) = case.values()
    rng = random.Random(len(data))
    try:
        size = size_of(data)
        image = decode(data)
        small = decode(data, downscale=rng.randrange(1, 9))
    except BrokenImage as error:
        return error
    height, width = image.shape[1:]
    assert image.shape[0] == 3, "not three channels"
    assert sorted(size) == sorted((height, width)), f"size_of differs from decode: {size}, {height, width}"
    scaled = scalable_size(data)
    assert scaled is None or scaled == (height, width), f"scalable_size differs from decode: {scaled}"
    assert small.shape[1] <= height, "downscaled is larger"
    assert small.shape[2] <= width, "downscaled is larger"
    return image


def compare(case: Case, reading: Reading) -> None:
    expected = _by_pillow(*case.values())
    if isinstance(reading, BrokenImage):
        assert expected is None, f"Pillow reads it, Siam does not: {reading.reason}"
        raise reading
    if expected is not None:
        _compare(reading.permute(1, 2, 0).numpy(), expected)


def _compare(image: np.ndarray, expected: Image.Image) -> None:
    assert image.shape[:2] == (expected.height, expected.width), f"another size than Pillow's: {image.shape}"
    if expected.mode in PLAIN_MODES and "transparency" not in expected.info:
        pixels = np.asarray(expected.convert("RGB"), dtype=np.int16)
        difference = float(np.abs(image - pixels).mean())
        assert difference <= 2, f"other pixels than Pillow's: {difference:.1f} on average"


_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""EXIF orientation -> how to turn. ImageOps.exif_transpose also rewrites the metadata, which may fail."""


def _by_pillow(data: bytes) -> Image.Image | None:
    """Return the upright image, or None if Pillow does not read it or if it is too large to insist on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > PIXELS:
                return None
            image.load()
        except Exception:  # corrupt bytes make Pillow raise errors of any kind
            return None
        try:
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # odd metadata: the pixels are good all the same
            turn = None
        return image if turn is None else image.transpose(turn)
