"""Groups of images that are the same picture: exact copies by hash, others by comparing small pictures.

The vectors and coarse thumbnails propose pairs; a pair counts if its pictures agree in detail once aligned
(siam/atlas/align.py), whatever the encoder thinks of them.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from siam.atlas.align import agreement
from siam.atlas.looks import Looks
from siam.atlas.neighbors import Neighbors, neighbors_of_all
from siam.runs.bars import OnProgress, running_total

AGREEMENT = 0.65
"""Agreement of two pictures from which they are duplicates; measured by benchmarks/duplicates.py."""
COSINE = 0.98
"""Cosine of two vectors from which they are duplicates, where there are no pictures to compare."""

_COARSE = 8  # side of the thumbnails that propose pairs
_CANDIDATES = 5  # neighbors per image, by the vectors and by the coarse thumbnails each
_ALIKE = 0.7  # least correlation of the coarse thumbnails of a pair; at least 0.75 for 500 altered copies
_QUICK = (
    3,
    0.4,
)  # steps, and least agreement, of a first comparison at half the size, in a tenth of the time
_PAIRS = 4096  # compared at a time

Groups = list[list[int]]
"""Rows of each group, ascending; groups in the order of their first rows."""


def duplicates_by_looks(
    looks: Looks, neighbors: Neighbors | None, least: float, progress: OnProgress
) -> Groups:
    """Return groups of duplicates.

    neighbors: of all images, by their vectors; None to compare those that look alike only. least: agreement
    from which a pair counts.
    """
    first = _first_of_its_kind(looks.digests)  # (N,)
    pairs = _candidates(looks, first, neighbors)  # (P, 2)
    same = _agree(looks.gray, pairs, least, progress)
    copies = np.stack([first, np.arange(len(first))], axis=1)
    return groups_of(len(first), np.concatenate([copies[copies[:, 0] != copies[:, 1]], pairs[same]]))


def duplicates_by_vectors(neighbors: Neighbors, least: float) -> Groups:
    """Return groups of images whose vectors have a cosine of at least `least`."""
    row, column = np.nonzero(neighbors.similarity >= least)
    return groups_of(len(neighbors.rows), np.stack([row, neighbors.rows[row, column]], axis=1))


def duplicate_of(groups: Groups, images: int) -> NDArray[np.int64]:
    """Return the first row of each image's group (N,); -1 for that one, and for images in no group."""
    found = np.full(images, -1, np.int64)
    for first, *others in groups:
        found[others] = first
    return found


def groups_of(images: int, pairs: NDArray[np.int64]) -> Groups:
    """Return the connected components, of two rows or more, of the graph with these edges (P, 2)."""
    root = np.arange(images)

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = int(root[row])
        return row

    for a, b in pairs.tolist():
        low, high = sorted((find(a), find(b)))
        root[high] = low
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.unique(pairs).tolist():
        members[find(row)].append(row)
    return sorted(members.values())


def _first_of_its_kind(digests: Iterable[bytes]) -> NDArray[np.int64]:
    """Return the first row with the same digest, for each row; unreadable images are like no other."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(one, row) if one else row for row, one in enumerate(digests)], np.int64)


def _candidates(looks: Looks, first: NDArray[np.int64], neighbors: Neighbors | None) -> NDArray[np.int64]:
    """Return pairs of rows (P, 2) that may show the same picture, each once, without exact copies."""
    unique = np.flatnonzero((first == np.arange(len(first))) & [bool(one) for one in looks.digests])
    if len(unique) < 2:
        return np.empty((0, 2), np.int64)
    coarse = np.zeros((len(first), _COARSE * _COARSE), np.float32)
    coarse[unique] = _coarse(looks.gray[unique])
    alike = neighbors_of_all(coarse[unique], _CANDIDATES, lambda done, total: None).rows
    pairs = [_as_pairs(unique, unique[alike])]
    if neighbors is not None:
        pairs.append(_as_pairs(np.arange(len(first)), neighbors.rows[:, :_CANDIDATES]))
    both = first[np.concatenate(pairs)]
    both = np.unique(np.sort(both[both[:, 0] != both[:, 1]], axis=1), axis=0)
    a, b = coarse[both[:, 0]], coarse[both[:, 1]]
    return both[np.einsum("pd,pd->p", a, b) >= _ALIKE]


def _as_pairs(rows: NDArray[np.int64], others: NDArray[Any]) -> NDArray[np.int64]:
    return np.stack(np.broadcast_arrays(rows[:, None], others), axis=-1).reshape(-1, 2).astype(np.int64)


def _coarse(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return thumbnails of 8 x 8 pixels with mean 0 and length 1: (N, 64)."""
    small = F.adaptive_avg_pool2d(torch.from_numpy(gray).float(), _COARSE).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1).numpy()


def _agree(
    gray: NDArray[np.uint8], pairs: NDArray[np.int64], least: float, progress: OnProgress
) -> NDArray[np.bool_]:
    """Return which pairs of rows show the same picture (P,)."""
    same, add = np.zeros(len(pairs), bool), running_total(progress, len(pairs))
    pictures = torch.from_numpy(gray)
    for start in range(0, len(pairs), _PAIRS):
        block = torch.from_numpy(pairs[start : start + _PAIRS])
        a, b = (pictures[block[:, side]].float() for side in (0, 1))
        half_a, half_b = (F.avg_pool2d(x[:, None], 2)[:, 0] for x in (a, b))
        likely = agreement(half_a, half_b, steps=_QUICK[0]) >= _QUICK[1]
        same[start : start + len(block)][likely.numpy()] = (agreement(a[likely], b[likely]) >= least).numpy()
        add(len(block))
    return same
