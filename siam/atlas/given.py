"""What a verb is given: a run and images, or a file of vectors, with images or without."""

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from siam.atlas.embedded import Embedded, Located, embed_set, read_vectors
from siam.atlas.looks import Looks, look_at
from siam.convert.vectors import embed_to_parquet, is_current
from siam.data.images import ImageSets
from siam.data.sources import open_images
from siam.errors import DataError, SettingsError
from siam.runs.bars import print_line, transient_progress
from siam.runs.encoder import load
from siam.system.resources import available_cores

VECTORS = "vectors.parquet"
"""File of vectors in a map's folder."""

_MIN_IMAGES_FOR_WORKERS = 512


@dataclass(frozen=True)
class Given:
    """Vectors, and the images that they are of."""

    embedded: Embedded
    images: Located | None
    """None if only vectors were given."""


def open_given(
    run: str | Path | None,
    data: str | Path | None,
    vectors: str | Path | None,
    device: str,
    workers: int,
    console: Console,
    keep: Path | None = None,
) -> Given:
    """Read the vectors of a file, or embed the images of `data` with a run's encoder.

    keep: file in which to keep embeddings, so that an interrupted call can be repeated, and the next one
    finds them there; None: keep them in memory. Raises SiamError.
    """
    if vectors is not None:
        embedded = read_vectors(vectors)
        images = None if data is None else _located(open_images(data), embedded, vectors, console)
        return Given(embedded, images)
    if run is None or data is None:
        raise SettingsError("RUN and DATA are needed, or --vectors with a file that siam embed wrote")
    if keep is None:
        embedded, sets = embed_set(run, data, device, workers, console)
    else:
        if not is_current(run, data, keep):
            load(run)  # an unusable run must not leave a folder behind
            keep.parent.mkdir(parents=True, exist_ok=True)
            embed_to_parquet(run, data, keep, device, workers=workers, console=console)
        embedded, sets = read_vectors(keep), open_images(data)
    return Given(embedded, _located(sets, embedded, data, console))


def _located(sets: ImageSets, embedded: Embedded, source: str | Path, console: Console) -> Located:
    """Find each row's image. Raises DataError if none is there."""
    images = Located(sets, embedded.paths)
    missing = len(images.missing)
    if missing == len(images):
        raise DataError(
            f"none of the images in {source} is in {sets.train.name}: the first one is {embedded.paths[0]}"
        )
    if missing:
        print_line(console, f"{missing:,} of {len(images):,} images are not in {sets.train.name}")
    return images


def looks_of(images: Located, workers: int, console: Console, thumbnails: bool) -> Looks:
    """Read all images once, with a progress bar, by as many workers as there are cores."""
    if workers < 0:
        workers = 0 if len(images) < _MIN_IMAGES_FOR_WORKERS else available_cores()
    with transient_progress(console) as bar:
        return look_at(images, workers, bar("read the images"), thumbnails)


def folder_of(data: str | Path | None) -> str | None:
    """Return the absolute path of DATA if it is a folder."""
    if data is None:
        return None
    folder = os.path.expanduser(data)
    return os.path.abspath(folder) if os.path.isdir(folder) else None
