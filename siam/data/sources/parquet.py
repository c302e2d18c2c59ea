"""Images in a Parquet column of bytes, of {bytes, path} structs (Hugging Face), or of paths.

Paths are relative to the Parquet file, and lead to image files in its folder. Row groups
are read whole, so an epoch visits only a few at a time (see `grouped_order`), and each
worker caches the row groups it used most recently.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from siam.data import remote
from siam.data.columns import class_names, image_column, label_column, label_values, values_of
from siam.data.decode import BrokenImage
from siam.data.images import Encoded, ImageSets
from siam.data.label_values import Value, number_labels
from siam.data.labels import align_classes
from siam.data.packed import PackedStrings
from siam.data.patterns import expand_shards, kind_of_shard
from siam.data.splits import files_outside, split_by_name
from siam.errors import DataError, first_line
from siam.system.files import regular

LOOKS_LIKE = "Parquet files"
ORDER = 40

_KEPT = 40  # row groups cached per worker: a few more than an epoch visits at once


def recognizes(name: str) -> bool:
    files = expand_shards(name)
    return bool(files) and kind_of_shard(files[0]) == ".parquet"


def open(name: str) -> ImageSets:
    files = list(expand_shards(name))
    unreadable: dict[str, str] = {}
    train, val = split_by_name(files)
    parts = (train, val) if train and val else (train or files,)
    sets = [ParquetImages(name, part, unreadable) for part in parts]
    for images in sets:
        if not len(images):
            reason = f" ({next(iter(unreadable.values()))})" if unreadable else ""
            raise DataError(f"found no images in {name}{reason}")
    left_out = files_outside(files, train, val)
    if len(sets) == 2:
        align_classes(sets[0], sets[1], left_out)
    return ImageSets(sets[0], sets[1] if len(sets) == 2 else None, unreadable, left_out)


@dataclass(frozen=True)
class _Table:
    """Contents of a Parquet file: its image column, rows per group, and each row's name and label."""

    column: str
    counts: list[int]
    names: list[str]
    labels: list[Value]
    classes: tuple[str, ...]


class ParquetImages(Encoded):
    """Images in one or more Parquet files, in row order."""

    groups: NDArray[np.int64]

    def __init__(self, name: str, files: list[str], unreadable: dict[str, str]) -> None:
        """Read the names and labels of all images.

        unreadable: dict to fill with unreadable files, path -> reason. Raises DataError
        if a file has no image column.
        """
        self.name = name
        self.places: list[tuple[str, str, int]] = []  # file, image column and number of each row group
        tables: list[_Table] = []
        for file in files:
            try:
                table = _read_table(file)
            except (OSError, pa.ArrowException) as error:
                unreadable[file] = f"skipped, {first_line(error)}"
                continue
            tables.append(table)
            self.places += [(file, table.column, group) for group in range(len(table.counts))]
        self.groups = np.cumsum([0, *(count for table in tables for count in table.counts)])
        self.names = PackedStrings(name for table in tables for name in table.names)
        classes = next((table.classes for table in tables if table.classes), ())
        values = [value for table in tables for value in table.labels]
        self.classes, self.labels = number_labels(values, classes)
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def encoded(self, i: int) -> bytes:
        group = int(np.searchsorted(self.groups, i, side="right")) - 1
        try:
            value = self._rows(group)[i - int(self.groups[group])].as_py()
        except (
            OSError,
            pa.ArrowException,
            UnicodeDecodeError,
            IndexError,
        ) as error:  # fewer rows than claimed
            raise BrokenImage(
                f"its row group cannot be read: {first_line(error)}", int(self.groups[group + 1])
            ) from None
        data, path = _data_and_path(value)
        return _read_next_to(self.places[group][0], path) if data is None else bytes(data)

    def _rows(self, group: int) -> Any:
        if group not in self._kept:
            file, column, number = self.places[group]
            table = _open(file).read_row_group(number, columns=[column])
            self._kept[group] = table.column(0).combine_chunks()
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]

    def signature(self) -> bytes:
        """Return the sizes of all row groups."""
        files = {file: _open(file).metadata for file, _, _ in self.places}
        return str([files[file].row_group(group).total_byte_size for file, _, group in self.places]).encode()

    def __getstate__(self) -> dict[str, Any]:
        """Omit cached row groups: each worker reads its own."""
        return {**self.__dict__, "_kept": OrderedDict()}


def _open(file: str) -> Any:
    if remote.is_remote(file):
        import fsspec

        return pq.ParquetFile(fsspec.open(file, "rb").open())
    return pq.ParquetFile(regular(file), memory_map=True)


def _read_table(file: str) -> _Table:
    parquet = _open(file)
    schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    column, label = image_column(file, parquet), label_column(schema)
    return _Table(
        column,
        [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)],
        _names(parquet, file, column),
        [None] * rows if label is None else label_values(parquet, label),
        class_names(schema, label),
    )


def _names(parquet: Any, file: str, column: str) -> list[str]:
    """Return the path stored in each row, or FILE#ROW for all rows if some have none or the same one."""
    rows = parquet.metadata.num_rows
    kind = parquet.schema_arrow.field(column).type
    paths: list[Any] = []
    if pa.types.is_struct(kind) and any(kind.field(i).name == "path" for i in range(kind.num_fields)):
        structs = values_of(parquet.read(columns=[f"{column}.path"]).column(0))
        paths = [struct and struct["path"] for struct in structs]
    elif not pa.types.is_struct(kind) and not _is_binary(kind):
        paths = values_of(parquet.read(columns=[column]).column(0))
    if paths and all(paths) and len(set(paths)) == rows:
        return paths
    base = file.rpartition("/")[2]
    return [f"{base}#{row}" for row in range(rows)]


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _data_and_path(value: Any) -> tuple[bytes | None, str | None]:
    """Return the encoded image and the path in a row; None for either that is missing."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return (None, value) if isinstance(value, str) else (value, None)


def _read_next_to(file: str, path: str | None) -> bytes:
    """Read an image file in the folder of a Parquet file. Raises BrokenImage."""
    if not path:
        raise BrokenImage("the row has no image")
    plain = PurePath(path)
    if remote.is_remote(file) or plain.is_absolute() or ".." in plain.parts:
        raise BrokenImage("the row has no image, only a path that leads out of the Parquet file's folder")
    try:
        return (Path(file).parent / plain).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BrokenImage(f"the row has no image, only a path: {reason}") from None
