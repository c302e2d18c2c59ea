"""`siam explore --serve`: open a map that was written before, or write it first."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from siam.atlas.given import VECTORS, open_given
from siam.atlas.page import PAGE
from siam.atlas.studio import Studio
from siam.atlas.table import MAP, read_map
from siam.convert.vectors import is_current
from siam.errors import SettingsError, SiamError
from siam.runs.encoder import load


def require_data(data: str | None) -> str:
    """Return DATA. Raises SettingsError if there is none."""
    if data is None:
        raise SettingsError("--serve needs DATA, to show the images")
    return data


def written(run: str | None, data: str, vectors: str | None, out: str | Path) -> dict[str, Any] | None:
    """Return the summary of a map in OUT if it is of these vectors, or of this run and these images."""
    folder = Path(out).expanduser()
    try:
        if vectors is None and not (run and is_current(run, data, folder / VECTORS)):
            return None
        mapped = pq.read_table(folder / MAP, columns=["path"]).column("path")
        embedded = pq.read_table(vectors or folder / VECTORS, columns=["path"]).column("path")
    except (OSError, pa.ArrowException):
        return None
    if not (folder / PAGE).exists() or mapped.to_pylist() != embedded.to_pylist():
        return None
    return {"map": str(folder / MAP), "page": str(folder / PAGE), "images": len(mapped)}


def open_studio(
    run: str | None,
    data: str | None,
    vectors: str | None,
    out: str | Path,
    device: str = "auto",
    workers: int = -1,
) -> Studio:
    """Open the map in OUT with its images, its vectors and the run's encoder. Raises SiamError."""
    folder = Path(out).expanduser()
    given = open_given(
        run, require_data(data), vectors, device, workers, Console(stderr=True, quiet=True), folder / VECTORS
    )
    assert given.images is not None  # there is DATA
    encoder = None if run is None else load(run, device)
    try:
        return Studio(read_map(folder), folder, given.images, given.embedded.vectors, encoder)
    except SiamError as error:
        raise type(error)(f"{error}; write the map again, without --serve") from None
