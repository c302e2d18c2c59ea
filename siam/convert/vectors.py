"""Embed images, and return the embeddings or stream them to a Parquet file."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from siam.convert.parts import UNREADABLE, continue_or_start, is_whole, parts_folder, remove, row_groups
from siam.data.fingerprint import fingerprint
from siam.data.given import open_given
from siam.data.images import Images, ImageSets, class_of
from siam.data.loader import choose_workers
from siam.data.sources import open_images
from siam.data.unreadable import Unreadable
from siam.errors import DataError, RunError
from siam.measure.features import center_views, stream
from siam.processes.agree import all_gather_object, on_rank_zero
from siam.processes.gather import rank, world_size
from siam.processes.rendezvous import local_device, process_group
from siam.runs.bars import OnProgress, print_line, print_sets, running_total, transient_progress
from siam.runs.encoder import Layer, digest_of, load
from siam.runs.folder import require_free
from siam.settings.checks import AtLeast, check
from siam.system.device import find_device, float32_by_default, uses_bf16
from siam.system.files import write_atomically, writing
from siam.system.names import stored

Precision = Literal["float32", "float16"]

_PART = 16  # batches per temporary file
_ABOUT = b"siam"
"""Key of the Parquet metadata that names the encoder and the images, as JSON."""

Vectors = tuple[NDArray[np.float32], NDArray[np.int64]]
"""A batch of embeddings (B, D) and the images' dataset indices (B,)."""


@dataclass(frozen=True)
class Embedder:
    """Computes embeddings of images with the encoder of a run or of weights that exist."""

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
        views = center_views(images, encoder.crop, indices, self.batch_size, workers, unreadable)
        for features, embedded in stream(encoder, views, device, uses_bf16("auto", device)):
            yield features.numpy(), embedded


@float32_by_default()
def embed(
    run: str | Path,
    data: Any,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = -1,
    layer: Layer = "backbone",
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the embeddings, float32 (N, D), and paths of all images, in dataset order.

    run: run folder, or weights that exist, such as `timm:resnet18.a1_in1k`. data: images, as in
    `siam.pretrain`; training images come first, then validation images. Also an image file, a list of
    them, PIL images, or uint8 arrays (H, W, 3) or (N, H, W, 3). layer: `backbone` for features, or
    `projector` for projector outputs z (N, d). workers: data-loading workers; -1: based on the number of
    cores. Unreadable images are skipped. Raises SettingsError, RunError if the run has no encoder, or
    DataError if no image is readable.
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


@float32_by_default()
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
    listed in OUT.unreadable.txt. Processes started by torchrun share the work. An existing
    file is replaced only if it contains vectors of the same encoder for the same data.
    Returns a summary. Raises SiamError.
    """
    embedder = Embedder(run, device, batch_size, workers, layer)
    out = _output(out)
    both = open_images(data)
    sets = _all_sets(both)
    console = console or Console(stderr=True, quiet=rank() > 0)
    print_sets(console, both)
    with (
        process_group(device, seconds=3600),
        transient_progress(console) as bar,
        ExitStack() as held,
        writing(out),
    ):
        about = on_rank_zero(lambda: _about(run, layer, data, both))
        parts = on_rank_zero(lambda: _parts_of(out, about, batch_size, precision, console, held))
        for number, images in enumerate(sets):
            progress = bar(f"embed {images.name}" + " (validation)" * number)
            _write_parts(embedder, images, parts, number, precision, progress)
        all_gather_object(None)  # a barrier: all parts now exist
        written, dimension, unreadable = on_rank_zero(lambda: _join(parts, out, about))
        listed = on_rank_zero(lambda: _list_unreadable(unreadable, out)) if written else ""
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
    file = _list_of(out)
    if unreadable:
        text = unreadable.as_text().encode()
        with writing(file):
            write_atomically(file, lambda opened: opened.write(text))
    return str(file)


def _list_of(out: Path) -> Path:
    return out.with_name(out.name + ".unreadable.txt")


def _output(out: str | Path) -> Path:
    """Return the path of the output file. Raises RunError if it cannot be a Parquet file."""
    out = Path(out).expanduser()
    if out.is_dir():
        raise RunError(f"{out} is a folder: specify a file, such as {out / 'vectors.parquet'}")
    if out.suffix.lower() not in ("", ".parquet", ".pq"):
        raise RunError(
            f"siam embed writes Parquet, not {out.suffix}: choose a name such as "
            f"{out.with_suffix('.parquet')}, or use siam.embed, which returns an array"
        )
    return out


def _about(run: str | Path, layer: Layer, data: str | Path, sets: ImageSets) -> dict[str, Any]:
    """Return the contents' origin: encoder, layer, and images, as stored in the file."""
    weights = digest_of(load(run, layer=layer))
    return {"weights": weights, "layer": layer, "data": Path(data).name, "images": fingerprint(sets)}


def _parts_of(
    out: Path, about: dict[str, Any], batch_size: int, precision: Precision, console: Console, held: ExitStack
) -> Path:
    """Return the folder of parts, locked as long as `held` is open. Raises RunError.

    A file of that name is replaced only if it contains vectors of the same encoder for the same data.
    """
    if not os.path.lexists(out):
        require_free(out.parent, [_list_of(out).name])
    elif not _may_replace(out, about):
        raise RunError(
            f"{out} exists and was not written from the same encoder and data: choose another --out, or "
            "delete it"
        )
    job = {**{name: about[name] for name in ("weights", "layer", "images")}, "batch_size": batch_size}
    with writing(out):
        parts = held.enter_context(parts_folder(out))
        message = continue_or_start(parts, {**job, "precision": precision})
    if message:
        print_line(console, message)
    return parts


def is_current(run: str | Path, data: str | Path, out: str | Path) -> bool:
    """Return True if `out` contains the backbone's embeddings of these very images."""
    return os.path.exists(out) and _origin(Path(out)) == _about(run, "backbone", data, open_images(data))


def _may_replace(out: Path, about: dict[str, Any]) -> bool:
    before = _origin(out)
    same = all(before.get(name) == about[name] for name in ("weights", "layer"))
    return same and any(before.get(name) == about[name] for name in ("data", "images"))


def _origin(out: Path) -> dict[str, Any]:
    """Return what a file's embeddings are of, as `_about` does; {} if `siam embed` did not write it."""
    try:
        before = json.loads((pq.read_schema(out).metadata or {})[_ABOUT])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}
    return before if isinstance(before, dict) else {}


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
    missing = on_rank_zero(lambda: [part for part, file in enumerate(files) if not is_whole(file)])
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
        metadata = {UNREADABLE: json.dumps(noted)}
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


def _join(parts: Path, out: Path, about: dict[str, Any]) -> tuple[int, int, Unreadable]:
    """Merge the parts into `out`, and delete them.

    Returns the number of rows, the embedding size and the unreadable images.
    """
    rows = dimension = 0
    unreadable = Unreadable()

    def tables() -> Iterator[pa.Table]:
        nonlocal rows, dimension
        for file in sorted(parts.glob("*.parquet"), key=lambda path: tuple(map(int, path.stem.split("-")))):
            unreadable.update(json.loads(pq.read_schema(file).metadata[UNREADABLE]))
            for table in row_groups(file):
                rows, dimension = rows + len(table), table.schema.field("embedding").type.list_size
                yield table

    first = next(merged := tables(), None)
    if first is not None:
        whole, metadata = itertools.chain([first], merged), {_ABOUT: json.dumps(about)}
        with writing(out):
            write_atomically(out, lambda file: _write_tables(file, whole, metadata))
    remove(parts)
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
