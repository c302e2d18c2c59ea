"""Vectors in Parquet: what stands in which row, and what a reader finds."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import siam as package
from siam.embedding import embed_to_parquet
from siam.errors import RunError
from tests.conftest import TINY, siam


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    siam("pretrain", "demo", *TINY, "--epochs", 1, "--batch-size", 500, "--out", folder, check=0)
    return folder


def test_rows_are_paths_labels_and_vectors(run, classes, tmp_path):
    (classes / "train" / "dark" / "000.jpg").write_bytes(b"")
    written = embed_to_parquet(run, classes, tmp_path / "v.parquet", batch_size=10)
    assert written["images"] == 35
    assert written["unreadable"] == 1
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["path", "label", "embedding"]
    assert table["path"][0].as_py() == "train/dark/001.jpg"
    assert set(table["label"].to_pylist()) == {"dark", "light"}
    vectors, paths = package.embed(run, classes)
    stored = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert table["path"].to_pylist() == paths
    assert np.allclose(stored, vectors, atol=1e-2)
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups == 5  # 23 and 12 images in tens


def test_without_labels_the_column_is_null(run, photos, tmp_path):
    embed_to_parquet(run, photos, tmp_path / "v.parquet")
    assert pq.read_table(tmp_path / "v.parquet")["label"].null_count == 24


def test_nothing_is_left_where_it_cannot_write(run, photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        embed_to_parquet(run, photos, tmp_path / "file" / "v.parquet")


def test_vectors_do_not_depend_on_the_batch(run, photos):
    one, _ = package.embed(run, photos, batch_size=24)
    other, _ = package.embed(run, photos, batch_size=5)
    assert np.allclose(one, other, atol=2e-2)  # bf16 where the machine has it
