"""The folder OUT.parts, in which `siam embed` keeps finished parts until the file is complete."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from siam.data.fingerprint import changes
from siam.errors import RunError, first_line
from siam.system.files import locked, write_atomically

JOB = "job.json"
_WRITER = "siam embed"
UNREADABLE = b"unreadable"
"""Key of the metadata of a part: its unreadable images, path -> reason, as JSON."""


@contextmanager
def parts_folder(out: Path) -> Iterator[Path]:
    """Yield the locked folder for the parts of `out`, creating it if necessary.

    Raises RunError if there is a folder of that name that `siam embed` did not write, or if another process
    is writing the same file.
    """
    folder = out.with_name(out.name + ".parts")
    if folder.is_symlink() or (folder.exists() and not _is_own(folder)):
        raise RunError(f"{folder} was not written by siam: move it away, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield folder


def _is_own(folder: Path) -> bool:
    """Return whether a folder contains nothing but the files of an unfinished `siam embed`."""
    names = [file.name for file in folder.iterdir()]
    known = all(
        re.fullmatch(r"job\.json|\.lock|\d-\d{8,}\.parquet|\.siam-[0-9a-f]{16}\.writing", n) for n in names
    )
    begun = JOB in names and _load(folder).get("writer") == _WRITER
    return known and (begun or not set(names) - {".lock"})


def _load(folder: Path) -> dict[str, Any]:
    try:
        job = json.loads((folder / JOB).read_text())
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) else {}


def continue_or_start(folder: Path, job: dict[str, Any]) -> str:
    """Keep the parts of the same job, delete those of another, and return a message about the latter, or "".

    job: what the parts depend on, as plain values: `images`, a fingerprint, and others.
    """
    job = {"writer": _WRITER, **job}
    before = _load(folder)
    if before == job:
        return ""
    parts = sorted(folder.glob("*.parquet"))
    for part in parts:
        part.unlink()
    text = json.dumps(job)
    write_atomically(folder / JOB, lambda file: file.write(text.encode()))
    if not parts:
        return ""
    found = changes(before["images"], job["images"]) if "images" in before else []
    found += [name.replace("_", " ") for name in job if name != "images" and job[name] != before.get(name)]
    return f"starting over, because the interrupted call had other inputs: {', '.join(found)}"


def remove(folder: Path) -> None:
    """Delete the folder with its parts; keep anything else in it."""
    files = [*folder.glob("*.parquet"), *folder.glob(".siam-*.writing"), folder / JOB, folder / ".lock"]
    with suppress(OSError):  # Windows does not delete the lock while it is held
        for file in files:
            file.unlink(missing_ok=True)
        folder.rmdir()


def is_whole(part: Path) -> bool:
    """Return whether a part exists and its footer, which is written last, can be read."""
    try:
        metadata = pq.read_metadata(part)
    except (OSError, pa.ArrowException):
        return False
    schema = metadata.schema.to_arrow_schema()
    return UNREADABLE in (schema.metadata or {}) and (not metadata.num_rows or "embedding" in schema.names)


def row_groups(part: Path) -> Iterator[pa.Table]:
    """Yield the row groups of a part. Raises RunError if it is corrupt."""
    try:
        opened = pq.ParquetFile(part)
        for group in range(opened.num_row_groups if opened.metadata.num_rows else 0):
            yield opened.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{part} is corrupt ({first_line(error)}): delete it, and run the command again"
        ) from None
