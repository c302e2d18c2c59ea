"""Views and neighbors: saved as they are, shown at the right size, marked by class."""

import numpy as np
import pytest

from siam.errors import RunError
from siam.report.pictures import Pictures
from tests.report.reading import body, read, some_pictures


def test_names_without_classes_are_shown_without_borders(run):
    root = read(run([], pictures=some_pictures(name="photos/{1}.jpg")))
    figures = root.find("div", "near")[0].find("figure")
    assert {figure.attributes["class"] for figure in figures} == {""}
    assert figures[0].find("figcaption")[0].text == "0.jpg"
    assert "the same class" not in body(root)


def test_neighbors_are_marked_by_class(run):
    root = read(run([], pictures=some_pictures(queries=2, neighbors=3)))
    rows = root.find("div", "near")[0].children
    marks = [[figure.attributes["class"] for figure in row.find("figure")] for row in rows]
    # Queries are of classes c0, c1; the neighbors of each of c0, c1, c0.
    assert marks == [["", "same", "other", "same"], ["", "other", "same", "other"]]
    assert "3 of 6 neighbors have the same class" in body(root)


@pytest.mark.parametrize(("side", "small"), [(8, 64), (16, 64), (28, 56), (32, 64), (48, 48), (224, 64)])
def test_small_images_grow_by_whole_pixels(run, side, small):
    root = read(run([], pictures=some_pictures(side, pairs=1, queries=1, neighbors=1)))
    for kind in ("pairs", "near"):
        (box,) = root.find("div", kind)
        assert ("pixels" in box.attributes["class"].split()) == (side <= 48)
        assert f"--small:{small}px" in box.attributes["style"]


def test_pictures_round_trip(tmp_path):
    pictures = some_pictures(name="ünï/{0}{1}\udcff.jpg")
    pictures.save(tmp_path)
    back = Pictures.load(tmp_path)
    for name in ("pairs", "queries", "neighbors"):
        np.testing.assert_array_equal(getattr(back, name), getattr(pictures, name))
    assert back.query_names == pictures.query_names
    assert back.neighbor_names == pictures.neighbor_names


def test_no_neighbors_at_all(run):
    root = read(run([], pictures=some_pictures(pairs=0, queries=0)))
    assert root.find("img") == []


def test_no_pictures(tmp_path):
    assert Pictures.load(tmp_path) is None


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 torn", b"not a zip file"])
def test_unreadable_pictures(tmp_path, contents):
    (tmp_path / "pictures.npz").write_bytes(contents)
    with pytest.raises(RunError, match="delete it to continue without it"):
        Pictures.load(tmp_path)


def test_pickled_pictures_are_refused(tmp_path):
    np.savez(tmp_path / "pictures.npz", pairs=np.array([{}], dtype=object))
    with pytest.raises(RunError, match="cannot be read"):
        Pictures.load(tmp_path)
