"""The demo dataset: ten classes of small shapes and patterns.

A short run learns the easiest cue, so two views of an image must share nothing easier
than the class. Each image is light on dark in a single random hue. The hue dominates
the pixels, so raw pixels separate the classes poorly, but the demo's augmentation
usually removes it: both views of an image keep the hue only 1 time in 100. Lightness,
contrast and saturation are the same in all images. Shapes vary in position, angle and
size, and noise is added. Half of the classes are patterns that fill the image, so that
every crop shows the class.
"""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from siam.data.augment import RGB_TO_YIQ
from siam.data.images import ImageSets
from siam.data.sources.arrays import ArrayImages

NAMES = ("demo",)
LOOKS_LIKE = "demo"
ORDER = 70

Array = NDArray[np.float64]

SIDE = 16
_COUNTS = {"train": 5000, "test": 1000}
_LUMA = (0.42, 0.58)
"""Luma of the background and the shape, in [0, 1]."""
_CHROMA = 0.2
"""Distance from gray in the YIQ chroma plane; larger values leave the RGB cube."""


def recognizes(name: str) -> bool:
    return name in NAMES and not os.path.exists(name)


def open(name: str) -> ImageSets:
    train, test = (ArrayImages(name, *demo_images(split), split) for split in ("train", "test"))
    return ImageSets(train, test)


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
    """Wrap x into [-period / 2, period / 2]."""
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
"""Class -> function that returns the signed distance from (u, v) to the outline.

Distances are negative inside. A single shape spans about [-1, 1] in u and v.
"""


def demo_images(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Draw the `train` or `test` split from a fixed seed.

    Returns images (uint8, (N, 16, 16, 3)), labels (N,) and class names.
    """
    rng = np.random.default_rng([2011, 10566, _COUNTS[split]])
    labels = rng.permutation(np.arange(_COUNTS[split]) % len(SHAPES))
    images = np.empty((len(labels), SIDE, SIDE, 3), dtype=np.uint8)
    for kind, distance in enumerate(SHAPES.values()):
        chosen = np.flatnonzero(labels == kind)
        images[chosen] = _draw(rng, distance, len(chosen))
    return images, labels, tuple(SHAPES)


def _draw(rng: np.random.Generator, distance: Callable[[Array, Array], Array], n: int) -> NDArray[np.uint8]:
    """Draw n images of one class, with random positions, sizes, angles and colors.

    distance: see `SHAPES`. Returns uint8 (n, 16, 16, 3).
    """
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5  # the image spans [-1/2, 1/2]
    size, angle = rng.uniform(0.3, 0.5, (n, 1, 1)), rng.uniform(-np.pi, np.pi, (n, 1, 1))
    x, y = x - rng.uniform(-0.25, 0.25, (n, 1, 1)), y - rng.uniform(-0.25, 0.25, (n, 1, 1))
    u = (x * np.cos(angle) + y * np.sin(angle)) / size
    v = (y * np.cos(angle) - x * np.sin(angle)) / size
    inside = np.clip(0.5 - distance(u, v) * size * SIDE, 0, 1)[..., None]  # antialiased over one pixel

    hue = rng.uniform(-np.pi, np.pi, n)
    background, shape = (_colors(luma, hue)[:, None, None] for luma in _LUMA)
    pixels = background * (1 - inside) + shape * inside
    pixels += rng.normal(0, 0.04, pixels.shape)
    return (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def _colors(luma: float, hue: Array) -> Array:
    """Return RGB colors (n, 3) with the given luma and hues.

    hue: angles in the chroma plane, in radians (n,).
    """
    yiq = np.stack([np.full_like(hue, luma), _CHROMA * np.cos(hue), _CHROMA * np.sin(hue)], axis=1)
    colors: Array = yiq @ RGB_TO_YIQ.inverse().T.numpy()
    return colors
