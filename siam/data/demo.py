"""The demo set: ten kinds of small shape that pixels do not tell apart and a network learns to.

Two crops of an image must share its shape and nothing easier. So each image has two plain colours of random
hue, one darker than the other (either may be the shape), and the demo's views turn the hue fully: what is
left in common is the shape, which lies anywhere, at any angle, in many sizes, under noise.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIDE = 16
_COUNTS = {"train": 5000, "test": 1000}
_LUMA = np.array([0.299, 0.587, 0.114])


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.85


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.72) - 0.2


def _bar(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u) - 1, np.abs(v) - 0.22)


def _stripes(u: Array, v: Array) -> Array:
    return np.maximum(np.minimum(np.abs(v), np.abs(np.abs(v) - 0.7)) - 0.19, np.abs(u) - 0.9)


def _cross(u: Array, v: Array) -> Array:
    upright, level = np.maximum(np.abs(u) - 0.2, np.abs(v) - 1), np.maximum(np.abs(u) - 1, np.abs(v) - 0.2)
    return np.minimum(upright, level)


def _grid(u: Array, v: Array) -> Array:
    lines = np.minimum(np.abs(np.abs(u) - 0.45), np.abs(np.abs(v) - 0.45)) - 0.16
    return np.maximum(lines, np.maximum(np.abs(u), np.abs(v)) - 1)


def _dots(u: Array, v: Array) -> Array:
    return np.minimum(np.hypot(np.abs(u) - 0.66, np.abs(v) - 0.66), np.hypot(u, v)) - 0.3


def _arc(u: Array, v: Array) -> Array:
    r = np.hypot(u, v)
    return np.maximum(np.abs(r - 0.75) - 0.22, (np.abs(np.arctan2(v, u)) - 1.9) * r)


def _half(u: Array, v: Array) -> Array:
    return np.maximum(np.hypot(u, v) - 1.3, -u)


def _bullseye(u: Array, v: Array) -> Array:
    r = np.hypot(u, v)
    return np.minimum(np.abs(r - 0.95) - 0.17, r - 0.38)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "bar": _bar,
    "stripes": _stripes,
    "cross": _cross,
    "grid": _grid,
    "dots": _dots,
    "arc": _arc,
    "half": _half,
    "bullseye": _bullseye,
}
"""Distance to the outline, negative inside, in coordinates where the shape spans about [-1, 1]."""


def demo_images(
    split: str,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """`train` or `test`: images uint8 (N, 16, 16, 3), labels (N,), class names; the same every time."""
    rng = np.random.default_rng([2011, 10566, _COUNTS[split]])
    labels = rng.permutation(np.arange(_COUNTS[split]) % len(SHAPES))
    images = np.empty((len(labels), SIDE, SIDE, 3), dtype=np.uint8)
    for kind, distance in enumerate(SHAPES.values()):
        chosen = np.flatnonzero(labels == kind)
        images[chosen] = _draw(rng, distance, len(chosen))
    return images, labels, tuple(SHAPES)


def _draw(rng: np.random.Generator, distance: Callable[[Array, Array], Array], n: int) -> NDArray[np.uint8]:
    """n images of one shape at random places, sizes, angles and colours: uint8 (n, 16, 16, 3)."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5  # the image spans [-1/2, 1/2]
    size, angle = rng.uniform(0.3, 0.5, (n, 1, 1)), rng.uniform(-np.pi, np.pi, (n, 1, 1))
    x, y = x - rng.uniform(-0.2, 0.2, (n, 1, 1)), y - rng.uniform(-0.2, 0.2, (n, 1, 1))
    u = (x * np.cos(angle) + y * np.sin(angle)) / size
    v = (y * np.cos(angle) - x * np.sin(angle)) / size
    inside = np.clip(0.5 - distance(u, v) * size * SIDE, 0, 1)[..., None]  # antialiased over one pixel

    shade = rng.choice([-0.13, 0.13], n)
    shape, ground = _colours(rng, 0.5 + shade), _colours(rng, 0.5 - shade)
    pixels = ground[:, None, None] * (1 - inside) + shape[:, None, None] * inside
    pixels += rng.normal(0, 0.04, pixels.shape)
    return (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def _colours(rng: np.random.Generator, luma: Array) -> Array:
    """Random vivid colours (n, 3) in [0, 1] of about the given luma (n,)."""
    luma = luma + rng.uniform(-0.05, 0.05, len(luma))
    chroma = rng.uniform(0, 1, (len(luma), 3))
    chroma -= (chroma @ _LUMA)[:, None]
    room = np.where(chroma > 0, 1 - luma[:, None], luma[:, None]) / np.abs(chroma).clip(1e-6)
    reach = np.minimum(room.min(axis=1), 1 / np.abs(chroma).max(axis=1))  # stay inside the colour cube
    colours: Array = luma[:, None] + chroma * (reach * rng.uniform(0.5, 1, len(luma)))[:, None]
    return colours
