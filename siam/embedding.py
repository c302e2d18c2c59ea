"""One vector per image: as arrays in Python, or streamed into a Parquet file of any length."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from siam.data.images import Images, ImageSets, open_images
from siam.data.loader import default_workers
from siam.errors import DataError, RunError
from siam.evaluate.features import centre_views, stream
from siam.runs import Encoder, load
from siam.train.device import pick_device, uses_bf16


def embed(
    run: str | Path, data: str | Path, device: str = "auto", batch_size: int = 256, workers: int = -1
) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors float32 (N, D) and the paths of the images that they belong to, in the set's order.

    Images that cannot be read are left out. Raises SiamError.
    """
    vectors: list[NDArray[np.float32]] = []
    paths: list[str] = []
    for images in _parts(open_images(data)):
        for features, indices in _batches(run, images, device, batch_size, workers):
            vectors.append(features)
            paths += [images.path(int(i)) for i in indices]
    return np.concatenate(vectors), paths


def embed_to_parquet(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = -1,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write path, label (a class name, or null) and embedding (D float32) of every image to `out`.

    One row group a batch, so that memory does not grow with the set; the file appears when it is complete.
    Returns what was written. Raises SiamError.
    """
    out = Path(out)
    sets = open_images(data)
    beside = out.with_name(out.name + ".writing")
    written = total = dimension = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            bar = stack.enter_context(Progress(console=console or Console(stderr=True)))
            writer: pq.ParquetWriter | None = None
            for images in _parts(sets):
                total += len(images)
                task = bar.add_task(f"embed {images.name}", total=len(images))
                for features, indices in _batches(run, images, device, batch_size, workers):
                    table = _table(images, features, indices)
                    if writer is None:
                        dimension = features.shape[1]
                        writer = stack.enter_context(pq.ParquetWriter(beside, table.schema))
                    writer.write_table(table)
                    written += len(indices)
                    bar.update(task, advance=len(indices))
        beside.replace(out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    return {"out": str(out), "images": written, "unreadable": total - written, "dimension": dimension}


def _parts(sets: ImageSets) -> list[Images]:
    return [sets.train] if sets.val is None else [sets.train, sets.val]


def _batches(
    run: str | Path, images: Images, device: str, batch_size: int, workers: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    where = pick_device(device)
    encoder: Encoder = load(run, str(where))
    workers = workers if workers >= 0 else default_workers(where)
    some = False
    views = centre_views(images, encoder.image_size, None, batch_size, workers)
    for features, indices in stream(encoder, views, where, uses_bf16("auto", where)):
        some = True
        yield features.numpy(), indices
    if not some:
        raise DataError(f"none of the {len(images)} images in {images.name} can be read")


def _table(images: Images, features: NDArray[np.float32], indices: NDArray[np.int64]) -> pa.Table:
    dimension = features.shape[1]
    labels = (
        [None] * len(indices)
        if images.labels is None
        else [images.classes[images.labels[i]] for i in indices]
    )
    return pa.table(
        {
            "path": pa.array([images.path(int(i)) for i in indices], pa.string()),
            "label": pa.array(labels, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), dimension),
        }
    )
