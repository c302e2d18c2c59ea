"""`siam search`: the images most like a given one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from siam.atlas.embedded import Embedded, Located, embed_set, is_vectors, read_vectors
from siam.atlas.given import VECTORS
from siam.atlas.index import EXACT_BELOW, open_or_build
from siam.atlas.looks import look_at, thumbnail_of
from siam.atlas.neighbors import Neighbors, neighbors_of
from siam.atlas.results import write_results
from siam.atlas.table import MAP, read_map
from siam.convert.vectors import embed
from siam.data.given import open_given as open_query
from siam.data.sources import open_images
from siam.errors import RunError, SettingsError
from siam.runs.bars import transient_progress
from siam.runs.encoder import digest_of, load
from siam.settings.checks import AtLeast, check
from siam.system.device import float32_by_default


@dataclass(frozen=True)
class _Numbers:
    k: Annotated[int, AtLeast(1)]
    exact_below: Annotated[int, AtLeast(0)]
    workers: Annotated[int, AtLeast(-1, "(automatic)")]

    def __post_init__(self) -> None:
        check(self)


@float32_by_default()
def search(
    run: str | Path,
    query: Any,
    data: str | Path,
    k: int = 20,
    html: str | Path | None = None,
    exact_below: int = EXACT_BELOW,
    device: str = "auto",
    workers: int = -1,
    console: Console | None = None,
) -> dict[str, Any]:
    """Find the k images most similar to `query`, by the cosine of a run's embeddings.

    query: an image file, a PIL image, or a uint8 array (H, W, 3). data: a file of vectors that `siam embed`
    wrote with the same run, the folder of a map, or images, which are embedded first. html: page to write
    with the results' pictures. exact_below: number of vectors from which an index in a file beside them is
    used, built if there is none; fewer are all compared. Returns a dict with `results`, the most similar
    first: path, label and cosine. Raises SiamError.
    """
    _Numbers(k, exact_below, workers)
    console = console or Console(stderr=True)
    file = _vectors_file(data)
    if html is not None and file is not None and _map_of(file) is None:
        raise SettingsError(f"--html needs pictures, and {data} has none: pass the images or a map's folder")
    vector, _ = embed(run, query, device, workers=0)
    if file is None:
        embedded, _ = embed_set(run, data, device, workers, console)
    else:
        embedded = read_vectors(file)
        _require_same_encoder(run, file, embedded, vector.shape[1])
    indexed = file is not None and len(embedded) >= exact_below
    with transient_progress(console) as bar:
        if file is not None and indexed:
            found = open_or_build(file, embedded.vectors, bar("index")).nearest(vector, k)
        else:
            found = neighbors_of(vector, embedded.vectors, k, bar("search"))
    results = _results(found, embedded)
    if html is not None:
        pictures = _pictures(data, file, [one["path"] for one in results])
        write_results(html, thumbnail_of(open_query(query).train, 0), results, pictures)
    return {"query": str(query) if isinstance(query, str | Path) else None, "images": len(embedded),
            "exact": not indexed, "results": results}  # fmt: skip


def _vectors_file(data: str | Path) -> Path | None:
    """Return the file of vectors that `data` is, or that lies in the map's folder that it is."""
    place = Path(data).expanduser()
    if place.is_dir() and (place / MAP).is_file() and (place / VECTORS).is_file():
        return place / VECTORS
    return place if is_vectors(place) else None


def _map_of(vectors_file: Path) -> Path | None:
    """Return the map next to a file of vectors, if it belongs to one."""
    found = vectors_file.with_name(MAP)
    return found if vectors_file.name == VECTORS and found.is_file() else None


def _require_same_encoder(run: str | Path, file: Path, embedded: Embedded, dimension: int) -> None:
    if embedded.vectors.shape[1] != dimension:
        raise RunError(
            f"{file} has vectors of {embedded.vectors.shape[1]} values, but the encoder of {run} returns "
            f"{dimension}: embed the images with this run"
        )
    weights = embedded.about.get("weights")
    if weights is not None and weights != digest_of(load(run)):
        raise RunError(f"{file} was written with another encoder than that of {run}: embed the images again")


def _results(found: Neighbors, embedded: Embedded) -> list[dict[str, Any]]:
    rows, cosines = found.rows[0].tolist(), found.similarity[0].tolist()
    return [
        {"path": embedded.paths[row], "label": embedded.labels[row], "cosine": cosine}
        for row, cosine in zip(rows, cosines, strict=True)
        if row >= 0  # an index returns -1 where it has too few
    ]


def _pictures(data: str | Path, file: Path | None, paths: list[str]) -> list[bytes | None]:
    """Return the thumbnails of the results, from a map or from the images."""
    if file is None:
        return look_at(Located(open_images(data), paths), 0, lambda done, total: None).thumbnails
    table = read_map(file.with_name(MAP)).table
    by_path = dict(zip(table["path"].to_pylist(), table["thumbnail"], strict=True))
    return [by_path[path].as_py() if path in by_path else None for path in paths]
