"""Sets of images: a folder, a list, a tar, arrays, or a set that torchvision knows.

An image set goes to the data workers, so it is small: names are one block of bytes and an array of offsets,
pixels stay on disk.
"""

import bisect
import contextlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage, decode
from siam.data.demo import demo_images
from siam.errors import DataError
from siam.settings import near

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
KNOWN_SETS = ("demo", "cifar10", "cifar100", "stl10")

_TRAIN, _VAL = ("train",), ("val", "test", "valid", "validation")


class Images(Protocol):
    """A set of images, in a fixed order."""

    name: str
    """What the user calls it."""
    labels: NDArray[np.int64] | None
    """A class for each image, where class folders or label arrays give one."""
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def path(self, i: int) -> str:
        """The name of image i within the set."""

    def read(self, i: int) -> Tensor:
        """uint8 (3, H, W). Raises BrokenImage."""


@dataclass(frozen=True)
class ImageSets:
    """What a source of images holds."""

    train: Images
    val: Images | None


def open_images(data: str | Path | None) -> ImageSets:
    """Find out what `data` is, and index it. Raises DataError: not there, no images, only one, unreadable."""
    name = "demo" if data is None else str(data)
    path = Path(name)
    if name in KNOWN_SETS and not path.exists():
        sets = _known(name)
    elif path.is_dir():
        sets = _split(name, _walk(path), lambda names: FolderImages(name, path, names))
    elif path.suffix == ".tar" and path.is_file():
        members = _tar_members(path)
        sets = _split(name, list(members), lambda names: TarImages(name, path, names, members))
    elif path.suffix in (".npy", ".npz") and path.is_file():
        sets = _arrays(name, path)
    elif path.suffix == ".txt" and path.is_file():
        sets = _listed(name, path)
    else:
        raise DataError(_not_there(name, path))
    if len(sets.train) < 2:
        raise DataError(f"{name} has only one image: learning needs at least 2")
    return sets


