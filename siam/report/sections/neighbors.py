"""Sample images, each with its nearest neighbors by backbone features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from siam.report.contents import Contents
from siam.report.html import render
from siam.report.pictures import Pictures, box_for, image_source

ORDER = 50

MAX_QUERIES, MAX_NEIGHBORS = 8, 8


@dataclass(frozen=True)
class Shown:
    """One displayed image, either a query or a neighbor."""

    name: str
    caption: str
    source: str
    style: str
    """CSS class: `same` if a labeled neighbor has the query's class, `other` if not; otherwise empty."""


def html(run: Contents) -> Markup | str:
    """Render each query with its neighbors, marked by class if labeled; return "" if there are no queries."""
    pictures = run.pictures
    if pictures is None or not len(pictures.queries):
        return ""
    labeled = _are_labeled([*pictures.query_names, *(n for row in pictures.neighbor_names for n in row)])
    rows = _rows(pictures, labeled)
    styles = [neighbor.style for _, neighbors in rows for neighbor in neighbors]
    return render(
        "neighbors.html",
        rows=rows,
        box=box_for(pictures.queries),
        labeled=labeled,
        same=styles.count("same"),
        total=len(styles),
    )


def _rows(pictures: Pictures, labeled: bool) -> list[tuple[Shown, list[Shown]]]:
    """Pair each query with its neighbors."""

    def shown(image: NDArray[np.uint8], name: str, style: str = "") -> Shown:
        caption = _class(name) if labeled else name.rpartition("/")[2]
        return Shown(name, caption, image_source(image), style)

    def style(name: str, of_query: str) -> str:
        return ("same" if _class(name) == _class(of_query) else "other") if labeled else ""

    return [
        (
            shown(pictures.queries[i], query),
            [
                shown(pictures.neighbors[i, j], name, style(name, query))
                for j, name in enumerate(pictures.neighbor_names[i][:MAX_NEIGHBORS])
            ],
        )
        for i, query in enumerate(pictures.query_names[:MAX_QUERIES])
    ]


def _are_labeled(names: Sequence[str]) -> bool:
    """Return True if every name has the form CLASS/FILE and there is more than one class."""
    return all("/" in name for name in names) and len({_class(name) for name in names}) > 1


def _class(name: str) -> str:
    return name.partition("/")[0]
