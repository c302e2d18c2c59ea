"""The demo set: ten kinds of small shape and pattern that pixels do not tell apart and a network learns to.

Two crops of an image must share its kind and nothing easier. So each image has two plain colours of random
hue, one darker than the other (either may be the shape), and the demo's views turn the hue fully: what is
left in common is the kind, which lies anywhere, at any angle, in many sizes, under noise. Half of the kinds
fill the image: every crop of them shows what they are, which is what gets a short run started.
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
    return np.abs(np.hypot(u, v) - 0.75) - 0.22


def _bar(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u) - 1.2, np.abs(v) - 0.25)


def _cross(u: Array, v: Array) -> Array:
    upright, level = np.maximum(np.abs(u) - 0.24, np.abs(v) - 1), np.maximum(np.abs(u) - 1, np.abs(v) - 0.24)
    return np.minimum(upright, level)


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(-u - 0.5, 0.5 * u + 0.866 * np.abs(v) - 0.5)


def _zigzag(u: Array, v: Array) -> Array:
    return (np.abs(_repeated(v + np.abs(_repeated(u, 1.6)), 1.1)) - 0.275) / 1.4


def _stripes(u: Array, v: Array) -> Array:
    return np.abs(_repeated(v, 0.9)) - 0.225


def _checkers(u: Array, v: Array) -> Array:
    a, b = np.abs(_repeated(u, 1.3)) - 0.325, np.abs(_repeated(v, 1.3)) - 0.325
    return -np.sign(a * b) * np.minimum(np.abs(a), np.abs(b))


def _dots(u: Array, v: Array) -> Array:
    return np.hypot(_repeated(u, 1.0), _repeated(v, 1.0)) - 0.3


def _rings(u: Array, v: Array) -> Array:
    return np.abs(_repeated(np.hypot(u, v), 0.8)) - 0.2


def _repeated(x: Array, period: float) -> Array:
    """x, again and again: in [-period / 2, period / 2]."""
    return (x + period / 2) % period - period / 2


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "bar": _bar,
    "cross": _cross,
    "triangle": _triangle,
    "zigzag": _zigzag,
    "stripes": _stripes,
    "checkers": _checkers,
    "dots": _dots,
    "rings": _rings,
}
"""Distance to the outline, negative inside, in coordinates where a single shape spans about [-1, 1]."""


def demo_images(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
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
    x, y = x - rng.uniform(-0.22, 0.22, (n, 1, 1)), y - rng.uniform(-0.22, 0.22, (n, 1, 1))
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
