"""Chance as a function of position: every choice is drawn from (seed, epoch, index), never from a state.

So what happens to an image does not depend on how many workers there are, which batch or which machine it
falls into, or whether the run was ever interrupted; and there is no generator to save.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def counter_uniform(
    seed: int, epoch: int, index: NDArray[np.int64], purpose: int, count: int
) -> NDArray[np.float64]:
    """Independent draws from [0, 1): `count` for each position, (B,) -> (B, count).

    purpose: a small number that keeps the draws for one use apart from those for another.
    """
    with np.errstate(over="ignore"):
        key = np.zeros(len(index), dtype=np.uint64)
        for part in (seed, epoch, purpose, index):
            key = _mix(key ^ (np.asarray(part, dtype=np.uint64) + _GOLDEN))
        counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(key[:, None] + counter)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order in which an epoch visits `size` images."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)
