"""Every format is decoded to upright 8-bit RGB; an unreadable file is an error with the reason."""

import contextlib
import io
import struct
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siam.data import bands as taking
from siam.data import decode as decoding
from siam.data.decode import BrokenImage, decode, read_file, scalable_size, size_of

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    return decode(data).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_decoded_exactly(kind):
    assert (pixels(encoded(Image.fromarray(RGB), kind)) == RGB).all()


def test_jpeg_equals_pillow_within_rounding():
    soft = Image.fromarray(RGB).resize((64, 48))
    data = encoded(soft, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert abs(pixels(data).astype(int) - expected).max() <= 4


def test_a_gray_jpeg_has_three_equal_channels():
    out = pixels(encoded(Image.fromarray(RGB).convert("L"), "JPEG"))
    assert out.shape == RGB.shape
    assert (out[..., 0] == out[..., 1]).all()


def test_a_palette_with_transparency_is_composited_on_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    out = pixels(encoded(image, transparency=1))
    assert out[0, 0].tolist() == [255, 0, 0]
    assert out[1, 1].tolist() == [255, 255, 255]


def test_alpha_is_composited_on_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(pixels(encoded(image))[0, 0, 0]) - 127) <= 1


def test_one_bit_and_gray_with_alpha():
    assert pixels(encoded(Image.new("1", (4, 4), 1)))[0, 0].tolist() == [255, 255, 255]
    assert pixels(encoded(Image.new("LA", (4, 4), (100, 255))))[0, 0].tolist() == [100, 100, 100]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
    levels = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    out = pixels(encoded(Image.fromarray(levels), kind))
    assert out[0, :, 0].tolist() == [0, 10, 128, 255]


def test_a_cmyk_jpeg_keeps_its_colors():
    image = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    out = pixels(encoded(image, "JPEG", quality=95))
    assert abs(out[8, 8].astype(int) - [200, 30, 60]).max() <= 6


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["little", "big"])
def test_exif_orientation_is_applied(orientation, order):
    """Against Pillow's own transposition of the same file."""
    image = Image.fromarray(RGB).resize((48, 32))
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", quality=95, exif=exif.tobytes())
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    out = pixels(data).astype(int)
    assert out.shape == expected.shape
    assert abs(out - expected).mean() < 2


def test_memory_is_channels_last():
    for kind in ("JPEG", "PNG"):
        assert decode(encoded(Image.fromarray(RGB), kind)).permute(1, 2, 0).is_contiguous()


def chunk(name, body, checksum=None):
    checksum = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png(header, body):
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def png_declaring(width, height):
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"\0" * 100)


def jpeg_declaring(width, height):
    data = bytearray(encoded(Image.fromarray(RGB), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"This is no photograph.", "not an image"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (encoded(Image.fromarray(RGB).resize((300, 300)), "JPEG")[:900], "truncated"),
        (encoded(Image.fromarray(RGB).resize((300, 300)))[:900], "truncated"),
        (png_declaring(60_000, 60_000), "too many pixels"),
        (jpeg_declaring(60_000, 60_000), "60000 x 60000"),
    ],
    ids=["empty", "text", "stub", "cut JPEG", "cut PNG", "PNG bomb", "JPEG bomb"],
)
def test_an_unreadable_file_is_an_error_with_the_reason(data, reason):
    with pytest.raises(BrokenImage, match=reason) as caught:
        decode(data)
    assert 0 < len(caught.value.reason) <= 100


def test_result_is_a_writable_uint8_tensor():
    out = decode(encoded(Image.fromarray(RGB)))
    assert out.dtype == torch.uint8
    out[0, 0, 0] = 7
    assert out[0, 0, 0] == 7


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_of_lossless_files_is_exact(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB.transpose(1, 0, 2), 2),
        8: np.rot90(RGB),
    }
    out = pixels(encoded(Image.fromarray(RGB), kind, exif=exif, **options))
    assert out.shape == upright[orientation].shape
    assert (out == upright[orientation]).all()


