"""Embed images, and return the embeddings or stream them to a Parquet file."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from siam.data.given import open_given
from siam.data.images import Images, ImageSets, class_of
from siam.data.loader import choose_workers
from siam.data.sources import open_images
from siam.data.unreadable import Unreadable
from siam.errors import DataError, RunError, first_line
from siam.measure.features import center_views, stream
from siam.processes.agree import all_gather_object, on_rank_zero
from siam.processes.gather import rank, world_size
from siam.processes.rendezvous import local_device, process_group
from siam.runs.bars import OnProgress, print_line, print_sets, running_total, transient_progress
from siam.runs.encoder import Layer, load
from siam.runs.folder import CHECKPOINT, ENCODER, NETWORK
from siam.settings.checks import AtLeast, check
from siam.system.device import find_device, uses_bf16
from siam.system.files import write_atomically
from siam.system.names import stored

Precision = Literal["float32", "float16"]

_PART = 16  # batches per temporary file
_UNREADABLE = b"unreadable"  # metadata of a temporary file: its unreadable images, path -> reason

Vectors = tuple[NDArray[np.float32], NDArray[np.int64]]
"""A batch of embeddings (B, D) and the images' dataset indices (B,)."""


@dataclass(frozen=True)
class Embedder:
    """Computes embeddings of images with a run's encoder."""

    run: Path | str
    device: str = "auto"
    batch_size: Annotated[int, AtLeast(1)] = 256
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    layer: Layer = "backbone"

    def __post_init__(self) -> None:
        check(self)

    def vectors(
        self, images: Images, indices: NDArray[np.int64], unreadable: dict[int, str] | None = None
    ) -> Iterator[Vectors]:
        """Yield batches of embeddings in order of `indices`; skip unreadable images.

        unreadable: dict to fill with the indices of skipped images, and why they are.
        """
        device = find_device(local_device(self.device))
        encoder = load(self.run, str(device), self.layer)
        workers = choose_workers(self.workers, device, len(indices))
        views = center_views(images, encoder.image_size, indices, self.batch_size, workers, unreadable)
        for features, embedded in stream(encoder, views, device, uses_bf16("auto", device)):
            yield features.numpy(), embedded


