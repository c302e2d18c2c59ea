"""Sets that are many tars: WebDataset shards, on this machine or far away.

Shards here are indexed once and read in place, in any order, as a folder is. Shards behind a URL are fetched
whole, each once an epoch, into a cache on disk of bounded size, and an epoch visits few of them at a time
(see `grouped_order`). A shard that cannot be read costs its own images, and is reported.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siam.data import remote
from siam.data.decode import BrokenImage, Shrink, decode
from siam.data.images import Images, ImageSets, PackedStrings, align_classes, class_folders, tar_members
from siam.data.patterns import split_by_name
from siam.errors import DataError

INDEX = "index.json"
"""Beside shards that `siam shard` wrote: their names and how many images each holds, as in wids."""


class ShardImages:
    """Images in several tars on this machine, in the order in which they are stored."""

    def __init__(self, name: str, files: list[Path], lost: dict[str, str]) -> None:
        """lost: takes the shards that cannot be read, and why."""
        self.name, self.files = name, files
        parts, spans = [], []
        for file in files:
            try:
                names, places, complaint = tar_members(file)
            except DataError:
                names, places = PackedStrings(()), np.empty((0, 2), dtype=np.int64)
                complaint = f"left out, it is {'damaged, or no tar' if file.exists() else 'missing'}"
            if complaint:
                lost[str(file)] = complaint
            stored = np.argsort(places[:, 0], kind="stable")
            parts.append([names[int(i)] for i in stored])
            spans.append(places[stored])
        self.starts = np.cumsum([0, *map(len, parts)])  # of each shard's images
        self.names, self.spans = PackedStrings(name for part in parts for name in part), np.concatenate(spans)
        self.classes, self.labels = class_folders(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        return decode(self.encoded(i), shrink)

    def encoded(self, i: int) -> bytes:
        """The file's bytes. Raises BrokenImage."""
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return _read(self.files[shard], self.spans[i], int(self.starts[shard + 1]))


class RemoteShards:
    """Images in tars behind URLs. Their names are not known before they are read, and they have no labels."""

    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, name: str, urls: list[str], counts: list[int]) -> None:
        """counts: images in each shard."""
        self.name, self.urls = name, urls
        self.groups = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self.groups[-1])

    def path(self, i: int) -> str:
        shard = self._shard(i)
        return f"{self.urls[shard]}#{i - self.groups[shard]}"

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        return decode(self.encoded(i), shrink)

    def encoded(self, i: int) -> bytes:
        """The file's bytes. Raises BrokenImage."""
        shard = self._shard(i)
        until = int(self.groups[shard + 1])
        try:
            file = remote.fetch(self.urls[shard])
            spans = _spans(file)
        except (DataError, OSError) as error:
            raise BrokenImage(str(error), until) from None
        within = i - int(self.groups[shard])
        if within >= len(spans):
            raise BrokenImage("the shard holds fewer images than its index says", until)
        return _read(file, spans[within], until)

    def _shard(self, i: int) -> int:
        return int(np.searchsorted(self.groups, i, side="right")) - 1


@lru_cache(maxsize=64)
def _spans(file: Path) -> NDArray[np.int64]:
    """Where the images of a fetched shard lie, in the order in which they are stored."""
    _, spans, _ = tar_members(file)
    return spans[np.argsort(spans[:, 0], kind="stable")]


def _read(file: Path, span: NDArray[np.int64], until: int) -> bytes:
    offset, size = span.tolist()
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            data = opened.read(size)
    except OSError as error:
        raise BrokenImage(f"{file.name}: {error.strerror or 'cannot be opened'}", until) from None
    if len(data) < size:
        raise BrokenImage(f"{file.name} ends within it", until)
    return data


def open_shards(name: str, places: list[str]) -> ImageSets:
    """Of the paths or URLs of tars; those with `train` and `val` in their names apart. Raises DataError."""
    if not remote.is_remote(places[0]) and Path(name).is_dir():
        listed = (str(Path(name) / known) for known in _index_beside(places[0]))
        places = sorted({*places, *listed})  # one that is gone is told, as one that is damaged
    train, val = split_by_name(places)
    lost: dict[str, str] = {}
    if not train or not val:
        return ImageSets(_set(name, train or places, lost), None, lost)
    both = _set(name, train, lost), _set(name, val, lost)
    align_classes(name, *both)
    return ImageSets(*both, lost)


def _set(name: str, places: list[str], lost: dict[str, str]) -> Images:
    images: Images
    if remote.is_remote(places[0]):
        urls, counts = _counted(places, lost)
        images = RemoteShards(name, urls, counts)
    else:
        images = ShardImages(name, [Path(place) for place in places], lost)
    if not len(images):
        reason = f" ({next(iter(lost.values()))})" if lost else ""
        raise DataError(f"no images in the {len(places)} shards of {name}{reason}")
    return images


def _counted(urls: list[str], lost: dict[str, str]) -> tuple[list[str], list[int]]:
    """How many images each shard holds: from the index beside them, or else by fetching each once."""
    known = _index_beside(urls[0])
    counts: dict[str, int] = {}
    for url in urls:
        base = url.rpartition("/")[2]
        try:
            counts[url] = known[base] if base in known else len(_spans(remote.fetch(url)))
        except (DataError, OSError) as error:
            lost[url] = f"left out, {error}"
    return list(counts), list(counts.values())


def _index_beside(url: str) -> dict[str, int]:
    """Names of shards and their counts, empty where there is no index that can be read."""
    beside = f"{url.rpartition('/')[0]}/{INDEX}"
    try:
        plain: Any = json.loads(remote.read(beside) if remote.is_remote(url) else Path(beside).read_text())
        return {Path(entry["url"]).name: int(entry["nsamples"]) for entry in plain["shardlist"]}
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return {}