class Names:
    """Many strings in little memory: one block of bytes and where each begins."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(name) for name in encoded], out=self.offsets[1:])
        self.block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.block[self.offsets[i] : self.offsets[i + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class FolderImages:
    """Image files below a folder; labels where every one lies in a class folder."""

    def __init__(self, name: str, root: Path, names: list[str]) -> None:
        self.name, self.root = name, root
        self.names = Names(names)
        self.classes, self.labels = _class_folders(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> Tensor:
        try:
            data = (self.root / self.names[i]).read_bytes()
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be opened") from None
        return decode(data)


class TarImages:
    """Image files within a tar, read in place."""

    def __init__(self, name: str, file: Path, names: list[str], members: dict[str, tuple[int, int]]) -> None:
        self.name, self.file = name, file
        self.names = Names(names)
        self.classes, self.labels = _class_folders(names)
        self.spans = np.array([members[n] for n in names], dtype=np.int64)  # offset and size in bytes

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> Tensor:
        offset, size = (int(v) for v in self.spans[i])
        with self.file.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise BrokenImage("the tar ends within it")
        return decode(data)


class ArrayImages:
    """Images of one size in an array: uint8 (N, H, W, 3). split: a folder to put before their names."""

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        classes: Iterable[str],
        split: str = "",
    ) -> None:
        self.name, self.images, self.labels, self.classes = name, images, labels, tuple(classes)
        self.prefix = f"{split}/" if split else ""

    def __len__(self) -> int:
        return len(self.images)

    def path(self, i: int) -> str:
        folder = f"{self.classes[self.labels[i]]}/" if self.labels is not None else ""
        return f"{self.prefix}{folder}{i:06d}"

    def read(self, i: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[i])).permute(2, 0, 1)


def _walk(root: Path) -> list[str]:
    """Names of all image files below `root`, sorted; hidden ones and links to folders are passed over."""
    found: list[str] = []
    try:
        folders = [("", os.scandir(root))]
        while folders:
            prefix, entries = folders.pop()
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((f"{prefix}{entry.name}/", os.scandir(entry.path)))
                    elif entry.name.lower().endswith(ENDINGS):
                        found.append(prefix + entry.name)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    found.sort()
    return found


def _tar_members(file: Path) -> dict[str, tuple[int, int]]:
    """Where each image lies in the tar. A damaged tail costs only what lies behind the damage."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(file, "r:") as tar, contextlib.suppress(tarfile.ReadError):  # it may end early
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]
                name = member.name.removeprefix("./")
                hidden = any(part.startswith(".") for part in name.split("/"))  # which leaves out ".." too
                if member.isfile() and not hidden and name.lower().endswith(ENDINGS):
                    members[name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{file} cannot be read as a tar: {error}") from None
    return dict(sorted(members.items()))


def _split(name: str, names: list[str], build: Any) -> ImageSets:
    """train/ and val/ apart where the names have them, below one common folder or none."""
    if not names:
        raise DataError(f"no images in {name}: looked for {' '.join(ENDINGS)}")
    top = names[0].split("/")[0] + "/"
    inner = (
        len(top)
        if "/" in names[0] and names[-1].startswith(top) and all(n.startswith(top) for n in names)
        else 0
    )
    if top.rstrip("/") in _TRAIN:
        inner = 0
    parts = sorted({n[inner:].split("/")[0] for n in names if "/" in n[inner:]})
    train = next((part for part in parts if part in _TRAIN), None)
    if train is None:
        return ImageSets(build(names), None)
    val = next((part for split in _VAL for part in parts if part == split), None)
    sets = [build([n for n in names if n[inner:].startswith(f"{part}/")]) for part in (train, val) if part]
    if len(sets) == 2:
        _align_classes(name, sets[0], sets[1])
    return ImageSets(sets[0], sets[1] if len(sets) == 2 else None)


def _align_classes(name: str, train: Any, val: Any) -> None:
    """Let labels of both index the classes of train."""
    if train.labels is None or val.labels is None:
        train.labels, val.labels, train.classes, val.classes = None, None, (), ()
        return
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        raise DataError(
            f"{name}: classes of the validation images are missing in train: {', '.join(unknown[:5])}"
        )
    place = np.array([bisect.bisect_left(train.classes, c) for c in val.classes], dtype=np.int64)
    val.labels, val.classes = place[val.labels], train.classes


def _class_folders(names: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Classes and labels, if every image lies in one of several folders that hold nothing but images.

    The class is the last folder; all folders must be equally deep and share everything above it.
    """
    folders = [n.rpartition("/")[0] for n in names]
    distinct = sorted(set(folders))
    parents = {folder.rpartition("/")[0] for folder in distinct}
    if len(distinct) < 2 or len(parents) != 1 or any(f in parents for f in distinct):
        return (), None
    index = {folder: i for i, folder in enumerate(distinct)}
    labels = np.fromiter((index[f] for f in folders), dtype=np.int64, count=len(folders))
    return tuple(folder.rpartition("/")[2] for folder in distinct), labels


def _arrays(name: str, path: Path) -> ImageSets:
    """A .npy of images, or a .npz with `images`, perhaps `labels`, `val_images`, `val_labels`."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if path.suffix == ".npy":
            return ImageSets(_array_set(name, loaded, None, ""), None)
        arrays = dict(loaded)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{name} cannot be read: {str(error).splitlines()[0]}") from None
    if "images" not in arrays:
        raise DataError(f"{name} has no array 'images', only {', '.join(sorted(arrays)) or 'nothing'}")
    if "val_images" not in arrays:
        return ImageSets(_array_set(name, arrays["images"], arrays.get("labels"), ""), None)
    train = _array_set(name, arrays["images"], arrays.get("labels"), "train")
    return ImageSets(train, _array_set(name, arrays["val_images"], arrays.get("val_labels"), "val"))


def _array_set(name: str, images: NDArray[Any], labels: NDArray[Any] | None, split: str) -> ArrayImages:
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise DataError(
            f"{name}: images must be uint8 (N, H, W, 3) or (N, H, W), got {images.dtype} {images.shape}"
        )
    if labels is not None and (labels.shape != (len(images),) or labels.min(initial=0) < 0):
        raise DataError(f"{name}: labels must be {len(images)} numbers from 0, got shape {labels.shape}")
    classes = () if labels is None else tuple(str(c) for c in range(int(labels.max()) + 1))
    return ArrayImages(name, images, None if labels is None else labels.astype(np.int64), classes, split)


def _listed(name: str, path: Path) -> ImageSets:
    """A text file: one path a line, relative to it, perhaps a tab and a label."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    names = [row[0] for row in rows]
    outside = [n for n in names if ".." in Path(n).parts]
    if outside:
        raise DataError(f"{name}: {outside[0]} leaves the list's folder; write it as an absolute path")
    if not names:
        raise DataError(f"no images in {name}: the list is empty")
    images = FolderImages(name, path.parent, names)
    images.classes, images.labels = (), None
    if all(len(row) == 2 for row in rows):
        images.classes = tuple(sorted({row[1] for row in rows}))
        images.labels = np.array([bisect.bisect_left(images.classes, row[1]) for row in rows], dtype=np.int64)
    return ImageSets(images, None)


def _known(name: str) -> ImageSets:
    """The demo set, or one that torchvision downloads to SIAM_DATASETS (by default ~/.cache/siam)."""
    if name == "demo":
        train, test = (ArrayImages("demo", *demo_images(split), split) for split in ("train", "test"))
        return ImageSets(train, test)
    from torchvision import datasets

    root = Path(os.environ.get("SIAM_DATASETS", Path.home() / ".cache" / "siam"))

    def get(**split: Any) -> Any:
        kind: Any = getattr(datasets, name.upper())
        try:
            return kind(root, download=False, **split)
        except RuntimeError:
            pass
        try:
            return kind(root, download=True, **split)
        except Exception as error:
            raise DataError(
                f"{name} is not in {root} and cannot be downloaded ({error}); put it there"
            ) from None

    if name == "stl10":
        train, val = get(split="train+unlabeled"), get(split="test")
        return ImageSets(
            ArrayImages(name, train.data.transpose(0, 2, 3, 1), None, (), "train"),
            ArrayImages(name, val.data.transpose(0, 2, 3, 1), None, (), "test"),
        )
    train, test = (
        ArrayImages(name, part.data, np.array(part.targets, dtype=np.int64), part.classes, split)
        for split, part in (("train", get(train=True)), ("test", get(train=False)))
    )
    return ImageSets(train, test)


def _not_there(name: str, path: Path) -> str:
    if path.suffix in (".xz", ".gz", ".bz2", ".zst", ".tgz", ".zip"):
        return f"{name} is compressed and cannot be read in any order: unpack it, and give the folder"
    if path.exists():
        known = ", ".join(KNOWN_SETS)
        return f"cannot tell what {name} is: give a folder, a .tar, .npy, .npz or .txt list, or {known}"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = near(path.name, [*siblings, *KNOWN_SETS] if path.parent == Path() else siblings)
    return f"there is no folder or file {name}{hint}"
