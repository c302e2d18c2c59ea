"""Images in a Parquet column of bytes, or {bytes, path} structs (Hugging Face).

Row groups are read whole, so an epoch visits only a few at a time (see
`grouped_order`), and each worker caches the row groups it used most recently.
"""

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from siam.data import remote
from siam.data.decode import BrokenImage
from siam.data.images import Encoded, ImageSets
from siam.data.labels import align_classes
from siam.data.packed import PackedStrings
from siam.data.patterns import expand_shards
from siam.data.splits import files_outside, split_by_name
from siam.errors import DataError, first_line
from siam.system.files import regular

LOOKS_LIKE = "Parquet files"
ORDER = 40

_KEPT = 40  # row groups cached per worker: a few more than an epoch visits at once
_LABEL_COLUMNS = ("label", "labels", "class", "cls", "fine_label")


def recognizes(name: str) -> bool:
    files = expand_shards(name)
    return bool(files) and files[0].endswith(".parquet")


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


class ParquetImages(Encoded):
    """Images in one or more Parquet files, in row order."""

    groups: NDArray[np.int64]

    def __init__(self, name: str, files: list[str], unreadable: dict[str, str]) -> None:
        """Read the names and labels of all images.

        unreadable: dict to fill with unreadable files, path -> reason. Raises DataError
        if a file has no image column.
        """
        self.name = name
        self.places: list[tuple[str, int]] = []  # file and number of each row group
        counts: list[int] = []
        names: list[str] = []
        labels: list[Any] = []
        self.column = ""
        for file in files:
            try:
                parquet = _open(file)
                schema = parquet.schema_arrow
                column, label = _image_column(name, schema), _label_column(schema)
                groups = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
                found, values = _names(parquet, file, column), _values(parquet, label)
            except (OSError, pa.ArrowException) as error:
                unreadable[file] = f"skipped, {first_line(error)}"
                continue
            self.column, self.classes = column, self.classes or _class_names(schema, label)
            self.places += [(file, g) for g in range(len(groups))]
            counts += groups
            names += found
            labels += values
        self.groups = np.cumsum([0, *counts])
        self.names = PackedStrings(names)
        if names and len(labels) == len(names) and None not in labels:
            self._set_labels(labels)
        else:
            self.classes = ()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def _set_labels(self, labels: list[Any]) -> None:
        """Set the labels of all images.

        Labels are used as they are if they index the stored class names; otherwise,
        their distinct values are the classes.
        """
        indices = range(len(self.classes))
        if self.classes and all(isinstance(value, int) and value in indices for value in labels):
            self.labels = np.array(labels, dtype=np.int64)
            return
        found = sorted(set(labels))
        number = {value: i for i, value in enumerate(found)}
        self.classes = tuple(map(str, found))
        self.labels = np.array([number[value] for value in labels], dtype=np.int64)

    def encoded(self, i: int) -> bytes:
        group = int(np.searchsorted(self.groups, i, side="right")) - 1
        try:
            value = self._rows(group)[i - int(self.groups[group])].as_py()
        except (OSError, pa.ArrowException) as error:
            raise BrokenImage(
                f"its row group cannot be read: {first_line(error)}", int(self.groups[group + 1])
            ) from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise BrokenImage("the row has no image")
        return bytes(data)

    def _rows(self, group: int) -> Any:
        if group not in self._kept:
            file, number = self.places[group]
            table = _open(file).read_row_group(number, columns=[self.column])
            self._kept[group] = table.column(0).combine_chunks()
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]

    def __getstate__(self) -> dict[str, Any]:
        """Omit cached row groups: each worker reads its own."""
        return {**self.__dict__, "_kept": OrderedDict()}


def _open(file: str) -> Any:
    if remote.is_remote(file):
        import fsspec

        return pq.ParquetFile(fsspec.open(file, "rb").open())
    return pq.ParquetFile(regular(file), memory_map=True)


def _image_column(name: str, schema: Any) -> str:
    """Return the name of the first column of bytes, or of structs with a `bytes` field.

    Raises DataError if there is no such column.
    """
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(field.name)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise DataError(f"{name} has no column of encoded images, only {columns}")


def _label_column(schema: Any) -> str | None:
    for column in _LABEL_COLUMNS:
        kind = schema.field(column).type if column in schema.names else None
        if kind is not None and (pa.types.is_integer(kind) or pa.types.is_string(kind)):
            return column
    return None


def _values(parquet: Any, column: str | None) -> list[Any]:
    if column is None:
        return []
    values: list[Any] = parquet.read(columns=[column]).column(0).to_pylist()
    return values


def _class_names(schema: Any, label: str | None) -> tuple[str, ...]:
    """Return the class names in Hugging Face metadata; () if there are none."""
    try:
        stored = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in stored)
    except (KeyError, TypeError, ValueError):
        return ()


def _names(parquet: Any, file: str, column: str) -> list[str]:
    """Return the path stored in each row, or FILE#ROW for rows without one."""
    rows = parquet.metadata.num_rows
    paths: list[Any] = [None] * rows
    kind = parquet.schema_arrow.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        structs = parquet.read(columns=[f"{column}.path"]).column(0).to_pylist()
        paths = [struct and struct["path"] for struct in structs]
    base = file.rpartition("/")[2]
    return [path or f"{base}#{row}" for row, path in enumerate(paths)]
