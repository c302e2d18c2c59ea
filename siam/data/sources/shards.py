"""WebDataset shards: a dataset in many tar files, local or remote.

Local shards are indexed once and read in place, in random order, like a folder. Remote
shards are downloaded whole to a disk cache of limited size, and an epoch visits only a
few at a time (see `grouped_order`). Unreadable shards are skipped and reported.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.data import remote
from siam.data.decode import BrokenImage
from siam.data.images import Encoded, Images, ImageSets
from siam.data.labels import align_classes, class_folders
from siam.data.packed import PackedStrings
from siam.data.patterns import expand_shards
from siam.data.splits import files_outside, split_by_name
from siam.data.tars import read_member, tar_members
from siam.errors import DataError
from siam.system.files import regular

LOOKS_LIKE = "shards (x-{000..099}.tar)"
ORDER = 30

INDEX = "index.json"
"""Index of shard names and image counts, in wids format; written by `siam shard`."""


def recognizes(name: str) -> bool:
    files = expand_shards(name)
    return bool(files) and files[0].endswith(".tar")


def open(name: str) -> ImageSets:
    places = list(expand_shards(name))
    if not remote.is_remote(places[0]) and Path(name).is_dir():
        firsts = {Path(place).parent: place for place in places}
        indexed = (str(folder / known) for folder, first in firsts.items() for known in _index_next_to(first))
        places = sorted({*places, *indexed})  # a missing shard is reported, like a corrupt one
    train, val = split_by_name(places)
    unreadable: dict[str, str] = {}
    left_out = files_outside(places, train, val)
    if not train or not val:
        return ImageSets(_set(name, train or places, unreadable), None, unreadable, left_out)
    both = _set(name, train, unreadable), _set(name, val, unreadable)
    align_classes(*both, left_out)
    return ImageSets(*both, unreadable, left_out)


class ShardImages(Encoded):
    """Images in local shards, in the order in which they are stored."""

    def __init__(self, name: str, files: list[Path], unreadable: dict[str, str]) -> None:
        """Index the shards.

        unreadable: dict to fill with unreadable shards, path -> reason.
        """
        self.name, self.files = name, files
        parts, spans = [], []
        for file in files:
            try:
                names, found, complaint = tar_members(file)
            except DataError:
                names, found = PackedStrings(()), np.empty((0, 2), dtype=np.int64)
                complaint = f"skipped because it is {'corrupt or not a tar' if file.exists() else 'missing'}"
            if complaint:
                unreadable[str(file)] = complaint
            stored = np.argsort(found[:, 0], kind="stable")
            parts.append([names[int(i)] for i in stored])
            spans.append(found[stored])
        self.starts = np.cumsum([0, *map(len, parts)])  # index of each shard's first image
        self.names, self.spans = PackedStrings(name for part in parts for name in part), np.concatenate(spans)
        self.classes, self.labels = class_folders(self.names)

    def encoded(self, i: int) -> bytes:
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return read_member(self.files[shard], self.spans[i], until=int(self.starts[shard + 1]))


class RemoteShards(Encoded):
    """Images in remote shards, without labels; image names are URL#NUMBER."""

    groups: NDArray[np.int64]

    def __init__(self, name: str, urls: list[str], counts: list[int]) -> None:
        """Create a dataset from shards with the given numbers of images."""
        self.name, self.urls = name, urls
        self.groups = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self.groups[-1])

    def path(self, i: int) -> str:
        shard = self._shard(i)
        return f"{self.urls[shard]}#{i - self.groups[shard]}"

    def encoded(self, i: int) -> bytes:
        shard = self._shard(i)
        until = int(self.groups[shard + 1])
        try:
            file = remote.fetch(self.urls[shard])
            spans = _stored_spans(file)
        except (DataError, OSError) as error:
            raise BrokenImage(str(error), until) from None
        within = i - int(self.groups[shard])
        if within >= len(spans):
            raise BrokenImage("the shard has fewer images than its index says", until)
        return read_member(file, spans[within], until)

    def _shard(self, i: int) -> int:
        return int(np.searchsorted(self.groups, i, side="right")) - 1


@lru_cache(maxsize=64)
def _stored_spans(file: Path) -> NDArray[np.int64]:
    """Return each image's byte offset and size in a tar, in storage order (N, 2)."""
    _, spans, _ = tar_members(file)
    return spans[np.argsort(spans[:, 0], kind="stable")]


def _set(name: str, places: list[str], unreadable: dict[str, str]) -> Images:
    """Open shards, all local or all remote, as one dataset.

    Raises DataError if they contain no images.
    """
    images: Images
    if remote.is_remote(places[0]):
        images = RemoteShards(name, *_counted(places, unreadable))
    else:
        images = ShardImages(name, [Path(place) for place in places], unreadable)
    if not len(images):
        reason = f" ({next(iter(unreadable.values()))})" if unreadable else ""
        raise DataError(f"found no images in the {len(places)} shards of {name}{reason}")
    return images


def _counted(urls: list[str], unreadable: dict[str, str]) -> tuple[list[str], list[int]]:
    """Return the readable shards and their image counts.

    Shards that are not in the index are downloaded and counted.
    """
    known = _index_next_to(urls[0])
    counts: dict[str, int] = {}
    for url in urls:
        base = url.rpartition("/")[2]
        try:
            counts[url] = known[base] if base in known else len(_stored_spans(remote.fetch(url)))
        except (DataError, OSError) as error:
            unreadable[url] = f"skipped, {error}"
    return list(counts), list(counts.values())


def _index_next_to(url: str) -> dict[str, int]:
    """Read the index next to a shard: shard name -> number of images.

    Returns {} if there is no readable index.
    """
    index = f"{url.rpartition('/')[0]}/{INDEX}"
    try:
        plain: Any = json.loads(remote.read(index) if remote.is_remote(url) else regular(index).read_text())
        return {Path(entry["url"]).name: int(entry["nsamples"]) for entry in plain["shardlist"]}
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return {}
