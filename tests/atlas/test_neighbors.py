"""Neighbors against all cosines sorted; the index against exact search."""

import json
import sys

import numpy as np
import pytest

from siam.atlas import neighbors as neighbors_module
from siam.atlas.index import index_of, open_or_build
from siam.atlas.neighbors import neighbors_of, neighbors_of_all
from siam.errors import RunError, SettingsError


def silent(done, total):
    pass


def vectors(count, dimension=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def all_sorted(queries, bank):
    """Return cosines, and rows by falling cosine."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries.astype(float), bank.astype(float))]
    cosines = unit[0] @ unit[1].T
    return cosines, np.argsort(-cosines, axis=1, kind="stable")


def test_neighbors_are_the_nearest_others_in_order(monkeypatch):
    monkeypatch.setattr(neighbors_module, "_QUERIES", 17)  # several blocks
    x, steps = vectors(50), []
    found = neighbors_of_all(x, 5, lambda done, total: steps.append((done, total)))
    cosines, order = all_sorted(x, x)
    assert (order[:, 0] == np.arange(50)).all()
    np.testing.assert_array_equal(found.rows, order[:, 1:6])
    np.testing.assert_allclose(found.similarity, np.take_along_axis(cosines, order[:, 1:6], 1), atol=1e-5)
    np.testing.assert_allclose(found.distance(), (1 - found.similarity).mean(axis=1), atol=1e-6)
    assert steps == [(17, 50), (34, 50), (50, 50)]


def test_an_image_is_not_its_own_neighbor_even_among_copies():
    x = np.repeat(vectors(2), 6, axis=0)  # more copies than neighbors
    found = neighbors_of_all(x, 3, silent)
    assert found.rows.shape == (12, 3)
    assert not (found.rows == np.arange(12)[:, None]).any()
    assert (found.rows // 6 == np.arange(12)[:, None] // 6).all()


def test_k_is_capped_at_the_other_images():
    found = neighbors_of_all(vectors(3), 20, silent)
    assert np.sort(found.rows, axis=1).tolist() == [[1, 2], [0, 2], [0, 1]]
    assert neighbors_of(vectors(1, seed=1), vectors(3), 20, silent).rows.shape == (1, 3)


@pytest.fixture
def built(tmp_path):
    file, x = tmp_path / "vectors.parquet", vectors(2000)
    file.write_bytes(b"vectors")
    return file, x, open_or_build(file, x, silent)


def test_an_index_finds_what_exact_search_finds(built):
    _, x, index = built
    queries = vectors(40, seed=1)
    found, exact = index.nearest(queries, 10), neighbors_of(queries, x, 10, silent)
    same = [len({*one} & {*other}) for one, other in zip(found.rows, exact.rows, strict=True)]
    assert np.mean(same) > 9
    np.testing.assert_allclose(found.similarity[:, 0], exact.similarity[:, 0], atol=0.1)


def test_an_index_is_reopened_and_rebuilt_when_its_vectors_change(built, monkeypatch):
    file, x, _ = built
    steps = []
    open_or_build(file, x, lambda *step: steps.append(step))
    assert steps == []
    assert json.loads(index_of(file).with_suffix(".faiss.json").read_text())["bytes"] == len(b"vectors")
    file.write_bytes(b"other vectors")
    open_or_build(file, x[:500], lambda *step: steps.append(step))
    assert steps[-1] == (500, 500)


def test_a_damaged_index_and_missing_faiss_are_errors(built, monkeypatch):
    file, x, _ = built
    index_of(file).write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"vectors.parquet.faiss is not an index of FAISS: delete it"):
        open_or_build(file, x, silent)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SettingsError, match=r"faiss is not installed: pip install 'siam\[explore\]'"):
        open_or_build(file, x, silent)
