"""Color images with 16 bits per channel: no level is lost to Pillow, which keeps only the high byte."""

import struct
import zlib

import numpy as np
import pytest

from siam.data import bands as taking
from siam.data import decode as decoding
from siam.data.decode import BrokenImage, decode

KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> PNG's color type."""


def png(values, extra=b""):
    """Encode uint16 (H, W, C) as PNG. extra: chunks to insert."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, KINDS[values.shape[2]], 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(values, order="<", compressed=False):
    """Encode uint16 (H, W, C) as TIFF with one strip."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8 if compressed else 1), (262, 3, 2),
        (273, 4, 8 + len(bits)), (277, 3, channels), (278, 4, height), (279, 4, len(data)), (284, 3, 1),
    ]  # fmt: skip
    if channels == 4:
        tags.append((338, 3, 2))
    entries = b""
    for tag, kind, value in tags:
        count = channels if tag == 258 else 1
        small = kind == 3 and count == 1
        form, filled = ("HHIHH", (value, 0)) if small else ("HHII", (value,))
        entries += struct.pack(order + form, tag, kind, count, *filled)
    at = 8 + len(bits) + len(data)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", at) + bits + data
    return head + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


def random(channels, largest=65535, side=13):
    values = np.random.default_rng(0).integers(0, largest + 1, (side, side + 3, channels), dtype=np.uint16)
    values[0, 0, 0] = largest
    return values


FORMS = {
    "png": png, "tiff": tiff, "big-endian tiff": lambda v: tiff(v, ">"),
    "compressed tiff": lambda v: tiff(v, "<", True),
    "compressed big-endian tiff": lambda v: tiff(v, ">", True),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("largest", "top"), [(65535, 65535), (4095, 4095), (3000, 4095), (200, 255)])
def test_colors_keep_their_levels_at_every_depth(form, largest, top):
    values = random(3, largest)
    pixels = decode(FORMS[form](values)).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, np.rint(values / top * 255))


@pytest.mark.parametrize("form", ["png", "tiff", "compressed tiff"])
def test_alpha_has_all_16_bits_and_is_composited_onto_white(form):
    values = random(4, 4095)
    values[..., 3] = np.where(np.arange(values.shape[1]) % 2, 65535, 0)
    pixels = decode(FORMS[form](values)).permute(1, 2, 0).numpy()
    assert (pixels[:, ::2] == 255).all()
    assert np.array_equal(pixels[:, 1::2], np.rint(values[:, 1::2, :3] / 4095 * 255))


def test_gray_with_alpha(tmp_path):
    values = random(2, 1023)
    values[..., 1] = 65535
    pixels = decode(png(values)).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, np.rint(values[..., :1] / 1023 * 255).repeat(3, axis=2))


def test_a_transparent_color():
    values = random(3)
    key = struct.pack(">3H", *values[2, 3].tolist())
    pixels = decode(png(values, chunk(b"tRNS", key))).permute(1, 2, 0).numpy()
    assert (pixels[2, 3] == 255).all()
    assert np.array_equal(pixels[3], np.rint(values[3] / 257))


def test_more_rows_than_are_converted_at_a_time():
    values = random(3, side=300)
    assert np.array_equal(decode(png(values)).permute(1, 2, 0).numpy(), np.rint(values / 257))


def test_the_limit_of_memory_is_that_of_other_images(monkeypatch):
    """Four bytes for each pixel in Pillow for the high bytes, four for the low ones, and three as RGB."""
    monkeypatch.setattr(decoding, "_MAX_MEMORY", 11 * 207)
    with pytest.raises(BrokenImage, match="too many pixels: 16 x 13, more than 207"):
        decode(png(random(3)))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_bands_are_converted_as_the_whole(channels, monkeypatch):
    """The depth follows from the largest value, in whichever band it is."""
    data = png(random(channels, 3000))
    whole = decode(data)
    monkeypatch.setattr(taking, "_PIXELS", 16 * 2)
    assert (decode(data) == whole).all()
