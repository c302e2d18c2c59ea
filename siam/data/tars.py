"""List the images in a tar file, and read them in place."""

import contextlib
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siam.data.decode import BrokenImage
from siam.data.packed import PackedStrings
from siam.data.patterns import IMAGE_SUFFIXES
from siam.errors import DataError
from siam.system.files import regular


def tar_members(file: Path) -> tuple[PackedStrings, NDArray[np.int64], str]:
    """List the images in a tar file.

    Returns their sorted names, their byte offsets and sizes (N, 2), and a warning. If
    the file is corrupt, only the images before the corrupt part are returned, and the
    warning says so; otherwise, the warning is "". Raises DataError if the file is not a
    tar.
    """
    rows: dict[str, int] = {}  # of duplicate names, the last wins, as in extraction
    spans = array("q")
    complaint = ""
    try:
        with tarfile.open(regular(file), "r:") as tar:
            for member in _until_damage(tar):
                tar.members.clear()  # type: ignore[attr-defined]
                name = member.name.removeprefix("./")
                if _is_image(member, name):
                    rows[name] = len(spans) // 2
                    spans.extend((member.offset_data, member.size))
            end = tar.offset
        with file.open("rb") as opened:
            opened.seek(end)
            if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # an intact tar ends with zeros
                complaint = (
                    f"corrupt or truncated: only the images before the corrupt part are used ({len(rows)})"
                )
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{file} cannot be read as a tar ({error}); if it is compressed, decompress it first"
        ) from None
    names = sorted(rows)
    order = np.fromiter((rows[name] for name in names), dtype=np.int64, count=len(names))
    return PackedStrings(names), np.array(spans, dtype=np.int64).reshape(-1, 2)[order], complaint


def _until_damage(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    with contextlib.suppress(tarfile.ReadError):
        yield from tar


def _is_image(member: tarfile.TarInfo, name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))  # also rules out ".."
    plain = member.isfile() and not member.issparse() and not name.startswith("/")
    return plain and not hidden and name.lower().endswith(IMAGE_SUFFIXES)


def read_member(file: Path, span: NDArray[np.int64], until: int | None = None) -> bytes:
    """Read an image's bytes from a tar file. Raises BrokenImage.

    span: byte offset and size. until: index of the first image in the next shard.
    """
    offset, size = span.tolist()
    try:
        with regular(file).open("rb") as opened:
            opened.seek(offset)
            data = opened.read(size)
    except OSError as error:
        raise BrokenImage(f"{file.name}: {error.strerror or 'cannot be opened'}", until) from None
    if len(data) < size:
        raise BrokenImage(f"{file.name} is truncated", until)
    return data
