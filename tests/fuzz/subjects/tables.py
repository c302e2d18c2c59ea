"""Parquet files, arrays, and lists of paths."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from siam.data.sources import open_images
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import TEXT
from tests.fuzz.reading import read_some, small_images

SPECIAL = {".txt": TEXT, ".csv": TEXT}


def seeds() -> dict[str, Case]:
    jpg, png = small_images()
    structs = pa.array([{"bytes": jpg, "path": f"{n}.jpg"} for n in range(5)])
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    plain = pa.array([jpg, png, jpg, None, png], pa.binary())
    labels = pa.array([0, 1, 0, 1, 0])
    words = pa.array(["a", "b", "a", "b", "a"])
    files = {"fixed/a.jpg": jpg, "fixed/b.png": png}
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    split = {
        "images": arrays,
        "labels": np.arange(6) % 2,
        "val_images": arrays[:2],
        "val_labels": np.arange(2),
    }
    return {
        "hub": {"set.parquet": _parquet({"image": structs, "label": labels}, names)},
        "bytes": {"set.parquet": _parquet({"image": plain, "label": words}, {}, compression="gzip")},
        "dictionary": {
            "set.parquet": _parquet({"text": words, "image": plain, "cls": words.dictionary_encode()}, {})
        },
        "list": {"set.txt": b"fixed/a.jpg\nfixed/b.png\nfixed/a.jpg\n", **files},
        "labeled list": {"set.txt": b"fixed/a.jpg\tcat\nfixed/b.png\tdog\nfixed/a.jpg\tcat\n", **files},
        "csv": {"set.csv": b"path,label\nfixed/a.jpg,cat\nfixed/b.png,dog\n", **files},
        "npy": {"set.npy": _saved(np.save, arrays)},
        "floats": {"set.npy": _saved(np.save, (arrays / 255).astype(np.float32))},
        "npz": {"set.npz": _saved(np.savez, **split)},
        "compressed npz": {
            "set.npz": _saved(np.savez_compressed, images=arrays[..., 0], labels=split["labels"])
        },
    }


def _parquet(columns: dict[str, Any], metadata: dict[str, Any], **options: Any) -> bytes:
    data = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, data, row_group_size=2, **options)
    return data.getvalue()


def _saved(save: Any, *arrays: Any, **named: Any) -> bytes:
    data = io.BytesIO()
    save(data, *arrays, **named)
    return data.getvalue()


def check(case: Case, folder: Path) -> None:
    write(case, folder)
    read_some(open_images(folder / next(name for name in case if name.startswith("set."))))
