"""What write_page puts into map.html, and beside it, without a browser."""

import base64
import gzip
import hashlib
import itertools
import json
import re
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pytest

from siam.atlas import packing, page
from siam.atlas.table import Map
from siam.errors import RunError
from tests.atlas.maps import blobs, jpeg, map_of

WEB = files("siam.atlas") / "web"


@pytest.fixture
def whole():
    vectors, kinds = blobs(40, 4)
    paths = [f"{i:02d}.jpg" for i in range(40)]
    thumbnails = [jpeg((6 * i, 40, 90)) for i in range(40)]
    return map_of(paths, vectors, [f"kind {k}" for k in kinds], "/x/photos", [[0, 4, 8]], thumbnails)


def element(text, name):
    found = re.search(rf'<script type="[\w/]+" id="{name}"(?: data-codec="(\w+)")?>(.*?)</script>', text)
    if found[1] is None:
        return json.loads(found[2])
    data = base64.b64decode(found[2])
    return gzip.decompress(data) if found[1] == "gzip" else data


def chunk(data):
    """The neighbors, similarities and files of a chunk, read by its description."""
    n, k = np.frombuffer(data, np.uint32, 2)
    offsets = np.frombuffer(data, np.uint32, n + 1, 8)
    at = 8 + 4 * (n + 1)
    neighbors = np.frombuffer(data, np.uint32, n * k, at).reshape(n, k)
    similarity = np.frombuffer(data, np.uint8, n * k, at + 4 * n * k).reshape(n, k)
    files = data[at + 5 * n * k :]
    return neighbors, similarity, [files[a:b] for a, b in itertools.pairwise(offsets)]


def test_the_page_holds_the_whole_map(whole, tmp_path):
    text = page.write_page(whole, tmp_path / "new" / "map").read_text()
    facts, table = element(text, "facts"), whole.table.to_pylist()
    assert (facts["n"], facts["title"], facts["live"]) == (40, "photos", False)
    assert facts["duplicates"] == [[0, 4, 8]]
    assert json.loads(element(text, "data-paths")) == [row["path"] for row in table]
    points = np.frombuffer(element(text, "data-points"), np.float32).reshape(-1, 2)
    assert np.abs(points).max() == pytest.approx(1)
    spans = np.ptp(points, axis=0), np.ptp([[row["x"], row["y"]] for row in table], axis=0)
    np.testing.assert_allclose(spans[0] / spans[0].max(), spans[1] / spans[1].max(), rtol=1e-5)  # same aspect
    order = np.frombuffer(element(text, "data-order"), np.uint32)
    assert sorted(order) == list(range(40))
    neighbors, similarity, thumbnails = chunk(element(text, "data-chunk-0"))
    for place, row in enumerate(order):
        assert thumbnails[place] == table[row]["thumbnail"]
        assert neighbors[place].tolist() == table[row]["neighbors"]
        np.testing.assert_allclose(similarity[place] / 255, table[row]["similarity"], atol=0.003)


def test_columns_are_classes_or_numbers(whole):
    table = whole.table.append_column("camera", pa.array(["a", None] * 20))
    table = table.append_column("year", pa.array([2001.5, None] * 20))
    table = table.append_column("empty", pa.array([None] * 40, pa.string()))
    found = {about["name"]: (about, values) for about, values in packing.columns(Map(table, whole.facts))}
    assert list(found) == ["cluster", "label", "duplicate", "outlier", "camera", "year"]
    about, values = found["camera"]
    assert (about["values"], values.tolist()) == (["a"], [0, -1] * 20)
    assert np.isnan(found["year"][1]).tolist() == [False, True] * 20
    assert found["label"][0]["values"] == ["kind 0", "kind 1", "kind 2", "kind 3"]
    assert np.flatnonzero(found["duplicate"][1] == 0).tolist() == [0, 4, 8]


def test_a_large_set_keeps_its_chunks_beside_the_page(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 8)
    monkeypatch.setattr(page, "CHUNK", 8)
    monkeypatch.setattr(page, "INSIDE", 9000)
    (tmp_path / "map-0123456789ab-0001.js").touch()  # of an earlier page
    (tmp_path / "map-mine.js").touch()
    text = page.write_page(whole, tmp_path).read_text()
    facts, order = element(text, "facts"), np.frombuffer(element(text, "data-order"), np.uint32)
    assert facts["inside"] == 1
    assert "data-chunk-1" not in text
    beside = sorted(tmp_path.glob("map-*-*.js"))
    assert [file.name for file in beside] == [facts["file"].replace("#", f"{i:04d}") for i in range(1, 5)]
    number, data = re.fullmatch(r'siamChunk\((\d),"(.*)"\)', beside[1].read_text()).groups()
    assert number == "2"
    assert chunk(base64.b64decode(data))[2] == [
        whole.table["thumbnail"][int(r)].as_py() for r in order[16:24]
    ]
    assert (tmp_path / "map-mine.js").exists()


def test_ragged_and_missing_neighbors_thumbnails_and_scores(tmp_path):
    vectors, _ = blobs(5, 2)
    whole = map_of([f"{i}.jpg" for i in range(5)], vectors)
    rows = whole.table.to_pylist()
    for row in rows:
        row["outlier"] = None
    rows[0] |= {"neighbors": [], "similarity": [], "thumbnail": None}
    rows[1] |= {"neighbors": [3], "similarity": [-0.5]}
    ragged = Map(pa.Table.from_pylist(rows, schema=whole.table.schema), whole.facts)
    text = page.write_page(ragged, tmp_path, lambda row: b"jpeg" if row == 1 else None).read_text()
    order = np.frombuffer(element(text, "data-order"), np.uint32).tolist()
    neighbors, similarity, thumbnails = chunk(element(text, "data-chunk-0"))
    assert set(neighbors[order.index(0)].tolist()) == {2**32 - 1}
    assert neighbors[order.index(1)].tolist()[:2] == [3, 2**32 - 1]
    assert similarity[order.index(1)].max() == 0
    assert [thumbnails[order.index(row)] for row in range(5)] == [b"", b"jpeg", b"", b"", b""]
    assert element(text, "facts")["outliers"] == []


def test_names_cannot_leave_their_elements(tmp_path):
    hostile = "</script><script>alert(1)</script>&<!--"
    vectors, _ = blobs(2, 2)
    text = page.write_page(
        map_of([hostile] * 2, vectors, [hostile] * 2, f"/x/{hostile}"), tmp_path
    ).read_text()
    clean = page.write_page(map_of(["a"] * 2, vectors, ["b"] * 2, "/x/c"), tmp_path).read_text()
    for mark in ("<script", "</script", "<!--"):
        assert text.count(mark) == clean.count(mark)
    assert element(text, "facts")["title"] == hostile.rpartition("/")[2]


def test_the_policy_names_the_style_and_the_script_of_the_page():
    text = (WEB / "dist/page.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_the_built_page_is_of_these_sources():
    """If this fails: make web."""
    sources = sorted((WEB / "src").iterdir(), key=lambda file: file.name)
    digest = hashlib.sha256(
        "".join(f"{file.name}\n{file.read_text()}" for file in sources).encode()
    ).hexdigest()
    assert f'name="sources" content="{digest}"' in (WEB / "dist/page.html").read_text()


def test_a_folder_that_cannot_be_written_is_an_error(whole, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write to"):
        page.write_page(whole, tmp_path / "file")
