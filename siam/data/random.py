"""Random numbers computed from (seed, epoch, index), without generator state.

An image's augmentation therefore does not depend on the number of workers, the batch,
the machine, or whether the run was interrupted, and checkpoints need no generator
state.
"""

import numpy as np
from numpy.typing import NDArray

GEOMETRY, COLOR, STEP = 0, 1, 2
"""Identifiers of the independent random streams for crops, colors and training steps."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's finalizer to each element (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def counter_uniform(
    seed: int, epoch: int, index: NDArray[np.int64], stream: int, count: int
) -> NDArray[np.float64]:
    """Draw `count` independent uniform numbers in [0, 1) for each index: (B,) -> (B, count).

    stream: GEOMETRY, COLOR or STEP. Uses SplitMix64, which can be vectorized over the
    indices; numpy's Philox would need a separate generator for each index.
    """
    with np.errstate(over="ignore"):
        key = np.zeros(len(index), dtype=np.uint64)
        for part in (seed, epoch, stream, index):
            key = _mix(key ^ (np.asarray(part, dtype=np.uint64) + _GOLDEN))
        counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(key[:, None] + counter)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Return a random permutation (size,) that depends only on the seed and the epoch."""
    return generator(seed, epoch).permutation(size)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Return a generator that depends only on the seed and the stream, both below 2**64."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
