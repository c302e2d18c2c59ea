"""One vector per image: as arrays in Python, or streamed into a Parquet file of any length."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID

from siam.data.images import Images, ImageSets
from siam.data.loader import default_workers
from siam.data.sources import open_images
from siam.errors import DataError, RunError, SettingsError
from siam.measure.features import center_views, stream
from siam.processes.agree import all_gather_object, on_rank_zero
from siam.processes.gather import rank, world_size
from siam.processes.rendezvous import local_device, process_group
from siam.runs.encoder import Layer, load
from siam.runs.folder import CHECKPOINT, ENCODER, NETWORK
from siam.system.device import find_device, tune_process, uses_bf16
from siam.system.files import write_atomically

Precision = Literal["float32", "float16"]

_PART = 16  # batches that are kept together until the file is complete

Vectors = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Of a batch (B, D), and which images of the set they belong to."""


def embed(
    run: str | Path,
    data: str | Path,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = -1,
    layer: Layer = "backbone",
) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors float32 (N, D) and the paths of the images that they belong to, in the set's order.

    layer: the backbone's features, or the projector's output z. Images that cannot be read are left out.
    Raises SiamError.
    """
    _require_batches(batch_size)
    vectors: list[NDArray[np.float32]] = []
    paths: list[str] = []
    for images in _sets(open_images(data)):
        everything = np.arange(len(images))
        for features, indices in _vectors(run, images, everything, device, batch_size, workers, layer):
            vectors.append(features)
            paths += [images.path(int(i)) for i in indices]
    if not vectors:
        raise DataError(f"none of the images in {data} can be read")
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
    """Write path, label (a class name, or null) and embedding (D numbers) of every image to `out`.

    One row group a batch, so that memory does not grow with the set. The file appears when it is complete;
    until then its parts lie in OUT.parts, and the same call goes on after them. Processes that torchrun
    started share the parts. Returns what was written. Raises SiamError.
    """
    _require_batches(batch_size)
    out = Path(out)
    if out.is_dir():
        raise RunError(f"{out} is a folder: give the file to write, such as {out / 'vectors.parquet'}")
    parts = out.with_name(out.name + ".parts")
    sets = _sets(open_images(data))
    job = {
        "weights": _digest(run), "data": str(data), "images": [len(images) for images in sets],
        "batch_size": batch_size, "layer": layer, "precision": precision,
    }  # fmt: skip
    size = _PART * batch_size
    tune_process(find_device(local_device(device)))
    with process_group(device, seconds=3600), Progress(console=_console(console)) as bar:
        try:
            on_rank_zero(lambda: _continue_or_start(parts, job))
            for number, images in enumerate(sets):
                files = [parts / f"{number}-{part:08d}.parquet" for part in range(-(-len(images) // size))]
                done = on_rank_zero(lambda files=files: [file.exists() for file in files])  # type: ignore[misc]
                own = np.flatnonzero(~np.array(done))[rank() :: world_size()]
                part_of = np.arange(len(images)) // size
                before = int(np.isin(part_of, np.flatnonzero(done)).sum())
                task = bar.add_task(f"embed {images.name}", total=len(images), completed=before)
                which = np.flatnonzero(np.isin(part_of, own))
                batches = _vectors(run, images, which, device, batch_size, workers, layer)
                for part, rows in _in_parts(_moving(bar, task, batches), own.tolist(), size):
                    tables = [_table(images, features, indices, precision) for features, indices in rows]
                    write_atomically(
                        files[part],
                        lambda file, tables=tables: _write_tables(file, iter(tables)),  # type: ignore[misc]
                    )
                bar.update(task, completed=len(images))  # with those that cannot be read
            all_gather_object(None)  # now all parts are there
            written, dimension = on_rank_zero(lambda: _join(parts, out))
        except OSError as error:
            raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    total = sum(len(images) for images in sets)
    if not written:
        raise DataError(f"none of the {total} images in {data} can be read")
    return {"out": str(out), "images": written, "unreadable": total - written, "dimension": dimension}


def _require_batches(batch_size: int) -> None:
    if batch_size < 1:
        raise SettingsError(f"batch_size must be at least 1, got {batch_size}")


def _sets(sets: ImageSets) -> list[Images]:
    return [sets.train] if sets.val is None else [sets.train, sets.val]


def _console(console: Console | None) -> Console:
    return console or Console(stderr=True, quiet=rank() > 0)


def _vectors(
    run: str | Path,
    images: Images,
    which: NDArray[np.int64],
    device: str,
    batch_size: int,
    workers: int,
    layer: Layer,
) -> Iterator[Vectors]:
    """Of some of the images, in order."""
    where = find_device(local_device(device))
    encoder = load(run, str(where), layer)
    workers = workers if workers >= 0 else default_workers(where)
    views = center_views(images, encoder.image_size, which, batch_size, workers)
    for features, indices in stream(encoder, views, where, uses_bf16("auto", where)):
        yield features.numpy(), indices


def _moving(bar: Progress, task: TaskID, batches: Iterator[Vectors]) -> Iterator[Vectors]:
    """The batches; each moves the bar. All processes are taken to be as far as this one."""
    for features, indices in batches:
        bar.advance(task, len(indices) * world_size())
        yield features, indices


def _in_parts(batches: Iterator[Vectors], parts: list[int], size: int) -> Iterator[tuple[int, list[Vectors]]]:
    """Each of the parts with its batches; one without a readable image is empty."""
    waiting = next(batches, None)
    for part in parts:
        rows = list[Vectors]()
        while waiting is not None and int(waiting[1][0]) // size == part:
            rows.append(waiting)
            waiting = next(batches, None)
        yield part, rows


def _continue_or_start(parts: Path, job: dict[str, Any]) -> None:
    """Keep the parts of the same job, and nothing of another."""
    file = parts / "job.json"
    if parts.exists() and not (file.exists() and file.read_text() == json.dumps(job)):
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda opened: opened.write(json.dumps(job).encode()))


def _digest(run: str | Path) -> str:
    """Of the weights that the vectors come from."""
    digest = hashlib.sha256()
    for name in (ENCODER, CHECKPOINT, NETWORK):
        file = Path(run) / name
        if file.exists():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _join(parts: Path, out: Path) -> tuple[int, int]:
    """All row groups in one file, moved into place; returns how many rows, and their dimension."""
    rows = dimension = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal rows, dimension
        for file in sorted(parts.glob("*.parquet"), key=lambda path: tuple(map(int, path.stem.split("-")))):
            opened = pq.ParquetFile(file)
            for group in range(opened.num_row_groups if opened.metadata.num_rows else 0):
                table = opened.read_row_group(group)
                rows, dimension = rows + len(table), table.schema.field("embedding").type.list_size
                yield table

    beside = parts / "joined"
    with beside.open("wb") as file:
        _write_tables(file, tables())
    if rows:
        beside.replace(out)
    shutil.rmtree(parts)
    return rows, dimension


def _write_tables(file: Any, tables: Iterator[pa.Table]) -> None:
    """Each as a row group."""
    writer: pq.ParquetWriter | None = None
    for table in tables:
        if writer is None:
            writer = pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is None:  # no rows: a file all the same, so that the part counts as done
        pq.write_table(pa.table({}), file)
    else:
        writer.close()


def _table(
    images: Images, features: NDArray[np.float32], indices: NDArray[np.int64], precision: Precision
) -> pa.Table:
    values = features.astype(precision).ravel()
    labels = (
        [None] * len(indices)
        if images.labels is None
        else [images.classes[images.labels[i]] for i in indices]
    )
    return pa.table(
        {
            "path": pa.array([images.path(int(i)) for i in indices], pa.string()),
            "label": pa.array(labels, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), features.shape[1]),
        }
    )
