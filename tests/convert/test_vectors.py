"""Embeddings in Parquet: the contents of rows, and other libraries that read them."""

import json
from functools import partial

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import siam
from siam.convert import vectors as vectors_module
from siam.convert.vectors import embed_to_parquet
from siam.errors import DataError, RunError, SettingsError
from siam.runs.bars import Bars
from tests.command import Command
from tests.conftest import TINY, run_cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    run_cli("pretrain", "demo", *TINY, "--epochs", 1, "--batch-size", 500, "--out", folder, check=0)
    return folder


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Compute in float32 on machines with bf16 too, so that results differ by its rounding alone."""
    monkeypatch.setattr(vectors_module, "uses_bf16", lambda *_: False)


def test_rows_are_paths_labels_and_vectors(run, classes, tmp_path):
    (classes / "train" / "dark" / "000.jpg").write_bytes(b"")
    written = embed_to_parquet(run, classes, tmp_path / "v.parquet", batch_size=10)
    assert written["images"] == 35
    assert written["unreadable"] == 1
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["path", "label", "embedding"]
    assert table["path"][0].as_py() == "train/dark/001.jpg"
    assert set(table["label"].to_pylist()) == {"dark", "light"}
    vectors, paths = siam.embed(run, classes)
    stored = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert table["path"].to_pylist() == paths
    assert np.allclose(stored, vectors, rtol=1e-5, atol=1e-5)
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups == 5  # 23 and 12 images in tens


def test_without_labels_the_column_is_null(run, photos, tmp_path):
    embed_to_parquet(run, photos, tmp_path / "v.parquet")
    assert pq.read_table(tmp_path / "v.parquet")["label"].null_count == 24


def test_an_unwritable_path_is_an_error(run, photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        embed_to_parquet(run, photos, tmp_path / "file" / "v.parquet")


def test_a_folder_as_output_file_is_refused(run, photos, tmp_path):
    """The error comes before any work, so no parts are left behind."""
    with pytest.raises(RunError, match=r"photos is a folder: specify a file, such as .*\.parquet"):
        embed_to_parquet(run, photos, photos)
    assert not (tmp_path / "photos.parts").exists()


@pytest.mark.parametrize("embed", [siam.embed, partial(embed_to_parquet, out="v.parquet")])
def test_a_batch_size_of_zero_is_refused(run, photos, embed):
    with pytest.raises(SettingsError, match="batch_size must be at least 1, got 0"):
        embed(run, photos, batch_size=0)


def test_an_unavailable_device_is_an_error_of_one_line(run):
    with pytest.raises(SettingsError, match="device 'cuda:99' is not available here: choose cpu"):
        siam.load(run, device="cuda:99")


def test_one_image_is_enough(run, photos, tmp_path):
    """The query of a search."""
    query = tmp_path / "query"
    query.mkdir()
    (photos / "007.jpg").rename(query / "007.jpg")
    vectors, paths = siam.embed(run, query)
    assert (vectors.shape[0], paths) == (1, ["007.jpg"])
    run_cli("embed", run, query, "--workers", 0, "--out", tmp_path / "v.parquet", check=0)
    assert pq.read_table(tmp_path / "v.parquet")["path"].to_pylist() == ["007.jpg"]


def test_the_bar_moves_with_every_batch(run, photos, tmp_path, monkeypatch):
    moves = []
    monkeypatch.setattr(Bars, "update", lambda self, name, done, total: moves.append((done, total)))
    embed_to_parquet(run, photos, tmp_path / "v.parquet", batch_size=10)
    assert moves == [(0, 24), (10, 24), (20, 24), (24, 24), (24, 24)]


def test_vectors_do_not_depend_on_the_batch(run, photos):
    one, _ = siam.embed(run, photos, batch_size=24)
    other, _ = siam.embed(run, photos, batch_size=5)
    assert np.allclose(one, other, rtol=1e-5, atol=1e-5)
    assert np.ptp(one, axis=0).max() > 0.1, "images differ by more"


def test_killed_and_restarted_it_writes_the_same_file(run, tmp_path):
    out, parts = tmp_path / "v.parquet", tmp_path / "v.parquet.parts"
    command = ["embed", run, "demo", "--batch-size", "4", "--workers", "0", "--out"]
    Command(*command, out).kill_when(lambda: len(list(parts.glob("0-*.parquet"))) >= 5)
    assert not out.exists()
    assert len(list(parts.glob("*.parquet"))) >= 5
    done = run_cli(*command, out, "--json", check=0)
    assert json.loads(done.stdout)["images"] == 6000
    assert not parts.exists()
    run_cli(*command, tmp_path / "whole.parquet", check=0)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_parts_of_another_job_are_discarded(run, photos, tmp_path):
    parts = tmp_path / "v.parquet.parts"
    parts.mkdir()
    (parts / "job.json").write_text('{"writer": "siam embed"}')
    (parts / "0-00000000.parquet").write_bytes(b"of another run")
    assert embed_to_parquet(run, photos, tmp_path / "v.parquet")["images"] == 24


def interrupted(run, photos, out, monkeypatch):
    """Write the parts of 24 images, 16 in the first, but not the file; return the first part."""
    with monkeypatch.context() as patched:
        patched.setattr(vectors_module, "_join", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            embed_to_parquet(run, photos, out, batch_size=1)
    return out.with_name(f"{out.name}.parts") / "0-00000000.parquet"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", lambda data: bytes(len(data))]
)
def test_a_part_without_its_end_is_written_again(run, photos, tmp_path, monkeypatch, damage):
    part = interrupted(run, photos, tmp_path / "v.parquet", monkeypatch)
    part.write_bytes(damage(part.read_bytes()))
    assert embed_to_parquet(run, photos, tmp_path / "v.parquet", batch_size=1)["images"] == 24


def test_a_part_with_damaged_pages_is_named(run, photos, tmp_path, monkeypatch):
    part = interrupted(run, photos, tmp_path / "v.parquet", monkeypatch)
    data = part.read_bytes()
    part.write_bytes(data[:4] + b"\xff" * 300 + data[304:])
    with pytest.raises(RunError, match=r"0-00000000\.parquet is corrupt \(.*\): delete it") as raised:
        embed_to_parquet(run, photos, tmp_path / "v.parquet", batch_size=1)
    assert "\n" not in str(raised.value)
    part.unlink()
    assert embed_to_parquet(run, photos, tmp_path / "v.parquet", batch_size=1)["images"] == 24


def test_projector_output_in_half_precision(run, photos, tmp_path):
    written = embed_to_parquet(run, photos, tmp_path / "v.parquet", layer="projector", precision="float16")
    assert written["dimension"] == 16  # d of this run
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 16)
    z, _ = siam.embed(run, photos, layer="projector")
    stored = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert np.allclose(stored, z, rtol=2**-11, atol=2**-24), "rounded to 11 bits, or to the smallest number"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_libraries_read_it(run, photos, tmp_path):
    file = tmp_path / "v.parquet"
    embed_to_parquet(run, photos, file)
    vectors, paths = siam.embed(run, photos)
    frame = pandas.read_parquet(file)
    assert np.allclose(np.stack(frame["embedding"]), vectors, rtol=1e-5, atol=1e-5)
    assert np.allclose(polars.read_parquet(file)["embedding"].to_numpy(), vectors, rtol=1e-5, atol=1e-5)
    assert [row[0] for row in duckdb.sql(f"select path from '{file}'").fetchall()] == paths


def test_a_set_without_readable_images_is_an_error(run, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jpg").write_text("no")
    with pytest.raises(DataError, match="none of the 3 images"):
        embed_to_parquet(run, folder, tmp_path / "v.parquet")
    assert not (tmp_path / "v.parquet").exists()
