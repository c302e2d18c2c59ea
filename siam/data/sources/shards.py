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
from siam.data.labels import align_classes
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings, are_distinct
from siam.data.patterns import expand_shards, kind_of_shard
from siam.data.samples import TarMembers, labels_of, one_per_sample
from siam.data.splits import files_outside, split_by_name
from siam.data.tars import read_member, tar_members
from siam.errors import DataError
from siam.system.files import regular

LOOKS_LIKE = "shards (x-{000..099}.tar)"
ORDER = 30

_COMPRESSED = b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"  # gzip, bzip2, xz, Zstandard
_MAX_SAMPLES = 10**7  # shards that are said to have more are counted
INDEX = "index.json"
"""Index of shard names and image counts, in wids format; written by `siam shard`."""

CLASSES = "classes"
"""Key of the class names in the index, which the numbers in .cls files refer to."""


def recognizes(name: str) -> bool:
    files = expand_shards(name)
    return bool(files) and kind_of_shard(files[0]) == ".tar"


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
        return ImageSets(_set(name, train or places, unreadable, left_out), None, unreadable, left_out)
    both = _set(name, train, unreadable, left_out), _set(name, val, unreadable, left_out)
    align_classes(*both, left_out)
    return ImageSets(*both, unreadable, left_out)


class ShardImages(Encoded):
    """Images in local shards, one per sample, in the order in which they are stored."""

    def __init__(self, name: str, files: list[Path], unreadable: dict[str, str], left_out: LeftOut) -> None:
        """Index the shards.

        unreadable: dict to fill with unreadable shards, path -> reason. left_out: account
        of other members.
        """
        self.name, self.files = name, files
        shards: list[TarMembers] = []
        for file in files:
            try:
                shard = one_per_sample(tar_members(file, left_out), left_out).in_stored_order()
            except DataError:
                shard = TarMembers(complaint=f"skipped because it is {_state(file)}")
            if shard.complaint:
                unreadable[str(file)] = shard.complaint
            shards.append(shard)
        self.starts = np.cumsum([0, *(len(shard.names) for shard in shards)])  # each shard's first image
        self.spans = np.concatenate([shard.spans for shard in shards])
        names = PackedStrings(name for shard in shards for name in shard.names)
        labels = [label for shard in shards for label in shard.labels]
        self.classes, self.labels = labels_of(names, labels, _class_names(str(files[0])))
        self.names = names if are_distinct(names) else _with_shard(files, shards)

    def encoded(self, i: int) -> bytes:
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return read_member(self.files[shard], self.spans[i], until=int(self.starts[shard + 1]))

    def signature(self) -> bytes:
        """Return the sizes of all images."""
        return self.spans[:, 1].tobytes()


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


def _state(file: Path) -> str:
    """Return why a file cannot be read as a tar."""
    try:
        with regular(file).open("rb") as opened:
            start = opened.read(6)
    except OSError:
        return "corrupt or not a tar" if file.exists() else "missing"
    return "compressed: decompress it first" if start.startswith(_COMPRESSED) else "corrupt or not a tar"


@lru_cache(maxsize=64)
def _stored_spans(file: Path) -> NDArray[np.int64]:
    """Return each image's byte offset and size in a tar, in storage order (N, 2)."""
    return one_per_sample(tar_members(file)).in_stored_order().spans


def _with_shard(files: list[Path], shards: list[TarMembers]) -> PackedStrings:
    """Return the images' names, each with the name of its shard in front."""
    pairs = zip(files, shards, strict=True)
    return PackedStrings(f"{file.name}/{name}" for file, shard in pairs for name in shard.names)


def _set(name: str, places: list[str], unreadable: dict[str, str], left_out: LeftOut) -> Images:
    """Open shards, all local or all remote, as one dataset.

    Raises DataError if they contain no images.
    """
    images: Images
    if remote.is_remote(places[0]):
        images = RemoteShards(name, *_counted(places, unreadable))
    else:
        images = ShardImages(name, [Path(place) for place in places], unreadable, left_out)
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
    """Return the number of images in each shard, by name, from the index next to a shard, if there is one."""
    try:
        counts = {Path(entry["url"]).name: entry["nsamples"] for entry in _index(url)["shardlist"]}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: n for name, n in counts.items() if isinstance(n, int) and 0 <= n <= _MAX_SAMPLES}


def _class_names(url: str) -> tuple[str, ...]:
    """Return the class names in the index next to a shard; () if there are none."""
    names = _index(url).get(CLASSES)
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _index(url: str) -> dict[str, Any]:
    """Read the index next to a shard; return {} if there is no readable one."""
    folder, slash, _ = url.rpartition("/")
    index = f"{folder}{slash}{INDEX}"
    try:
        text = remote.read(index) if remote.is_remote(url) else regular(index).read_bytes()
        plain = json.loads(text)
    except (DataError, OSError, ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}
