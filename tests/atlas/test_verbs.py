"""`siam explore`, `search`, `duplicates` and `outliers`, in Python and on the command line."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import siam
from siam.atlas import layout
from siam.atlas.embedded import read_vectors
from siam.atlas.table import read_map
from siam.cli import command as cli
from siam.convert.vectors import embed_to_parquet
from siam.errors import DataError, RunError, SettingsError

COPY, ORIGINAL = "light/copy.jpg", "light/003.jpg"


def printed(capsys, *args):
    """Return the JSON that a verb prints."""
    capsys.readouterr()
    assert cli.main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def vectors(run, looked_at, tmp_path_factory):
    file = tmp_path_factory.mktemp("vectors") / "vectors.parquet"
    embed_to_parquet(run, looked_at, file, device="cpu", workers=0)
    return file


@pytest.fixture(scope="module")
def mapped(run, looked_at, tmp_path_factory):
    out = tmp_path_factory.mktemp("mapped") / "map"
    summary = siam.explore(run, looked_at, out, k=3, clusters=2, device="cpu", workers=0)
    return out, summary


def test_explore_writes_a_map(mapped, looked_at, run):
    out, summary = mapped
    found = read_map(out)
    rows = found.table.to_pylist()
    assert {k: summary[k] for k in ("images", "clusters", "duplicates", "duplicate_groups")} == {
        "images": 13, "clusters": 2, "duplicates": 1, "duplicate_groups": 1,
    }  # fmt: skip
    vectors, paths = siam.embed(run, looked_at, device="cpu", workers=0)
    assert [row["path"] for row in rows] == paths
    assert {row["label"] for row in rows} == {"dark", "light"}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    for i, row in enumerate(rows):
        nearest = np.sort(cosines[i])[::-1][:3]
        np.testing.assert_allclose(row["similarity"], nearest, atol=1e-5)
        np.testing.assert_allclose(cosines[i][row["neighbors"]], nearest, atol=1e-5)
        assert row["outlier"] == pytest.approx(1 - nearest.mean(), abs=1e-5)
        assert row["thumbnail"].startswith(b"\xff\xd8")
        assert np.isfinite([row["x"], row["y"]]).all()
    first, second = sorted([paths.index(COPY), paths.index(ORIGINAL)])
    assert rows[second]["duplicate_of"] == paths[first]
    assert found.facts["duplicates"] == [[first, second]]
    assert (found.facts["data"], found.facts["run"], found.facts["k"]) == (str(looked_at), str(run), 3)
    for one in found.facts["clusters"]:
        members = [i for i, row in enumerate(rows) if row["cluster"] == one["cluster"]]
        assert one["size"] == len(members)
        assert set(one["representatives"]) <= set(members)
        assert all(rows[i]["representative"] for i in one["representatives"])


def test_explore_again_finds_the_vectors_that_it_wrote(mapped, looked_at, run, monkeypatch):
    out, _ = mapped
    before = (out / "vectors.parquet").stat().st_mtime_ns
    siam.explore(run, looked_at, out, k=3, device="cpu", workers=0)
    assert (out / "vectors.parquet").stat().st_mtime_ns == before


def test_a_map_of_vectors_alone_has_no_pictures(vectors, tmp_path, capsys):
    summary = printed(capsys, "explore", "--vectors", vectors, "--out", tmp_path / "map", "--device", "cpu")
    table = read_map(tmp_path / "map").table
    assert summary["images"] == len(table) == 13
    assert table["thumbnail"].null_count == 13
    assert read_map(tmp_path / "map").facts["run"] is None
    assert not (tmp_path / "map" / "vectors.parquet").exists()


def test_duplicates_and_outliers_of_vectors_and_of_images_are_the_same(run, looked_at, vectors, capsys):
    found = siam.duplicates(run, looked_at, device="cpu", workers=0)
    groups = [sorted([COPY, ORIGINAL])]
    assert [sorted(group) for group in found["groups"]] == groups
    assert (found["images"], found["duplicates"], found["exact"]) == (13, 1, 1)
    again = printed(capsys, "duplicates", looked_at, "--vectors", vectors, "--device", "cpu", "--workers", 0)
    assert again == found
    oddest = siam.outliers(run, looked_at, k=3, count=4, device="cpu", workers=0)
    assert len(oddest["outliers"]) == 4
    distances = [one["distance"] for one in oddest["outliers"]]
    assert distances == sorted(distances, reverse=True)
    again = printed(capsys, "outliers", "--vectors", vectors, "--k", 3, "--count", 4, "--device", "cpu")
    assert [one["path"] for one in again["outliers"]] == [one["path"] for one in oddest["outliers"]]


def test_search_finds_the_picture_and_its_copy(run, looked_at, vectors, mapped, capsys):
    query = looked_at / ORIGINAL
    found = siam.search(run, query, vectors, k=3, device="cpu")
    assert {one["path"] for one in found["results"][:2]} == {COPY, ORIGINAL}
    assert found["results"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["exact"]
    for place in (looked_at, mapped[0]):
        again = printed(capsys, "search", run, query, place, "--k", 3, "--device", "cpu", "--workers", 0)
        assert [one["path"] for one in again["results"]] == [one["path"] for one in found["results"]]


def test_search_by_an_index_that_is_built_once(run, looked_at, vectors):
    found = siam.search(run, looked_at / ORIGINAL, vectors, k=3, exact_below=0, device="cpu")
    assert not found["exact"]
    assert {one["path"] for one in found["results"][:2]} == {COPY, ORIGINAL}
    assert vectors.with_name("vectors.parquet.faiss").exists()


def test_search_writes_a_page_in_which_names_are_text(run, looked_at, mapped, tmp_path):
    for place in (looked_at, mapped[0]):
        page = tmp_path / f"{place.name}.html"
        siam.search(run, looked_at / ORIGINAL, place, k=13, html=page, device="cpu", workers=0)
        text = page.read_text()
        assert "&lt;img src=x onerror=alert(1)&gt;\\n&#34;&#39;.jpg" in text
        assert "<img src=x" not in text
        assert text.count("data:image/jpeg;base64,") == 14


def test_tables_show_hostile_names_on_one_line(run, looked_at, vectors, tmp_path, capsys):
    listed = tmp_path / "odd.txt"
    args = ["outliers", "--vectors", str(vectors), "--k", "3", "--list-to", str(listed), "--device", "cpu"]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "onerror=alert(1)>\\n" in "".join(out.split())
    assert len(listed.read_text().splitlines()) == 13
    args = ["duplicates", str(run), str(looked_at), "--list-to", str(listed), "--device", "cpu"]
    assert cli.main([*args, "--workers", "0"]) == 0
    assert listed.read_text() in (f"{COPY}\n", f"{ORIGINAL}\n")
    assert "1 duplicates (1 exact copies) among 13 images" in capsys.readouterr().out


def test_errors_say_what_to_do(run, looked_at, vectors, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="RUN and DATA are needed, or --vectors"):
        siam.duplicates(run)
    with pytest.raises(SettingsError, match="k must be at least 1, got 0"):
        siam.search(run, looked_at / ORIGINAL, vectors, k=0)
    with pytest.raises(SettingsError, match="--html needs pictures"):
        siam.search(run, looked_at / ORIGINAL, vectors, html=tmp_path / "x.html")
    other = tmp_path / "other"
    shutil.copytree(looked_at, other / "renamed")
    with pytest.raises(DataError, match="none of the images in"):
        siam.duplicates(None, other, vectors)
    monkeypatch.setattr(layout, "_PACKAGE", "no_such_package")
    with pytest.raises(SettingsError, match=r"umap-learn is not installed: pip install 'siam\[explore\]'"):
        siam.explore(run, looked_at, tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_vectors_of_another_encoder_are_refused(run, looked_at, vectors, tmp_path):
    table = pq.read_table(vectors)
    about = {**json.loads(table.schema.metadata[b"siam"]), "weights": "0"}
    pq.write_table(table.replace_schema_metadata({"siam": json.dumps(about)}), tmp_path / "v.parquet")
    with pytest.raises(RunError, match="was written with another encoder"):
        siam.search(run, looked_at / ORIGINAL, tmp_path / "v.parquet", device="cpu")
    short = pa.table({"path": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    pq.write_table(short, tmp_path / "short.parquet")
    with pytest.raises(RunError, match="has vectors of 2 values, but the encoder of"):
        siam.search(run, looked_at / ORIGINAL, tmp_path / "short.parquet", device="cpu")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a", "b"], "embedding": [[1.0, 2.0], [3.0]]}, "differ in length"),
        ({"path": ["a", "b"], "embedding": [[1.0], None]}, "are missing or differ in length"),
        ({"path": ["a", "b"], "embedding": [[1.0], [float("nan")]]}, "values that are not finite"),
        ({"path": ["a"], "embedding": [[1.0]]}, "has 1 vectors: at least 2 are needed"),
        ({"path": ["a", "b"], "vector": [[1.0], [2.0]]}, "has no column 'embedding', only path, vector"),
        ({"path": ["a", "b"], "embedding": [1.0, 2.0]}, "holds no lists of numbers"),
    ],
)
def test_files_that_are_no_vectors(columns, message, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        read_vectors(tmp_path / "v.parquet")


def test_float16_lists_and_numeric_labels_are_read(tmp_path):
    column = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float16()))
    pq.write_table(
        pa.table({"path": ["a", "b"], "embedding": column, "label": [7, None]}), tmp_path / "v.parquet"
    )
    found = read_vectors(tmp_path / "v.parquet")
    assert found.vectors.dtype == np.float32
    assert found.vectors.tolist() == [[1, 2], [3, 4]]
    assert found.labels == ["7", None]
