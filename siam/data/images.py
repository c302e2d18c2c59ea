"""Sets of images: a folder, a list, a tar, shards, Parquet, arrays, or a set that torchvision knows.

An image set goes to the data workers, so it is small: names are one block of bytes and an array of offsets,
pixels stay on disk.
"""

import bisect
import contextlib
import itertools
import os
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage, Shrink, decode
from siam.data.patterns import IMAGE_SUFFIXES, TRAIN, VAL
from siam.errors import DataError


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

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        """uint8 (3, H, W), smaller where `shrink` allows it and that saves time. Raises BrokenImage."""


@dataclass(frozen=True)
class ImageSets:
    """What a source of images holds."""

    train: Images
    val: Images | None
    lost: dict[str, str] = field(default_factory=dict)
    """Files of the set of which all or some images are lost, and why."""
    left_out: str = ""
    """A sentence about images that are in neither; "" where there are none."""


class PackedStrings:
    """Many strings in little memory: one block of bytes and where each begins."""

    def __init__(self, names: Iterable[str]) -> None:
        self.block, offsets = bytearray(), array("q", [0])
        for name in names:  # one by one: millions of strings at a time would take gigabytes
            self.block += name.encode("utf-8", "surrogateescape")
            offsets.append(len(self.block))
        self.offsets = np.array(offsets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.block[self.offsets[i] : self.offsets[i + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        ends = memoryview(self.offsets)  # type: ignore[arg-type]
        for first, last in itertools.pairwise(ends):
            yield self.block[first:last].decode("utf-8", "surrogateescape")

    def part(self, part: range) -> "PackedStrings":
        """Those in a range of neighbours, as packed strings of their own."""
        if len(part) == len(self):
            return self
        some = PackedStrings(())
        first, last = self.offsets[part.start], self.offsets[part.stop]
        some.block, some.offsets = self.block[first:last], self.offsets[part.start : part.stop + 1] - first
        return some

    def below(self, folder: str) -> range:
        """Where the names that begin with `folder`, which ends in "/", lie among sorted names."""
        return range(bisect.bisect_left(self, folder), bisect.bisect_left(self, folder[:-1] + "0"))


class FolderImages:
    """Image files below a folder; labels where every one lies in a class folder."""

    def __init__(self, name: str, root: Path, names: PackedStrings) -> None:
        self.name, self.root, self.names = name, root, names
        self.classes, self.labels = class_folders(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        return decode(self.encoded(i), shrink)

    def encoded(self, i: int) -> bytes:
        """The file's bytes. Raises BrokenImage."""
        try:
            return (self.root / self.names[i]).read_bytes()
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be opened") from None


class TarImages:
    """Image files within a tar, read in place."""

    def __init__(self, name: str, file: Path, names: PackedStrings, spans: NDArray[np.int64]) -> None:
        """spans: where each image begins and its size, in bytes (N, 2)."""
        self.name, self.file, self.names, self.spans = name, file, names, spans
        self.classes, self.labels = class_folders(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        return decode(self.encoded(i), shrink)

    def encoded(self, i: int) -> bytes:
        """The file's bytes. Raises BrokenImage."""
        offset, size = self.spans[i].tolist()
        try:
            with self.file.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise BrokenImage(error.strerror or "the tar cannot be opened") from None
        if len(data) < size:
            raise BrokenImage("the tar ends within it")
        return data


def _walk(root: Path) -> Iterator[str]:
    """Names of all image files below `root`, sorted; hidden ones and links to folders are passed over."""
    waiting = [""]  # a name that ends in "/" is a folder, and so sorts where its files do
    try:
        while waiting:
            name = waiting.pop()
            if name and not name.endswith("/"):
                yield name
                continue
            with os.scandir(root / name) as entries:
                found = [name + entry for entry in map(_entry, entries) if entry]
            found.sort(reverse=True)
            waiting += found
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _entry(entry: os.DirEntry[str]) -> str:
    """The name of an image, of a folder with "/" behind it, or "" for what is neither."""
    if entry.name.startswith("."):
        return ""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    # a link that leads nowhere is a broken image, to be listed; a pipe would be waited for without end
    wanted = entry.name.lower().endswith(IMAGE_SUFFIXES) and (entry.is_symlink() or entry.is_file())
    return entry.name if wanted else ""


def tar_members(file: Path) -> tuple[PackedStrings, NDArray[np.int64], str]:
    """Sorted names of the images in a tar, and where each lies: offset and size in bytes (N, 2).

    A damaged tail costs only what lies behind the damage; the last value says so, "" where all is well.
    Raises DataError for what is no tar.
    """
    rows: dict[str, int] = {}  # of two members with one name the later counts, as when unpacking
    spans = array("q")
    complaint = ""
    try:
        with tarfile.open(file, "r:") as tar:
            for member in _until_damage(tar):
                tar.members.clear()  # type: ignore[attr-defined]
                name = member.name.removeprefix("./")
                hidden = any(part.startswith(".") for part in name.split("/"))  # which leaves out ".." too
                plain = member.isfile() and not member.issparse() and not name.startswith("/")
                if plain and not hidden and name.lower().endswith(IMAGE_SUFFIXES):
                    rows[name] = len(spans) // 2
                    spans.extend((member.offset_data, member.size))
            end = tar.offset
        with file.open("rb") as opened:
            opened.seek(end)
            if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # a whole tar ends in such blocks
                complaint = f"damaged or cut off: only what lies before that is used (images: {len(rows)})"
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{file} cannot be read as a tar ({error}); if it is compressed, unpack it to a plain .tar first"
        ) from None
    names = sorted(rows)
    order = np.fromiter((rows[name] for name in names), dtype=np.int64, count=len(names))
    return PackedStrings(names), np.array(spans, dtype=np.int64).reshape(-1, 2)[order], complaint


def _until_damage(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    with contextlib.suppress(tarfile.ReadError):
        yield from tar


def _split(
    name: str, names: PackedStrings, build: Callable[[range], "FolderImages | TarImages"]
) -> ImageSets:
    """train/ and val/ apart where the sorted names have them, below one common folder or none.

    build: makes the set of a range of the names.
    """
    if not len(names):
        raise DataError(f"no images in {name}: looked for {' '.join(IMAGE_SUFFIXES)}")
    first, slash, _ = names[0].partition("/")
    shared = slash and names[len(names) - 1].startswith(first + slash) and first not in TRAIN
    above = first + slash if shared else ""
    train, val = (_first_below(names, above, folders) for folders in (TRAIN, VAL))
    if not train or not val:
        everything = build(range(len(names)))
        # train/ alone holds the images, unless it is one among class folders: cars, planes, trains
        if not train or everything.labels is not None:
            return ImageSets(everything, None)
        return ImageSets(build(train), None, left_out=_left_out(names, above, train))
    both = build(train), build(val)
    align_classes(name, *both)
    return ImageSets(*both, left_out=_left_out(names, above, train, val))


def _left_out(names: PackedStrings, above: str, *parts: range) -> str:
    """How many images lie beside the folders of these parts, as a sentence; "" where none do."""
    count = len(names) - sum(map(len, parts))
    folders = (names[part.start].removeprefix(above).partition("/")[0] + "/" for part in parts)
    images = "1 image is" if count == 1 else f"{count:,} images are"
    return f"{images} left out, outside {' and '.join(folders)}" if count else ""


def _first_below(names: PackedStrings, above: str, folders: Iterable[str]) -> range:
    """Where the images of the first of `folders` that has any lie."""
    ranges = (names.below(f"{above}{folder}/") for folder in folders)
    return next((part for part in ranges if part), range(0))


def align_classes(name: str, train: Images, val: Images) -> None:
    """Let the labels of both index the classes of train; where one has none, neither does the other."""
    if train.labels is None or val.labels is None:
        for images in (train, val):
            images.labels, images.classes = None, ()
        return
    place = {c: i for i, c in enumerate(train.classes)}
    unknown = [c for c in val.classes if c not in place]
    if unknown:
        raise DataError(
            f"{name}: classes of the validation images are missing in train: {', '.join(unknown[:5])}; give "
            "both the same class folders, or only the images to train on"
        )
    val.labels = np.array([place[c] for c in val.classes], dtype=np.int64)[val.labels]
    val.classes = train.classes


def class_folders(names: PackedStrings) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Classes and labels, if every image lies in one of several folders that hold nothing but images.

    The class is the last folder; all folders must be equally deep and share everything above it.
    """
    found: dict[str, int] = {}
    folders = (name.rpartition("/")[0] for name in names)
    labels = np.fromiter((found.setdefault(f, len(found)) for f in folders), dtype=np.int64, count=len(names))
    parents = {folder.rpartition("/")[0] for folder in found}
    if len(found) < 2 or len(parents) != 1 or parents & found.keys():
        return (), None
    classes, labels = _sorted_classes(found, labels)
    return tuple(folder.rpartition("/")[2] for folder in classes), labels


def _sorted_classes(
    found: dict[str, int], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Renumber labels in order of appearance into alphabetical order."""
    classes = tuple(sorted(found))
    place = np.empty(len(found), dtype=np.int64)
    place[[found[c] for c in classes]] = np.arange(len(found))
    return classes, place[labels]


def _listed(name: str, path: Path) -> ImageSets:
    """A text file: one path a line, relative to it, perhaps a tab and a label."""
    found: dict[str, int] = {}
    labels = array("q")

    def names() -> Iterator[str]:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line in lines:
                entry, _, label = line.rstrip("\n").partition("\t")
                if not entry.strip():
                    continue
                if ".." in entry and ".." in Path(entry).parts:
                    raise DataError(f"{name}: {entry} leaves the list's folder; write it as an absolute path")
                if label:
                    labels.append(found.setdefault(label, len(found)))
                yield entry

    try:
        images = FolderImages(name, path.parent, PackedStrings(names()))
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}") from None
    if not len(images):
        raise DataError(f"no images in {name}: the list is empty")
    if len(labels) not in (0, len(images)):
        raise DataError(f"{name} has labels on {len(labels)} of {len(images)} lines: give all or none")
    images.classes, images.labels = (), None
    if labels:
        images.classes, images.labels = _sorted_classes(found, np.array(labels, dtype=np.int64))
    return ImageSets(images, None)
