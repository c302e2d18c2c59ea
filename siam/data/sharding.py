"""`siam shard`: convert an image dataset to WebDataset shards (tar files)."""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from siam.data.decode import BrokenImage
from siam.data.images import UNLABELED, Images
from siam.data.kinds import IMAGE_SUFFIXES, is_side_folder
from siam.data.photographs import suffix_of
from siam.data.sources import open_images
from siam.data.sources.shards import CLASSES, INDEX
from siam.data.unreadable import Unreadable
from siam.errors import DataError, SettingsError
from siam.system.files import ELSEWHERE, make_folder, write_atomically, writing

_Sample = tuple[str, bytes, int | None]
"""Name in the shard, encoded image, and label."""


def shard(
    data: str | Path,
    out: str | Path,
    size: str = "512MB",
    progress: Callable[[int, int], None] = lambda done, total: None,
    announce: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Copy images to WebDataset shards in `out`: train-000000.tar and so on.

    Encoded images are copied unchanged and in order; images from arrays are encoded as
    PNG. Each image keeps its name, unless two would have the same key. Its class index,
    if any, is stored in a .cls file with the same stem, and the class names in
    index.json. Unreadable images are skipped. size: maximum shard size, such as "512MB".
    progress: called with the number of images processed and the total. announce: called
    with each line on what was found. Returns the output folder and the numbers of images,
    unreadable images and shards. Raises SiamError.
    """
    limit, folder = bytes_of(size), Path(out).expanduser()
    if folder.suffix == ".tar" or folder.is_file():
        raise SettingsError(f"--out is a folder of shards, got {folder}: choose a folder")
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty: choose another --out")
    sets = open_images(data)
    for line in sets.lines():
        announce(line)
    with writing(folder, ELSEWHERE), make_folder(folder), _removed_on_error(folder):
        entries, unreadable = [], Unreadable()
        for split, images in (("train", sets.train), ("val", sets.val)):
            if images is not None:
                entries += _write(images, split, folder, limit, progress, unreadable)
        index = {"wids_version": 1, "name": str(data), "shardlist": entries}
        if sets.train.classes:
            index[CLASSES] = sets.train.classes
        text = json.dumps(index, indent=1)
        write_atomically(folder / INDEX, lambda file: file.write(text.encode()))
    if unreadable:
        announce(f"left out, because they cannot be read: {unreadable.first_few()}")
    total = sum(entry["nsamples"] for entry in entries)
    return {"out": str(folder), "images": total, "unreadable": len(unreadable), "shards": len(entries)}


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """Remove the shards if not all of them could be written: a part would pass for the whole."""
    try:
        yield
    except BaseException:
        for split in ("train", "val"):
            for file in folder.glob(f"{split}-??????.tar"):
                file.unlink()
        raise


def _write(
    images: Images,
    split: str,
    folder: Path,
    limit: int,
    progress: Callable[[int, int], None],
    unreadable: Unreadable,
) -> list[dict[str, Any]]:
    """Write the images of one split as shards, and return the shards' index entries.

    unreadable: dict to fill with the images that are skipped.
    """
    entries: list[dict[str, Any]] = []
    size = 0
    pending: list[_Sample] = []
    keys = _Keys()
    for i in range(len(images)):
        try:
            data = _file_of(images, i)
        except BrokenImage as error:
            unreadable[images.path(i)] = error.reason
            continue
        added = len(data) + 2048  # header, padding, and possibly a .cls file
        if pending and size + added > limit:
            entries.append(_write_shard(folder / f"{split}-{len(entries):06d}.tar", pending))
            pending, size = [], 0
        label = None if images.labels is None or images.labels[i] == UNLABELED else int(images.labels[i])
        pending.append((keys.member(images.path(i), i, data), data, label))
        size += added
        progress(i + 1, len(images))
    if pending:
        entries.append(_write_shard(folder / f"{split}-{len(entries):06d}.tar", pending))
    return entries


def _file_of(images: Images, i: int) -> bytes:
    """Return image i's encoded bytes; images from arrays are encoded as PNG. Raises BrokenImage."""
    data = images.encoded(i)
    return _png(images.read(i)) if data is None else data


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


class _Keys:
    """Names images within shards so that no two have the same WebDataset key."""

    def __init__(self) -> None:
        self._taken: set[int] = set()  # hashes, which are smaller than millions of names

    def member(self, path: str, number: int, data: bytes) -> str:
        """Return the name of an image within a shard.

        Dots in the stem are replaced, because WebDataset keys end at the first dot. A key
        that is taken gets the image's number. Names that extraction or a reader would
        refuse (absolute, with .., hidden or empty) are replaced by the number.
        """
        folder, slash, base = path.rpartition("/")
        stem, _, ending = base.rpartition(".")
        if f".{ending.lower()}" not in IMAGE_SUFFIXES:
            stem, ending = base, suffix_of(data) or "tif"
        key = re.sub(r"[.#]", "_", stem)
        is_refused = slash and any(not part or is_side_folder(part) for part in folder.split("/"))
        if is_refused or not key or "\0" in path:
            folder, slash, key = "", "", f"{number:09d}"
        while hash(folder + slash + key) in self._taken:
            key += f"-{number}"
        self._taken.add(hash(folder + slash + key))
        return f"{folder}{slash}{key}.{ending}"


def _write_shard(file: Path, samples: list[_Sample]) -> dict[str, Any]:
    """Write one shard and return its index entry."""
    write_atomically(file, lambda opened: _write_tar(opened, samples))
    return {"url": file.name, "nsamples": len(samples), "filesize": file.stat().st_size}


def _write_tar(file: BinaryIO, samples: list[_Sample]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data, label in samples:
            _add(tar, name, data)
            if label is not None:
                _add(tar, f"{name.rpartition('.')[0]}.cls", str(label).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def bytes_of(size: str) -> int:
    """Convert a size such as `512MB`, `1.5GB` or `100kB` to bytes. Raises SettingsError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG])B\s*", size)
    if found is None or not float(found[1]):
        raise SettingsError(f"size must look like 512MB or 2GB, got '{size}'")
    return int(float(found[1]) * {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}[found[2]])
