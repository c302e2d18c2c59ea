"""Read the orientation of image files, and strip metadata that a decoder fails on.

Files are walked segment by segment, never byte by byte, and at most `_MAX_SEGMENTS` of
them: a file cannot make these loops long.
"""

import re
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"

_MAX_SEGMENTS = 2**18
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)  # any number of 0xFF bytes may precede a marker
_EXIF_NAMES = re.compile(rb"\A(Exif\0\0){1,2}")
_EXIF, _ADOBE, _START_OF_SCAN = 0xE1, 0xEE, 0xDA
_NO_BODY = (0x01, *range(0xD0, 0xDA))
_UNITS = np.array([1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 1, 1, 8, 8, 8], dtype=np.uint64)
"""Bytes per value of each TIFF type."""
_KINDS = (*range(1, 14), 16)
"""TIFF types that exist."""
_INTEGERS = (3, 4, 8, 9, 13, 16)
"""TIFF types of integers of more than 8 bits."""
_ORIENTATION = 274
_TIFFS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+")
"""First bytes of the TIFF that is EXIF data, with the mistakes that Pillow forgives."""


def jpeg_orientation(data: bytes) -> int:
    """Return a JPEG's EXIF orientation, or 1 if it has none. EXIF data may span several segments."""
    parts = [
        data[start + 10 : end]
        for marker, start, end in _jpeg_segments(data)
        if marker == _EXIF and data.startswith(b"Exif\0\0", start + 4)
    ]
    return exif_orientation(b"".join(parts)) if parts else 1


def exif_orientation(exif: bytes) -> int:
    """Return the orientation (TIFF 6.0, tag 274) stored in the first IFD of EXIF data.

    Damaged data is read as by Pillow. Returns 1 if there is no orientation from 1 to 8.
    """
    tiff = _EXIF_NAMES.sub(b"", exif)
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    for tag, kind, values in _ifd_entries(tiff, order) if tiff.startswith(_TIFFS) else ():
        if tag == _ORIENTATION:
            value = int.from_bytes(values[: _UNITS[kind]], order) if kind in _INTEGERS else 1
            return value if 1 <= value <= 8 else 1
    return 1


def _ifd_entries(tiff: bytes, order: Literal["little", "big"]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (tag, type, values) of the first IFD of a TIFF, up to values that are cut off.

    Skips entries of unknown types, without values, of tags that came before, and what would
    make the values larger in sum than the TIFF.
    """
    number = partial(int.from_bytes, byteorder=order)
    start = number(tiff[4:8])
    seen, total = set(), 0
    for at in range(start + 2, min(start + 2 + 12 * number(tiff[start : start + 2]), len(tiff) - 11), 12):
        tag, kind, count = (
            number(tiff[at : at + 2]),
            number(tiff[at + 2 : at + 4]),
            number(tiff[at + 4 : at + 8]),
        )
        size = count * int(_UNITS[kind]) if kind in _KINDS else 0
        if tag in seen or size == 0:
            continue
        place = at + 8
        if size > 4:
            total += size
            if total > len(tiff):
                continue
            place = number(tiff[at + 8 : at + 12])
        if place + size > len(tiff):
            return
        seen.add(tag)
        yield tag, kind, tiff[place : place + size]


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG or PNG with only the parts that its pixels need; other files unchanged.

    Skips what lies between the segments of a JPEG, and chunks of a PNG that are optional or whose checksum is
    wrong, except transparency and EXIF.
    """
    if data.startswith(JPEG):
        needed = (data[a:b] for marker, a, b in _jpeg_segments(data) if _is_needed(marker))
        return JPEG + b"".join(needed)
    return PNG + b"".join(_png_chunks(data)) if data.startswith(PNG) else data


def _is_needed(marker: int) -> bool:
    return marker & 0xF0 in (0xC0, 0xD0) or marker in (0xE0, _ADOBE)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of a JPEG's segments; the last one starts the scan and takes the rest."""
    at = len(JPEG)
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        marker, at = found[1][0], found.end()
        if marker == _START_OF_SCAN:
            yield marker, at - 2, len(data)
            return
        if marker not in _NO_BODY:
            end = at + int.from_bytes(data[at : at + 2])
            yield marker, at - 2, end
            at = end


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Yield a PNG's critical chunks, and its transparency and EXIF if their checksums are right."""
    at = len(PNG)
    for _ in range(_MAX_SEGMENTS):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        if name[:1].isupper() or (name in (b"tRNS", b"eXIf") and _is_intact(data[at + 4 : end])):
            yield data[at:end]
        at = end
        if at >= len(data):
            return


def _is_intact(chunk: bytes) -> bool:
    """Return whether the checksum that follows a chunk's name and contents is right."""
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:])


def tag_bytes(data: bytes) -> int:
    """Return how many bytes the first directory of a TIFF refers to; 0 for other files.

    Several tags may refer to the same bytes, so a small file can hold a huge directory. Pillow keeps
    one value for each tag.
    """
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return 0
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    at, wide, narrow = (8, 8, 8) if b"+" in data[2:4] else (4, 4, 2)  # BigTIFF, TIFF
    start = int.from_bytes(data[at : at + wide], order)
    stated = int.from_bytes(data[start : start + narrow], order)
    kind = np.dtype([("tag", "u2"), ("type", "u2"), ("count", f"u{wide}"), ("value", f"u{wide}")])
    entry = kind.newbyteorder("<" if order == "little" else ">")
    fitting = max(len(data) - start - narrow, 0) // entry.itemsize
    entries = (
        np.frombuffer(data, entry, min(stated, fitting), start + narrow) if fitting else np.empty(0, entry)
    )
    units = _UNITS[np.minimum(entries["type"], len(_UNITS) - 1)]
    counts = np.minimum(entries["count"], len(data)).astype(np.uint64)
    sizes = np.minimum(counts * units, len(data))
    largest = np.zeros(2**16, dtype=np.uint64)
    np.maximum.at(largest, entries["tag"], sizes)
    return int(largest.sum())
