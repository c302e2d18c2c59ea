"""A compact list of strings that can hold millions of file names."""

import bisect
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def are_distinct(names: Iterable[str]) -> bool:
    """Return True if no name occurs twice."""
    hashes = np.fromiter(map(hash, names), dtype=np.int64)  # 8 bytes per name
    return len(np.unique(hashes)) == len(hashes)


class PackedStrings:
    """An immutable list of strings, stored as a block of bytes and an array of offsets.

    A pyarrow.large_binary array is as compact, but needs three times the memory to
    build, is six times slower to iterate over, and pickles its whole block with every
    slice.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.block, offsets = bytearray(), array("q", [0])
        for name in names:  # one by one: a list of millions of strings would take gigabytes
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

    def part(self, ranges: Sequence[range]) -> "PackedStrings":
        """Return the strings in ranges of indices, copying only these parts of the block."""
        if len(ranges) == 1 and len(ranges[0]) == len(self):
            return self
        copy = PackedStrings(())
        for part in ranges:
            first, last = self.offsets[part.start], self.offsets[part.stop]
            shifted = self.offsets[part.start + 1 : part.stop + 1] - first + len(copy.block)
            copy.block += memoryview(self.block)[first:last]
            copy.offsets = np.concatenate([copy.offsets, shifted])
        return copy

    def below(self, folder: str) -> range:
        """Return the index range of the names inside `folder`, which must end in "/".

        The names must be sorted.
        """
        after = folder[:-1] + "0"  # "0" follows "/", so this sorts after every name in the folder
        return range(bisect.bisect_left(self, folder), bisect.bisect_left(self, after))

    def folders(self, above: str) -> Iterator[str]:
        """Yield the names of the folders inside `above`, which must be "" or end in "/".

        The names must be sorted. Gives up after 1,000 files that are not in a folder
        inside `above`.
        """
        part = self.below(above) if above else range(len(self))
        i, files = part.start, 0
        while i < part.stop:
            folder, slash, _ = self[i][len(above) :].partition("/")
            if slash:
                yield folder
                i = self.below(f"{above}{folder}/").stop
            elif above:
                files += 1
                i = i + 1 if files < 1000 else part.stop
            else:  # skip the files up to the next one in a folder
                found = self.block.find(b"/", self.offsets[i])
                i = int(np.searchsorted(self.offsets, found, side="right")) - 1 if found >= 0 else part.stop
