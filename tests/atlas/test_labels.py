"""Labels given while looking: suggestions, labels.csv, and who understands it."""

import csv
import os

import numpy as np
import pytest

from siam.atlas.embedded import Located
from siam.atlas.labels import Labels
from siam.atlas.pictures import Pictures
from siam.atlas.suggest import suggest
from siam.data.label_file import read_labels, relabel
from siam.data.sources import open_images
from siam.errors import DataError
from siam.protocols.settings import EvaluateSettings
from siam.system.names import stored
from tests.atlas.maps import blobs
from tests.conftest import save_images

NAMES = ["a b.jpg", 'quo"te, comma.jpg', "line\nbreak.jpg", "<b>bold.jpg", os.fsdecode(b"caf\xe9.jpg")]


@pytest.fixture
def photos(tmp_path):
    """A folder of images with names that need care."""
    folder = tmp_path / "photos"
    folder.mkdir()
    save_images(folder, len(NAMES), seed=0)
    for old, new in zip(sorted(folder.iterdir()), NAMES, strict=True):
        old.rename(folder / new)
    return folder


def labels_of(folder):
    sets = open_images(folder)
    paths = [stored(sets.train.path(i)) for i in range(len(sets.train))]
    pictures = Pictures(Located(sets, paths))
    return Labels([pictures.path(row, path) for row, path in enumerate(paths)])


def test_labels_are_saved_and_loaded(photos, tmp_path):
    labels = labels_of(photos)
    labels.give([0, 1], "cat")
    labels.give([2, 3], " dog; =1+1 ")
    labels.give([3], None)
    codes, scores = np.array([0] * 5, np.int32), np.array([0.5] * 4 + [0.95], np.float32)
    labels.accept(["bird"], codes, scores, "probe", 0.9)
    file = labels.save(tmp_path)
    with file.open(newline="", errors="surrogateescape") as opened:
        rows = list(csv.reader(opened))
    assert rows[0] == ["path", "label", "score", "by"]
    assert [row[1:] for row in rows[1:]] == [
        ["cat", "1", "hand"], ["cat", "1", "hand"], ["dog; =1+1", "1", "hand"], ["bird", "0.95", "probe"],
    ]  # fmt: skip
    again = labels_of(photos)
    again.load(tmp_path)
    assert [again.names[code] if code >= 0 else None for code in again.codes] == [
        "cat", "cat", "dog; =1+1", None, "bird",
    ]  # fmt: skip
    assert again.by_hand().tolist() == [0, 1, 2]


def test_evaluate_and_lists_understand_them(photos, tmp_path):
    labels = labels_of(photos)
    labels.give(range(0, 5, 2), "even")
    labels.give([1], "odd")
    file = labels.save(tmp_path)
    train = relabel(open_images(photos), file).train
    assert train.classes == ("even", "odd")
    assert train.labels.tolist() == [0, 1, 0, -1, 0]
    listed = open_images(str(file)).train
    assert [listed.classes[label] for label in listed.labels] == ["even", "odd", "even", "even"]
    assert all(len(listed.encoded(i)) for i in range(4))


def test_other_tables_of_labels(classes, tmp_path):
    """Paths may be names within the set, or lead to the files from the table's folder."""
    table = tmp_path / "mine.csv"
    table.write_text("file,class\ntrain/dark/000.jpg,x\nclasses/train/light/000.jpg,y\nother.jpg,z\n")
    sets = relabel(open_images(classes), table)
    assert sets.train.classes == ("x", "y")
    assert (sets.train.labels >= 0).sum() == 2
    assert sets.val is None  # none of its images has a label
    table.write_text("train/dark/000.jpg,x\nval/dark/000.jpg,y\n")
    assert relabel(open_images(classes), table).val.labels.max() == 1


def test_tables_without_labels_of_these_images_are_an_error(classes, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nelsewhere.jpg,x\ntrain/dark/000.jpg,-1\n")
    with pytest.raises(DataError, match=r"has no label for any image of .*: its paths are of other images"):
        relabel(open_images(classes), table)
    with pytest.raises(DataError, match=r"cannot read .*missing\.csv: No such file"):
        list(read_labels(tmp_path / "missing.csv"))
    table.write_text("path,label,score\na.jpg,x,high\n")
    with pytest.raises(DataError, match="cannot be read as a table of labels"):
        list(read_labels(table))
    assert EvaluateSettings(labels_from="labels.csv").labels_from == "labels.csv"


def given(kinds, per_class):
    labels = Labels([f"{i}.jpg" for i in range(len(kinds))])
    for kind in np.unique(kinds):
        labels.give([int(row) for row in np.flatnonzero(kinds == kind)[:per_class]], f"kind {kind}")
    return labels


@pytest.mark.parametrize("by", ["probe", "neighbors"])
def test_suggestions_follow_a_few_labels(by):
    vectors, kinds = blobs(600, 5, spread=0.2)
    found = suggest(vectors, given(kinds, 4), by)
    right = np.array([found.names[code] for code in found.codes]) == [f"kind {kind}" for kind in kinds]
    assert right.mean() > 0.9
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.labels, found.by) == (20, by)
    least = np.argsort(found.margins)[:100]
    assert right[least].mean() < right.mean() or right.all()  # the uncertain ones are worth a look


def test_neighbors_score_images_unlike_any_labeled_one_low():
    vectors, kinds = blobs(100, 2, spread=0.05)
    vectors[99] = -vectors[:99].mean(axis=0)
    found = suggest(vectors, given(kinds, 3), "neighbors")
    assert found.scores[99] < 0.5 * found.scores[:99].min()


def test_suggestions_learn_from_labels_given_by_hand_only():
    vectors, kinds = blobs(60, 2)
    labels = given(kinds, 3)
    first = suggest(vectors, labels, "probe")
    labels.accept(first.names, 1 - first.codes, first.scores, "probe", 0)  # all wrong
    again = suggest(vectors, labels, "probe")
    assert again.labels == 6
    np.testing.assert_array_equal(again.codes, first.codes)


def test_suggestions_need_labels():
    vectors, _ = blobs(10, 2)
    labels = Labels([str(i) for i in range(10)])
    with pytest.raises(DataError, match="no image has a label yet"):
        suggest(vectors, labels, "neighbors")
    labels.give([0], "x")
    with pytest.raises(DataError, match="at least two labels"):
        suggest(vectors, labels, "probe")
    with pytest.raises(DataError, match="not by 'magic'"):
        suggest(vectors, labels, "magic")