@pytest.mark.parametrize("senseless", [0, 9, 255])
def test_an_invalid_orientation_is_ignored(senseless):
    exif = Image.Exif()
    exif[0x0112] = senseless
    assert pixels(encoded(Image.fromarray(RGB), "JPEG", exif=exif)).shape == RGB.shape


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("largest", "bits"),
    [(1, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16), (65535, 16)],
)
def test_deep_gray_is_scaled_by_the_smallest_bit_depth_that_holds_it(kind, largest, bits):
    dtype = np.uint16 if kind == "PNG" else np.int32
    out = pixels(encoded(Image.fromarray(np.array([[0, largest // 2, largest]], dtype)), kind))
    expected = [0, largest // 2 * 255 / (2**bits - 1), largest * 255 / (2**bits - 1)]
    assert abs(out[0, :, 0] - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 257.0 * 7, 65535.0], [0, 7, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([3.0, 3.0, 3.0], [3, 3, 3]),
    ],
    ids=["unit", "bytes", "16 bits", "signed", "nan", "constant"],
)
def test_float_tiff(values, expected):
    out = pixels(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert out[0, :, 0].tolist() == expected


def test_32_bit_integers_are_scaled_by_their_range():
    out = pixels(encoded(Image.fromarray(np.array([[-100, 0, 100]], np.int32)), "TIFF"))
    assert out[0, :, 0].tolist() == [0, 128, 255]


def cmyk_jpeg(*ink):
    return encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)


def test_cmyk_is_stored_inverted_as_adobe_does():
    """Ink (55, 225, 195) without black is RGB 255 - ink; ink over half as much black is half as light."""
    assert abs(pixels(cmyk_jpeg(55, 225, 195, 0))[8, 8].astype(int) - [200, 30, 60]).max() <= 2
    assert abs(pixels(cmyk_jpeg(55, 225, 195, 128))[8, 8].astype(int) - [100, 15, 30]).max() <= 2
    assert pixels(cmyk_jpeg(55, 225, 195, 255)).max() <= 2


def test_ycck_is_converted_as_the_adobe_marker_says():
    """Y, Cb, Cr = 100, 128, 168 and no black: ink = (156, 71, 100) by JFIF's formula, RGB = 255 - ink."""
    data = bytearray(cmyk_jpeg(255 - 100, 255 - 128, 255 - 168, 0))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    assert abs(pixels(bytes(data))[8, 8].astype(int) - [99, 184, 155]).max() <= 2


def test_lab_tiff_becomes_srgb():
    """L* = 50, a* = b* = 0 is a gray of 119 in sRGB (CIE 15; IEC 61966-2-1)."""
    out = pixels(encoded(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF"))
    assert abs(out[0, 0].astype(int) - 119).max() <= 2


@pytest.mark.parametrize(("mode", "key", "other"), [("RGB", (9, 8, 7), (1, 2, 3)), ("L", 9, 40)])
def test_a_transparent_color_is_composited_on_white(mode, key, other):
    image = Image.new(mode, (2, 1), key)
    image.putpixel((1, 0), other)
    out = pixels(encoded(image, transparency=key))
    assert out[0, 0].tolist() == [255, 255, 255]
    assert out[0, 1].tolist() == (list(other) if mode == "RGB" else [other] * 3)


def test_a_format_that_starts_programs_is_refused():
    """Pillow would pass PostScript to Ghostscript, whatever the name of the file."""
    with pytest.raises(BrokenImage, match="not an image"):
        decode(encoded(Image.fromarray(RGB), "EPS"))


def test_a_file_over_the_limit_is_refused_where_pillow_only_warns():
    with pytest.raises(BrokenImage, match="too many pixels"):
        decode(png_declaring(15_000, 15_000))


@contextlib.contextmanager
def _peak():
    """Yield a function that returns by how many MB the memory of this process rose at most in the block."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    yield lambda: _memory("VmHWM") - before


def _memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1000


def declaring(kind, width, height):
    """A file of the format whose header declares this size; its pixels are missing."""
    if kind == "PNG":
        return png_declaring(width, height)
    if kind == "JPEG":
        return jpeg_declaring(width, height)
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height)
    data = bytearray(encoded(Image.fromarray(RGB), kind))
    at, form = {"BMP": (18, "<ii"), "GIF": (6, "<HH"), "JPEG2000": (48, ">II")}[kind]
    if kind == "JPEG2000":
        data[data.index(b"ihdr") + 4 : data.index(b"ihdr") + 12] = struct.pack(">II", height, width)
    else:
        data[at : at + struct.calcsize(form)] = struct.pack(form, width, height)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "BMP", "GIF"])
def test_all_formats_have_the_same_limit(kind):
    """89,478,485 pixels: 256 MiB of RGB."""
    assert size_of(declaring(kind, 9_400, 9_500)) == (9_500, 9_400)
    with pytest.raises(BrokenImage, match="too many pixels"):
        size_of(declaring(kind, 9_500, 9_500))


@pytest.mark.parametrize(("kind", "bytes_per_pixel"), [("JPEG2000", 19), ("WEBP", 16), ("AVIF", 12)])
def test_decoders_of_whole_images_have_the_same_limit_of_memory(kind, bytes_per_pixel):
    """7 bytes for each of 89,478,485 pixels, as for the others."""
    height = 7 * 89_478_485 // bytes_per_pixel // 16_000
    decoding._require_small(SimpleNamespace(width=16_000, height=height, format=kind))
    with pytest.raises(BrokenImage, match="too many pixels"):
        decoding._require_small(SimpleNamespace(width=16_000, height=height + 1, format=kind))


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "RGBA", "I"])
def test_decoding_takes_seven_bytes_for_each_pixel(mode):
    """Of any format in which Pillow keeps no whole image but its own; plus a band that is converted."""
    image = Image.new(mode, (2000, 4000), 7)
    data = encoded(image, "TIFF")
    with _peak() as megabytes:
        assert decode(data).shape == (3, 4000, 2000)
    assert megabytes() < 7 * 8 + 40


def test_a_row_of_millions_of_pixels_is_read_in_large_blocks():
    """Pillow alone takes ten seconds for it: it copies what it has of a row with each block of 64 KiB."""
    data = b"P6 12000000 1 255\n" + bytes(range(240)) * 150_000
    started = time.process_time()
    assert (pixels(data)[0, -80:].ravel() == range(240)).all()
    assert time.process_time() - started < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_bands_of_an_image_are_converted_as_the_whole(mode, monkeypatch):
    """The depth of an image follows from its largest value, in whichever band it is."""
    gray = np.arange(240, dtype=np.int32).reshape(20, 12) * 20
    deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(gray.astype(deep[mode]) if mode in deep else RGB.reshape(20, 12, 3))
    data = encoded(image if mode in deep else image.convert(mode), "PNG" if mode in ("P", "LA") else "TIFF")
    whole = pixels(data)
    monkeypatch.setattr(taking, "_PIXELS", 12 * 3)
    assert (pixels(data) == whole).all()
    assert len(np.unique(whole)) > 1


def test_a_file_larger_than_the_limit_is_not_read(tmp_path):
    file = tmp_path / "sparse.jpg"
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(BrokenImage, match="1,099,511,627,776 bytes"):
        read_file(file)


EXIF_SIX = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, 6, 0, 0)


@pytest.mark.parametrize(
    ("chunks", "turned"),
    [
        (chunk(b"eXIf", b"garbage" * 9), False),
        (chunk(b"eXIf", b"II*\0" + b"\xff" * 200), False),
        (chunk(b"eXIf", EXIF_SIX), True),
        (chunk(b"tEXt", b"a\0b", checksum=1), False),
        (chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 3_000_000)), False),
        (chunk(b"iTXt", b"\xff\0\x01\0\0\0garbage") + chunk(b"pHYs", b"1"), False),
        (chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 3_000_000)) + chunk(b"eXIf", EXIF_SIX), True),
        (chunk(b"prVt", b"") * 100_000, False),
    ],
    ids=["exif", "endless exif", "turned", "checksum", "long text", "text", "long text, turned", "many"],
)
def test_metadata_of_a_png_never_costs_its_pixels(chunks, turned):
    data = encoded(Image.fromarray(RGB))
    out = pixels(data[:33] + chunks + data[33:])
    assert (out == (np.rot90(RGB, -1) if turned else RGB)).all()


def test_metadata_of_a_webp_never_costs_its_pixels():
    for exif in (b"Exif\0\0garbage", b"b'Exif\\x00", b"II*\0" + b"\xff" * 99):
        assert (pixels(encoded(Image.fromarray(RGB), "WEBP", lossless=True, exif=exif)) == RGB).all()


@pytest.mark.parametrize(
    "segments",
    [
        b"\xff\xe1\x00\x0aExif\0\0II",
        b"\xff\xed\x00\x1aPhotoshop 3.0\x008BIM\xff\xff\xff\xff",
        b"\xff" * 3_000_000,
    ],
    ids=["exif", "photoshop", "padding"],
)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_metadata_of_a_jpeg_never_costs_its_pixels(segments, mode):
    """RGB is read by the fast decoder, CMYK by Pillow."""
    data = encoded(Image.fromarray(RGB).convert(mode), "JPEG", quality=95)
    assert (pixels(data[:2] + segments + data[2:]) == pixels(data)).all()


def test_a_jpeg_that_only_pillow_reads_is_turned_once():
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95, exif=exif)
    assert decode(data).shape == (3, RGB.shape[1], RGB.shape[0])


def test_tiff_tags_that_all_refer_to_the_same_bytes_are_refused():
    """60,000 tags of a megabyte each would take 60 GB."""
    entries = b"".join(struct.pack("<HHII", tag, 7, 2**20, 8) for tag in range(1000, 61_000))
    data = struct.pack("<2sHIH", b"II", 42, 8, 60_000) + entries + bytes(2**20)
    with pytest.raises(BrokenImage, match="tags claim more"):
        decode(data)


@pytest.mark.parametrize("header", [b"P3 2000 1000 255\n", b"P1 2000 1000\n", b"P5 2000 1000 4095\n"])
def test_a_file_that_is_decoded_in_python_must_be_small(header):
    with pytest.raises(BrokenImage, match="slow to decode, 2000 x 1000"):
        decode(header + b"1 " * 100)
    assert decode(header.replace(b"2000 1000", b"2 2") + b"1 " * 12).shape == (3, 2, 2)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_newer_formats(kind):
    soft = Image.fromarray(RGB).resize((64, 48))
    options = {"quality": 98, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    assert abs(pixels(encoded(soft, kind, **options)).astype(int) - np.asarray(soft)).mean() < 3


SEEDS = [
    encoded(Image.fromarray(RGB), "JPEG"),
    encoded(Image.fromarray(RGB), "PNG"),
    encoded(Image.fromarray(RGB), "GIF"),
    encoded(Image.fromarray(RGB), "BMP"),
    encoded(Image.fromarray(RGB), "TIFF"),
    encoded(Image.fromarray(RGB), "WEBP"),
    encoded(Image.fromarray(RGB), "PPM"),
    cmyk_jpeg(1, 2, 3, 4),
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 2000),
)
def test_a_damaged_file_gives_an_image_or_an_error_with_the_reason(data, changes, length):
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    reason = ""
    try:
        out = decode(bytes(damaged[:length]))
    except BrokenImage as error:
        reason = error.reason
    if reason:
        assert len(reason) <= 100
        assert "\n" not in reason
    else:  # also where the reason would be empty: then `out` is missing
        assert out.dtype == torch.uint8
        assert out.shape[0] == 3


@pytest.mark.parametrize(("allowed", "factor"), [(1, 1), (2, 2), (3, 2), (7, 4), (100, 8)])
def test_a_jpeg_is_decoded_smaller_where_that_is_allowed(allowed, factor):
    """The same picture: each pixel is near the mean of those it replaces."""
    data = encoded(Image.fromarray(RGB).resize((200, 120)), "JPEG", quality=95, subsampling=0)
    small = decode(data, allowed).float()
    whole = decode(data).float()
    assert small.shape == (3, 120 // factor, 200 // factor)
    means = torch.nn.functional.avg_pool2d(whole, factor)
    assert (small - means).abs().mean() < 2


def test_chroma_is_not_interpolated_when_decoding_for_views():
    """Nearly all JPEGs store chroma at half the resolution; on a smooth picture it makes no difference."""
    soft = Image.fromarray(RGB // 2 + 64).resize((6, 4)).resize((200, 120), Image.Resampling.BICUBIC)
    data = encoded(soft, "JPEG", quality=95, subsampling="4:2:0")
    apart = (decode(data, smooth_chroma=False).float() - decode(data).float()).abs()
    assert 0 < apart.mean() < 1


def test_the_reduced_size_of_a_jpeg_is_upright():
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(Image.fromarray(RGB).resize((60, 40)), "JPEG", exif=exif)
    assert scalable_size(data) == size_of(data) == (60, 40)
    assert decode(data, 2).shape == (3, 30, 20)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_only_a_jpeg_is_decoded_smaller(kind):
    data = encoded(Image.fromarray(RGB), kind)
    assert scalable_size(data) is None
    assert size_of(data) == RGB.shape[:2]
    assert decode(data, 8).shape == (3, *RGB.shape[:2])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"text", "not an image"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (png_declaring(60_000, 60_000), "too many pixels"),
        (jpeg_declaring(60_000, 60_000), "60000 x 60000"),
    ],
)
def test_the_size_of_an_unreadable_file_is_an_error_with_the_reason(data, reason):
    with pytest.raises(BrokenImage, match=reason):
        size_of(data)


def test_a_size_is_read_from_the_header_alone():
    """The rest of the file may be missing."""
    for kind in ("JPEG", "PNG"):
        data = encoded(Image.fromarray(RGB).resize((300, 200)), kind)
        assert size_of(data[:900]) == (200, 300)


@pytest.mark.parametrize("padding", [b"", b"\xff\xff"])
def test_the_orientation_is_found_after_other_segments(padding):
    """After a comment and padding; the frame of a thumbnail is not that of the file."""
    exif = Image.Exif()
    exif[274] = 8
    data = encoded(Image.fromarray(RGB), "JPEG", exif=exif)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 30) + b"\xff\xc0" * 15
    assert size_of(data[:2] + comment + padding + data[2:]) == (RGB.shape[1], RGB.shape[0])
