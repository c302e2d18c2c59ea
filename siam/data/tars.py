"""List the images in a tar file, and read them in place."""

import contextlib
import os
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.data.decode import BrokenImage
from siam.data.kinds import HIDDEN, OUTSIDE, Reason, is_image, is_side_folder, reason
from siam.data.label_values import Value
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings
from siam.data.samples import LARGEST_LABEL, TarMembers, label_in, split_key
from siam.errors import DataError
from siam.system.files import regular

REPLACED = "image with the name of a later one", "images with the names of later ones"
"""The reason to leave out an image in a tar: extraction would overwrite it."""


def tar_members(file: Path, left_out: LeftOut | None = None) -> TarMembers:
    """List the images in a tar file, sorted by name, with the labels stored next to them.

    left_out: account of other members, and of images that later ones of the same name
    replace. If the file is corrupt, only the images before the corrupt part are
    returned. Raises DataError if the file is not a tar.
    """
    rows: dict[str, int] = {}  # of duplicate names, the last wins, as in extraction
    spans = array("q")
    labels: dict[str, Value] = {}  # other members without their suffixes
    complaint = ""
    left_out = LeftOut() if left_out is None else left_out
    try:
        with tarfile.open(regular(file), "r:") as tar:
            for member in _until_damage(tar):
                tar.members.clear()  # type: ignore[attr-defined]
                name = member.name.removeprefix("./")
                why = _why_not(member, name)
                if why is None:
                    if name in rows:
                        left_out.add(REPLACED, [name])
                    rows[name] = len(spans) // 2
                    spans.extend((member.offset_data, member.size))
                elif why:
                    left_out.add(why, [name])
                else:
                    _take_label(tar, member, name, labels)
            end = tar.offset
        with file.open("rb") as opened:
            opened.seek(end)
            if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # an intact tar ends with zeros
                complaint = (
                    f"corrupt or truncated: only the images before the corrupt part are used ({len(rows)})"
                )
    except (tarfile.TarError, OSError, MemoryError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read as a tar ({error}); if it is compressed, decompress it first"
        ) from None
    names = sorted(rows)
    order = np.fromiter((rows[name] for name in names), dtype=np.int64, count=len(names))
    found = [_label_of(name, labels) for name in names]
    return TarMembers(
        PackedStrings(names),
        np.array(spans, dtype=np.int64).reshape(-1, 2)[order],
        [None if label is _ABSENT else label for label in found],
        complaint,
        is_webdataset=any(label is not _ABSENT for label in found),
    )


def _take_label(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, labels: dict[str, Value]) -> None:
    """Record a member that is no image, and its label if it is a .cls or .json; .cls takes precedence."""
    stem, _, suffix = name.rpartition(".")
    if not (member.isfile() and not member.issparse() and stem):
        return
    label = labels.setdefault(stem, None)
    largest = LARGEST_LABEL.get(suffix.lower(), -1)
    if 0 <= member.size <= largest and (suffix.lower() == "cls" or label is None):
        tar.fileobj.seek(member.offset_data)
        found = label_in(suffix.lower(), tar.fileobj.read(member.size))
        labels[stem] = label if found is None else found


def _label_of(name: str, labels: dict[str, Value]) -> Any:
    """Return the label of an image; _ABSENT if no other member belongs to its sample."""
    return labels.get(name.rpartition(".")[0], labels.get(split_key(name)[0], _ABSENT))


_ABSENT = object()


def _until_damage(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    # Headers of long names claim sizes of their own, which tarfile believes.
    with contextlib.suppress(tarfile.ReadError, MemoryError, OverflowError, ValueError):
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
