"""Writing a set of images as WebDataset shards: tars of a size that suits streaming from afar."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from siam.data.decode import BrokenImage
from siam.data.images import Images
from siam.data.patterns import IMAGE_SUFFIXES
from siam.data.sources import open_images
from siam.data.sources.shards import INDEX
from siam.errors import DataError, SettingsError
from siam.system.files import write_atomically

_STARTS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
"""How files of some formats begin."""


def shard(
    data: str | Path,
    out: str | Path,
    size: str = "512MB",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the encoded images of `data`, as they are and in their order, to OUT/train-000000.tar ...

    A member is named as the image is in the set, with its class beside it in a .cls where there are classes.
    Images that cannot be read are left out. Returns what was written. Raises SiamError.
    """
    limit, folder = bytes_of(size), Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty: choose another --out")
    sets = open_images(data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries, unreadable = [], 0
        for split, images in (("train", sets.train), ("val", sets.val)):
            if images is not None:
                written, lost = _write(images, split, folder, limit, progress)
                entries += written
                unreadable += lost
        index = {"wids_version": 1, "name": str(data), "shardlist": entries}
        text = json.dumps(index, indent=1)
        write_atomically(folder / INDEX, lambda file: file.write(text.encode()))
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror or error}") from None
    total = sum(entry["nsamples"] for entry in entries)
    return {"out": str(folder), "images": total, "unreadable": unreadable, "shards": len(entries)}


def _write(
    images: Images, split: str, folder: Path, limit: int, progress: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], int]:
    """Entries of the index, and how many images were left out."""
    entries: list[dict[str, Any]] = []
    lost = 0
    waiting: list[tuple[str, bytes, int | None]] = []
    weight = 0

    def flush() -> None:
        nonlocal waiting, weight
        if waiting:
            file = folder / f"{split}-{len(entries):06d}.tar"
            samples = waiting
            write_atomically(file, lambda opened: _write_tar(opened, samples))
            entries.append({"url": file.name, "nsamples": len(waiting), "filesize": file.stat().st_size})
        waiting, weight = [], 0

    for i in range(len(images)):
        data = _encoded(images, i)
        if data is None:
            lost += 1
            continue
        taken = len(data) + 2048  # a header, the rest of a block, perhaps a .cls
        if waiting and weight + taken > limit:
            flush()
        label = None if images.labels is None else int(images.labels[i])
        waiting.append((_member(images.path(i), i, data), data, label))
        weight += taken
        progress(i + 1, len(images))
    flush()
    return entries, lost


def _encoded(images: Images, i: int) -> bytes | None:
    """The image's file as it is; a PNG of what has none. None where it cannot be read."""
    encoded: Callable[[int], bytes] | None = getattr(images, "encoded", None)
    try:
        return encoded(i) if encoded is not None else _png(images.read(i))
    except BrokenImage:
        return None


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


def _member(path: str, number: int, data: bytes) -> str:
    """The image's name in a shard: a WebDataset key ends at the first dot of the file's name."""
    folder, slash, base = path.rpartition("/")
    stem, _, ending = base.rpartition(".")
    if f".{ending.lower()}" not in IMAGE_SUFFIXES:
        kinds = (
            (b"\xff\xd8", "jpg"),
            (b"\x89PNG", "png"),
            (b"RIFF", "webp"),
            (b"GIF8", "gif"),
            (b"BM", "bmp"),
        )
        stem, ending = base, next((kind for start, kind in kinds if data.startswith(start)), "tif")
    key = re.sub(r"[.#]", "_", stem)
    if path.startswith("/") or ".." in folder.split("/"):
        folder, slash, key = "", "", f"{number:09d}"
    return f"{folder}{slash}{key}.{ending}"


def _write_tar(file: BinaryIO, samples: list[tuple[str, bytes, int | None]]) -> None:
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
    """`512MB`, `1.5GB`, `100kB` in bytes. Raises SettingsError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG])B\s*", size)
    if found is None or not float(found[1]):
        raise SettingsError(f"size must be like 512MB or 2GB, got '{size}'")
    return int(float(found[1]) * {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}[found[2]])
