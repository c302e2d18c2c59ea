"""Report section: sample images and their nearest neighbors in feature space."""

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
    """An image on the page, either a query or a neighbor."""

    name: str
    caption: str
    source: str
    style: str
    """CSS class: `same` if a neighbor has the query's class, otherwise `other`.

    Empty for queries and unlabeled images.
    """


def html(run: Contents) -> Markup | str:
    """Render each query with its neighbors; return "" if there are no queries.

    If the images are labeled, neighbors of the same class and of other classes are
    marked.
    """
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
    """Return a (query, neighbors) pair for each query."""

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
    """Return whether all names have the form CLASS/FILE, with at least two classes."""
    return all("/" in name for name in names) and len({_class(name) for name in names}) > 1


def _class(name: str) -> str:
    return name.partition("/")[0]
