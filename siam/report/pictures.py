"""The images in report.html: pairs of views as the network saw them, and nearest neighbours."""

import base64
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siam.errors import RunError
from siam.system.files import write_atomically

PICTURES = "pictures.npz"

PIXELATED = 48
"""Sides (pixels) up to which images are shown enlarged, pixel by pixel."""
THUMBNAIL = 112
"""Side (pixels) to which larger ones are reduced."""
MOST_PAIRS, MOST_QUERIES, MOST_NEIGHBOURS = 24, 8, 8


@dataclass(frozen=True)
class Pictures:
    """What the report shows beside its curves, in pictures.npz. All images uint8 (..., S, S, 3)."""

    pairs: NDArray[np.uint8]
    """View pairs as the network saw them, after photometry, de-normalised: (n, 2, S, S, 3)."""
    queries: NDArray[np.uint8]
    """(m, S, S, 3)"""
    neighbours: NDArray[np.uint8]
    """Their nearest images by the backbone's features, nearest first: (m, k, S, S, 3)."""
    query_names: list[str]
    """File names; where all hold a '/', what precedes the first one is taken for the class."""
    neighbour_names: list[list[str]]

    def save(self, folder: Path) -> None:
        """Write pictures.npz."""
        write_atomically(
            folder / PICTURES,
            lambda file: np.savez_compressed(
                file,
                pairs=self.pairs,
                queries=self.queries,
                neighbours=self.neighbours,
                query_names=np.array(self.query_names, dtype=np.str_),
                neighbour_names=np.array(self.neighbour_names, dtype=np.str_),
            ),
        )

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """None where there is no pictures.npz. Raises RunError where it cannot be read."""
        file = folder / PICTURES
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                read = {f.name: arrays[f.name] for f in fields(cls)}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{file} cannot be read ({reason}): delete it to go on without") from None
        read["query_names"] = read["query_names"].tolist()
        read["neighbour_names"] = read["neighbour_names"].tolist()
        return cls(**read)


def pairs_html(pictures: Pictures) -> str:
    """The view pairs, side by side; nothing where there are none."""
    if not len(pictures.pairs):
        return ""
    shown = [
        f"<span>{_image(one, f'view 1 of image {i}')}{_image(other, f'view 2 of image {i}')}</span>"
        for i, (one, other) in enumerate(pictures.pairs[:MOST_PAIRS], 1)
    ]
    return (
        "<h2>What the network sees</h2>\n"
        '<p class="note">Two views of one image each, after cropping and change of colors: '
        "what a pair has in common is what can be learnt from it.</p>\n"
        + _box("pairs", pictures.pairs, "".join(shown))
    )


def neighbours_html(pictures: Pictures) -> str:
    """A line for each query: itself, then its neighbours, marked by class where the names tell it."""
    if not len(pictures.queries):
        return ""
    known = _show_classes(
        [*pictures.query_names, *(name for row in pictures.neighbour_names for name in row)]
    )
    rows, same, total = [], 0, 0
    for image, name, near, near_names in zip(
        pictures.queries, pictures.query_names, pictures.neighbours, pictures.neighbour_names, strict=True
    ):
        found = []
        for other, other_name in list(zip(near, near_names, strict=True))[:MOST_NEIGHBOURS]:
            agrees = _class(other_name) == _class(name)
            same, total = same + agrees, total + 1
            found.append(
                _captioned(other, other_name, known, ("same" if agrees else "other") if known else "")
            )
        rows.append(f"<div>{_captioned(image, name, known, '')}<div>{''.join(found)}</div></div>")
        if len(rows) == MOST_QUERIES:
            break
    count = f" {same} of {total} are of the same class (solid green), the others dashed red." if known else ""
    return (
        "<h2>Nearest neighbours</h2>\n"
        '<p class="note">An image, and those whose features are most like its own, nearest first.'
        f"{count}</p>\n" + _box("near", pictures.queries, "".join(rows))
    )


def _show_classes(names: Sequence[str]) -> bool:
    """Whether the names read 'class/file', and there is more than one class."""
    return all("/" in name for name in names) and len({_class(name) for name in names}) > 1


def _class(name: str) -> str:
    return name.partition("/")[0]


def _captioned(image: NDArray[np.uint8], name: str, known: bool, style: str) -> str:
    short = _class(name) if known else name.rpartition("/")[2]
    caption = f"<figcaption>{escape(short)}</figcaption>"
    return f'<figure class="{style}" title="{escape(name)}">{_image(image, name)}{caption}</figure>'


def _box(kind: str, images: NDArray[np.uint8], content: str) -> str:
    """A <div> that says how large its images are shown: small ones at whole multiples of their pixels."""
    side = images.shape[-2]
    small, large = (max(1, round(about / side)) * side if side <= PIXELATED else about for about in (64, 96))
    pixels = " pixels" if side <= PIXELATED else ""
    return f'<div class="{kind}{pixels}" style="--small:{small}px;--large:{large}px">{content}</div>'


def _image(image: NDArray[np.uint8], alt: str) -> str:
    """An <img> that holds its data: small images exactly, as PNG, large ones as JPEG thumbnails."""
    picture, file = Image.fromarray(image), io.BytesIO()
    if max(picture.size) <= PIXELATED:
        kind = "png"
        picture.save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        picture.save(file, "JPEG", quality=80, optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'
