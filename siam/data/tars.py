"""List the images in a tar file, and read them in place."""

import contextlib
import os
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siam.data.decode import BrokenImage
from siam.data.kinds import HIDDEN, OUTSIDE, Reason, is_image, is_side_folder, reason
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings
from siam.errors import DataError
from siam.system.files import regular


def tar_members(file: Path, left_out: LeftOut | None = None) -> tuple[PackedStrings, NDArray[np.int64], str]:
    """List the images in a tar file; record other members in `left_out`.

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
                why = _why_not(member, name)
                if why is None:
                    rows[name] = len(spans) // 2
                    spans.extend((member.offset_data, member.size))
                elif why and left_out is not None:
                    left_out.add(why, [name])
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


def _why_not(member: tarfile.TarInfo, name: str) -> Reason | tuple[()] | None:
    """Return None for an image, the reason to leave out another member, or () if there is no need to say."""
    *folders, base = name.split("/")
    if not (member.isfile() and not member.issparse()):
        return ()
    if name.startswith("/") or ".." in folders:
        return OUTSIDE
    if any(map(is_side_folder, folders)):
        return HIDDEN
    return None if is_image(base) else reason(base) or ()


def read_member(file: Path, span: NDArray[np.int64], until: int | None = None) -> bytes:
    """Read an image's bytes from a tar file. Raises BrokenImage.

    span: byte offset and size. until: index of the first image in the next shard.
    """
    offset, size = span.tolist()
    try:
        with regular(file).open("rb") as opened:
            if opened.seek(0, os.SEEK_END) < offset + size:  # before memory for `size` is asked for
                raise BrokenImage(f"{file.name} is truncated", until)
            opened.seek(offset)
            return opened.read(size)
    except OSError as error:
        raise BrokenImage(f"{file.name}: {error.strerror or 'cannot be opened'}", until) from None
