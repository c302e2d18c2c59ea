"""The map of a set of images: one row per image in map.parquet, which other viewers open too."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from siam.errors import DataError, RunError, first_line
from siam.system.files import ELSEWHERE, regular, write_atomically, writing

MAP = "map.parquet"
_KEY = b"siam"

SCHEMA = pa.schema(
    {
        "path": pa.string(),  # within the set, as `siam embed` writes it
        "label": pa.string(),  # class name, or null
        "x": pa.float32(),
        "y": pa.float32(),
        "cluster": pa.int32(),  # -1: in none
        "representative": pa.bool_(),  # one of the pictures that stand for their cluster
        "duplicate_of": pa.string(),  # path of the first image of its group of duplicates, or null
        "outlier": pa.float32(),  # mean distance to the k nearest neighbors: the higher, the odder
        "neighbors": pa.list_(pa.int32()),  # rows of the k nearest neighbors, nearest first
        "similarity": pa.list_(pa.float32()),  # their cosines, in the same order
        "thumbnail": pa.binary(),  # JPEG, longer side 64 pixels; null if kept in other files
    }
)
"""Columns of map.parquet; rows are in the order of the set."""


@dataclass(frozen=True)
class Map:
    """A set of images laid out for looking at it."""

    table: pa.Table
    """One row per image, with the columns of `SCHEMA`."""
    facts: dict[str, Any]
    """About the whole set, as plain values.

    data: absolute path of the images, or None. run: the run that embedded them, or None.
    k: neighbors per image. clusters: [{"cluster": 0, "size": 12, "representatives": [rows]}], largest first.
    duplicates: [[rows of a group], ...], each in the order of the set.
    """

    def write(self, folder: str | Path) -> Path:
        """Write FOLDER/map.parquet, creating the folder, and return its path. Raises RunError."""
        file = Path(folder) / MAP
        table = self.table.replace_schema_metadata({_KEY: json.dumps(self.facts)})
        with writing(folder, ELSEWHERE):
            os.makedirs(folder, exist_ok=True)
            write_atomically(file, lambda opened: pq.write_table(table, opened, row_group_size=10_000))
        return file


def read_map(place: str | Path) -> Map:
    """Read a map from map.parquet or the folder that holds it.

    Raises RunError if there is none, and DataError if the file is no map.
    """
    file = Path(place) / MAP if os.path.isdir(place) else Path(place)
    try:
        table = pq.read_table(regular(file))
        facts = json.loads((table.schema.metadata or {})[_KEY])
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or first_line(error)}") from None
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{file} is not a map that siam explore wrote: {first_line(error)}") from None
    if not (isinstance(facts, dict) and table.schema.equals(SCHEMA)):
        raise DataError(f"{file} is not a map that siam explore wrote: it has other columns")
    return Map(table, facts)
