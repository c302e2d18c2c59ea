"""Find the images and labels in a Parquet file by metadata, types, names and contents of its columns."""

import json
import os
from typing import Any

import pyarrow as pa

from siam.data.kinds import is_image
from siam.data.label_values import Value
from siam.data.photographs import PHOTOGRAPH, rank, suffix_of
from siam.errors import DataError

PATHS = (
    "image", "img", "path", "file", "file_name", "filename", "image_path", "img_path", "file_path",
    "filepath",
)  # fmt: skip
"""Names of columns of paths to image files, for tables without encoded images."""
LABELS = (
    "label", "labels", "class", "cls", "class_name", "label_name", "class_label", "class_id", "category",
    "category_id", "target", "fine_label",
)  # fmt: skip
"""Names of label columns, in any case, most important first; others need ClassLabel metadata."""

_SNIFFED = 16  # rows


def image_column(file: str, parquet: Any) -> str:
    """Return the column of encoded images or, if there is none, of paths to image files.

    Columns marked as images in Hugging Face's metadata come first, then those whose first values are images;
    among these, photographs come before masks and the like. Raises DataError if there is no such column.
    """
    schema = parquet.schema_arrow
    marked = [name for name, kind in _features(schema).items() if kind.get("_type") == "Image"]
    encoded = [field.name for field in schema if _holds_bytes(field.type)]
    candidates = sorted([name for name in encoded if name in marked] or encoded, key=rank)
    looks_right = [name for name in candidates if _has_images(parquet, name)]
    named = [name for name in candidates if name in marked or rank(name)[0] == PHOTOGRAPH]
    if looks_right or named:
        return str([*looks_right, *named][0])
    for field in sorted(schema, key=lambda field: rank(field.name)):
        is_known = field.name in marked or field.name.lower() in PATHS
        if is_known and _is_text(field.type) and _has_paths(parquet, field.name):
            return str(field.name)
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise DataError(f"{file} has no column of encoded images, only {columns}")


def label_column(schema: Any) -> str | None:
    """Return the column of labels; None if there is none."""
    marked = [name for name, kind in _features(schema).items() if kind.get("_type") == "ClassLabel"]
    by_name = {name.lower(): name for name in reversed(schema.names)}
    known = [by_name[name] for name in LABELS if name in by_name]
    for name in [*(one for one in known if one in marked), *marked, *known]:
        if name in schema.names and _holds_labels(schema.field(name).type):
            return str(name)
    return None


def class_names(schema: Any, label: str | None) -> tuple[str, ...]:
    """Return the class names in Hugging Face's metadata; () if there are none."""
    names = _features(schema).get(label or "", {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def label_values(parquet: Any, column: str) -> list[Value]:
    """Return the labels of all rows."""
    return [_label(value) for value in values_of(parquet.read(columns=[column]).column(0))]


def _label(value: Any) -> Value:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):  # pandas stores integers with gaps as floats
        return int(value) if value.is_integer() else None
    return value


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return Hugging Face's description of the columns; {} if there is none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _holds_labels(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return numbers or _is_text(kind) or pa.types.is_binary(kind)


def values_of(column: Any) -> list[Any]:
    """Return a column's values; strings that are not UTF-8 as `os.fsdecode` returns them, None in structs."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return [None] * len(column)
        values = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else os.fsdecode(value) for value in values]


def _first_values(parquet: Any, column: str) -> list[Any]:
    """Return the first values of a column that are not null."""
    batch = next(parquet.iter_batches(batch_size=_SNIFFED, columns=[column]), None)
    values = [] if batch is None else values_of(batch.column(0))
    return [value for value in values if value is not None]


def _has_images(parquet: Any, column: str) -> bool:
    """Return True if one of the first values is an image, or a path in place of one."""
    for value in _first_values(parquet, column):
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if suffix_of(data) if data else _is_image_path(path):
            return True
    return False


def _has_paths(parquet: Any, column: str) -> bool:
    return any(map(_is_image_path, _first_values(parquet, column)))


def _is_image_path(value: Any) -> bool:
    return isinstance(value, str) and is_image(value.rpartition("/")[2])