def embed(
    run: str | Path,
    data: Any,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = -1,
    layer: Layer = "backbone",
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the embeddings, float32 (N, D), and paths of all images, in dataset order.

    run: run folder. data: images, as in `siam.pretrain`; training images come first,
    then validation images. Also an image file, a list of them, PIL images, or uint8
    arrays (H, W, 3) or (N, H, W, 3). layer: `backbone` for features, or `projector` for projector
    outputs z (N, d). workers: data-loading workers; -1: based on the number of cores.
    Unreadable images are skipped. Raises SettingsError, RunError if the run has no
    encoder, or DataError if no image is readable.
    """
    embedder = Embedder(run, device, batch_size, workers, layer)
    vectors: list[NDArray[np.float32]] = []
    paths: list[str] = []
    sets = open_given(data)
    if sets.left_out or sets.unreadable_files:
        print_sets(Console(stderr=True), sets)
    for images in _all_sets(sets):
        for features, indices in embedder.vectors(images, np.arange(len(images))):
            vectors.append(features)
            paths += [images.path(int(i)) for i in indices]
    if not vectors:
        name = data if isinstance(data, str | Path) else "the list"
        raise DataError(f"none of the images in {name} can be read")
    return np.concatenate(vectors), paths


def embed_to_parquet(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = -1,
    layer: Layer = "backbone",
    precision: Precision = "float32",
    console: Console | None = None,
) -> dict[str, Any]:
    """Write each image's path, label (class name or null) and embedding to Parquet.

    Each batch becomes one row group, so memory use does not grow with the dataset.
    Until the file is complete, finished parts are kept in OUT.parts, and an interrupted
    call can be repeated to write only the missing parts. Unreadable images are named and
    listed in OUT.unreadable.txt. Processes started by torchrun share the work. Returns a
    summary. Raises SiamError.
    """
    embedder = Embedder(run, device, batch_size, workers, layer)
    out = Path(out).expanduser()
    if out.is_dir():
        raise RunError(f"{out} is a folder: specify a file, such as {out / 'vectors.parquet'}")
    parts = out.with_name(out.name + ".parts")
    opened = open_images(data)
    sets = _all_sets(opened)
    job = {
        "weights": _digest(run), "data": str(data), "images": [len(images) for images in sets],
        "batch_size": batch_size, "layer": layer, "precision": precision,
    }  # fmt: skip
    console = console or Console(stderr=True, quiet=rank() > 0)
    print_sets(console, opened)
    with process_group(device, seconds=3600), transient_progress(console) as bar:
        try:
            on_rank_zero(lambda: _continue_or_start(parts, job))
            for number, images in enumerate(sets):
                progress = bar(f"embed {images.name}" + " (validation)" * number)
                _write_parts(embedder, images, parts, number, precision, progress)
            all_gather_object(None)  # a barrier: all parts now exist
            written, dimension, unreadable = on_rank_zero(lambda: _join(parts, out))
            listed = on_rank_zero(lambda: _list_unreadable(unreadable, out)) if written else ""
        except OSError as error:
            raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    if not written:
        raise DataError(
            f"none of the {len(unreadable)} images in {data} can be read: {unreadable.first_few()}"
        )
    if unreadable:
        images_left_out = "1 image is" if len(unreadable) == 1 else f"{len(unreadable):,} images are"
        print_line(console, f"{images_left_out} unreadable: {unreadable.first_few()}; see {listed}")
    return {"out": str(out), "images": written, "unreadable": len(unreadable), "dimension": dimension}


def _list_unreadable(unreadable: Unreadable, out: Path) -> str:
    """Write OUT.unreadable.txt, one path and reason per line, if any image is unreadable."""
    file = out.with_name(out.name + ".unreadable.txt")
    if unreadable:
        text = unreadable.as_text().encode()
        write_atomically(file, lambda opened: opened.write(text))
    return str(file)


def _all_sets(sets: ImageSets) -> list[Images]:
    return [sets.train] if sets.val is None else [sets.train, sets.val]


def _write_parts(
    embedder: Embedder,
    images: Images,
    folder: Path,
    number: int,
    precision: Precision,
    progress: OnProgress,
) -> None:
    """Write this rank's share of the missing parts as NUMBER-PART.parquet files.

    number: 0 for training images, 1 for validation images.
    """
    size = _PART * embedder.batch_size
    files = [folder / f"{number}-{part:08d}.parquet" for part in range(-(-len(images) // size))]
    missing = on_rank_zero(lambda: [part for part, file in enumerate(files) if not _is_whole(file)])
    own = missing[rank() :: world_size()]
    part_of = np.arange(len(images)) // size
    done = int((~np.isin(part_of, missing)).sum())
    add = running_total(progress, len(images))
    add(done)
    unreadable: dict[int, str] = {}

    def batches() -> Iterator[Vectors]:
        wanted = np.flatnonzero(np.isin(part_of, own))
        for features, indices in embedder.vectors(images, wanted, unreadable):
            yield features, indices
            add(len(indices) * world_size())  # assume that all ranks run at the same speed

    for part, rows in _by_part(batches(), own, size):
        tables = [_table(images, features, indices, precision) for features, indices in rows]
        noted = {images.path(i): reason for i, reason in unreadable.items() if i // size == part}
        metadata = {_UNREADABLE: json.dumps(noted)}
        write_atomically(files[part], partial(_write_tables, tables=tables, metadata=metadata))
    progress(len(images), len(images))  # counts unreadable images too


def _by_part(batches: Iterator[Vectors], parts: list[int], size: int) -> Iterator[tuple[int, list[Vectors]]]:
    """Group consecutive batches by part; a part without readable images gets an empty list.

    parts: part numbers, ascending. size: images per part.
    """
    waiting = next(batches, None)
    for part in parts:
        rows = list[Vectors]()
        while waiting is not None and int(waiting[1][0]) // size == part:
            rows.append(waiting)
            waiting = next(batches, None)
        yield part, rows


def _continue_or_start(parts: Path, job: dict[str, Any]) -> None:
    """Create the `parts` folder, deleting parts that belong to a different job."""
    file = parts / "job.json"
    if parts.exists() and not (file.exists() and file.read_text() == json.dumps(job)):
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda opened: opened.write(json.dumps(job).encode()))


def _digest(run: str | Path) -> str:
    """Return a SHA-256 digest of the run's weight files."""
    digest = hashlib.sha256()
    for name in (ENCODER, CHECKPOINT, NETWORK):
        file = Path(run).expanduser() / name
        if file.exists():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _is_whole(part: Path) -> bool:
    """Return whether a part exists and its footer, which is written last, can be read."""
    try:
        metadata = pq.read_metadata(part)
    except (OSError, pa.ArrowException):
        return False
    schema = metadata.schema.to_arrow_schema()
    return _UNREADABLE in (schema.metadata or {}) and (not metadata.num_rows or "embedding" in schema.names)


def _row_groups(part: Path) -> Iterator[pa.Table]:
    """Yield the row groups of a part. Raises RunError if it is corrupt."""
    try:
        opened = pq.ParquetFile(part)
        for group in range(opened.num_row_groups if opened.metadata.num_rows else 0):
            yield opened.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{part} is corrupt ({first_line(error)}): delete it, and run the command again"
        ) from None


def _join(parts: Path, out: Path) -> tuple[int, int, Unreadable]:
    """Merge the parts into `out`, and delete them.

    Returns the number of rows, the embedding size and the unreadable images.
    """
    rows = dimension = 0
    unreadable = Unreadable()

    def tables() -> Iterator[pa.Table]:
        nonlocal rows, dimension
        for file in sorted(parts.glob("*.parquet"), key=lambda path: tuple(map(int, path.stem.split("-")))):
            unreadable.update(json.loads(pq.read_schema(file).metadata[_UNREADABLE]))
            for table in _row_groups(file):
                rows, dimension = rows + len(table), table.schema.field("embedding").type.list_size
                yield table

    joined = parts / "joined"
    with joined.open("wb") as file:
        _write_tables(file, tables())
    if rows:
        joined.replace(out)
    shutil.rmtree(parts)
    return rows, dimension, unreadable


def _write_tables(file: Any, tables: Iterable[pa.Table], metadata: dict[bytes, str] | None = None) -> None:
    """Write each table as one row group."""
    writer: pq.ParquetWriter | None = None
    for table in tables:
        if writer is None:
            writer = pq.ParquetWriter(file, table.schema.with_metadata(metadata))
        writer.write_table(table)
    if writer is None:  # no rows: write an empty file to mark the part as done
        pq.write_table(pa.table({}).replace_schema_metadata(metadata), file)
    else:
        writer.close()


def _table(
    images: Images, features: NDArray[np.float32], indices: NDArray[np.int64], precision: Precision
) -> pa.Table:
    values = features.astype(precision).ravel()
    classes = [class_of(images, int(i)) for i in indices]
    labels = [None if kind is None else stored(kind) for kind in classes]
    return pa.table(
        {
            "path": pa.array([stored(images.path(int(i))) for i in indices], pa.string()),
            "label": pa.array(labels, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), features.shape[1]),
        }
    )
