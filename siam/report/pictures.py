"""Images in report.html: augmented views and nearest neighbors."""

import base64
import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siam.errors import RunError, first_line
from siam.runs.folder import PICTURES
from siam.system.files import regular, write_atomically

PIXELATED = 48
"""Images with a side of at most this many pixels are upscaled without interpolation."""
THUMBNAIL = 112
"""Larger images are downscaled so that the longer side has at most this many pixels."""


@dataclass(frozen=True)
class Pictures:
    """Images for the report, as stored in pictures.npz: uint8 arrays (..., S, S, 3)."""

    pairs: NDArray[np.uint8]
    """Pairs of augmented views as the network saw them, before normalization: (n, 2, S, S, 3)."""
    queries: NDArray[np.uint8]
    """Query images, whose nearest neighbors are shown: (m, S, S, 3)."""
    neighbors: NDArray[np.uint8]
    """Neighbors of each query in feature space, nearest first: (m, k, S, S, 3)."""
    query_names: list[str]
    """Names of the query images: CLASS/FILE, or FILE if the images have no labels."""
    neighbor_names: list[list[str]]

    def save(self, folder: Path) -> None:
        """Write pictures.npz. Raises OSError if writing fails."""
        write_atomically(
            folder / PICTURES,
            lambda file: np.savez_compressed(
                file,
                pairs=self.pairs,
                queries=self.queries,
                neighbors=self.neighbors,
                query_names=np.array(self.query_names, dtype=np.str_),
                neighbor_names=np.array(self.neighbor_names, dtype=np.str_),
            ),
        )

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Load pictures.npz, or return None if it does not exist.

        Raises RunError if the file cannot be read.
        """
        file = folder / PICTURES
        try:
            with regular(file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                read = {f.name: arrays[f.name] for f in fields(cls)}
            _require_pictures(**read)
        except FileNotFoundError:
            return None
        except Exception as error:  # corrupt bytes make numpy and zipfile raise errors of many kinds
            reason = first_line(error, 200)
            raise RunError(f"{file} cannot be read ({reason}): delete it to continue without it") from None
        read["query_names"] = read["query_names"].tolist()
        read["neighbor_names"] = read["neighbor_names"].tolist()
        return cls(**read)


def _require_pictures(
    pairs: NDArray[Any],
    queries: NDArray[Any],
    neighbors: NDArray[Any],
    query_names: NDArray[Any],
    neighbor_names: NDArray[Any],
) -> None:
    """Raise ValueError unless the arrays have the types and shapes that `Pictures` describes."""
    for name, images, dimensions in (
        ("pairs", pairs, 5),
        ("queries", queries, 4),
        ("neighbors", neighbors, 5),
    ):
        if (
            images.dtype != np.uint8
            or images.ndim != dimensions
            or images.shape[-1] != 3
            or 0 in images.shape[1:]
        ):
            raise ValueError(f"{name} are {images.dtype} {images.shape}")
    names = query_names.shape + neighbor_names.shape
    if names != queries.shape[:1] + neighbors.shape[:2] or {
        query_names.dtype.kind,
        neighbor_names.dtype.kind,
    } > {"U"}:
        raise ValueError(f"there are {names} names for {queries.shape[:1] + neighbors.shape[:2]} images")


@dataclass(frozen=True)
class Box:
    """Side of displayed images in narrow and wide windows, in CSS pixels."""

    small: int
    large: int
    pixelated: bool


def box_for(images: NDArray[np.uint8]) -> Box:
    """Choose the display size for images (..., S, S, 3).

    Small images are upscaled by an integer factor.
    """
    side = images.shape[-2]
    pixelated = side <= PIXELATED
    small, large = (max(1, round(about / side)) * side if pixelated else about for about in (64, 96))
    return Box(small, large, pixelated)


def image_source(image: NDArray[np.uint8]) -> str:
    """Encode an image (S, S, 3) as a data URI: small images as PNG, others as JPEG."""
    picture, file = Image.fromarray(image), io.BytesIO()
    if max(picture.size) <= PIXELATED:
        picture.save(file, "PNG", optimize=True)
        return data_uri("image/png", file.getvalue())
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=80, optimize=True)
    return data_uri("image/jpeg", file.getvalue())


def data_uri(kind: str, contents: bytes) -> str:
    """Encode bytes as a data URI. kind: the media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"
