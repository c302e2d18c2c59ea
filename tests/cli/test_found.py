"""Every verb that opens images says in one line what it took for what, and what it left out."""

import json
import shutil

import pytest

from siam.cli import command as cli
from tests.conftest import TINY, save_images


def make(root, level=128, **folders):
    for name, count in folders.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True)
        save_images(folder, count, seed=len(name), level=level)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny network, trained for a few steps."""
    root = tmp_path_factory.mktemp("found")
    make(root, photos=8)
    assert (
        cli.main(["pretrain", str(root / "photos"), *TINY, "--epochs", "1", "--out", str(root / "run")]) == 0
    )
    return root / "run"


@pytest.fixture
def mixed(tmp_path):
    """train/, valid/ and test/, a loose image, a linked class, a side folder, an unsupported format."""
    root = make(
        tmp_path / "set", **{"train__a": 6, "train__b": 6, "valid__a": 2, "valid__b": 2, "test__a": 3}
    )
    make(tmp_path, store=4)
    (root / "train" / "c").symlink_to(tmp_path / "store")
    save_images(root, 1, seed=0)
    make(root, **{"train__a__@eaDir": 1})
    (root / "train" / "a" / "x.heic").write_bytes(b"x")
    return root


FOUND = (
    "16 images in train/, 4 for validation in valid/, 3 classes (no validation images for c); left out: "
    "1 hidden or side file or folder (train/a/@eaDir/), 1 image in an unsupported format (train/a/x.heic), "
    "4 images outside train/ and valid/ (000.jpg, test/a/000.jpg, test/a/001.jpg, ...)\n"
)


@pytest.mark.parametrize(
    "verb", ["pretrain", "plan", "evaluate", "embed", "shard", "bench", "inspect", "reproduce"]
)
def test_a_verb_says_what_it_found(verb, run, mixed, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    tiny = [*TINY, "--epochs", "1"]
    command = {
        "pretrain": [mixed, *tiny, *out],
        "plan": [mixed],
        "evaluate": [run, mixed, "--workers", "0"],
        "embed": [run, mixed, "--workers", "0", *out],
        "shard": [mixed, *out],
        "bench": [mixed, *tiny, "--views.size", "8"],
        "inspect": [run, mixed],
        "reproduce": ["similarity", mixed, *tiny, *out],
    }[verb]
    assert cli.main([verb, *map(str, command)]) == 0
    assert f"{mixed}: {FOUND}" in capsys.readouterr().err


def test_embedding_in_python_says_what_was_left_out(run, mixed, photos, capsys):
    from siam.convert.vectors import embed

    vectors, _ = embed(run, mixed, workers=0)
    assert len(vectors) == 20
    assert FOUND in capsys.readouterr().err
    embed(run, photos, workers=0)
    assert capsys.readouterr().err == ""


def evaluate(run, *args):
    return cli.main(["evaluate", str(run), *map(str, args), "--workers", "0", "--json"])


def test_evaluate_counts_the_images_that_it_could_read(run, tmp_path, capsys):
    data = make(tmp_path, **{"train__a": 6, "train__b": 6, "val__a": 3, "val__b": 3})
    for name in ("train/a/001.jpg", "train/b/002.jpg", "val/b/000.jpg"):
        (data / name).write_bytes(b"x")
    for protocol in ("knn", "probe"):
        assert evaluate(run, data, "--protocol", protocol) == 0
        shown = capsys.readouterr()
        result = json.loads(shown.out)
        assert (result["train_images"], result["val_images"]) == (10, 5)
        assert (
            "2 of 12 training images cannot be read and are not used: train/a/001.jpg (is not an image), "
            in shown.err
        )
        assert (
            "1 of 6 validation images cannot be read and are not used: val/b/000.jpg (is not an image)"
            in shown.err
        )


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_training_protocols_count_the_images_that_they_could_read(run, tmp_path, capsys, protocol):
    data = make(tmp_path, **{"train__a": 10, "train__b": 10, "val__a": 3, "val__b": 3})
    for name in ("train/a/001.jpg", "val/b/000.jpg"):
        (data / name).write_bytes(b"x")
    assert evaluate(run, data, "--protocol", protocol, "--epochs", 1, "--batch-size", 4) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["train_images"], result["val_images"]) == (19, 5)
    assert "1 of 20 training images cannot be read and are not used: train/a/001.jpg" in shown.err


def test_more_neighbors_than_images(run, classes, capsys):
    assert evaluate(run, classes) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["detail"].startswith("k 24,")
    assert "all 24 training images are neighbors, because k is 200" in shown.err


def test_classes_that_only_one_split_has(run, classes, capsys):
    """They are named; images of an unknown class are not evaluated, in one folder as with --val."""
    make(classes, **{"train__extra": 3, "val__purple": 2})
    for args in ([classes], [classes / "train", "--val", classes / "val"]):
        assert evaluate(run, *args) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["val_images"] == 12
        assert "left out: 1 validation class without training images (purple)" in shown.err
        assert "(2 without a label: " in shown.err
        assert "3 classes (no validation images for extra)" in shown.err


def test_validation_images_of_one_class(run, classes, capsys):
    shutil.rmtree(classes / "val" / "light")
    for args in ([classes], [classes / "train", "--val", classes / "val"]):
        assert evaluate(run, *args) == 0
        assert json.loads(capsys.readouterr().out)["val_images"] == 6


def test_flat_validation_images_are_named(run, classes, capsys):
    for file in list((classes / "val").rglob("*.jpg")):
        file.rename(classes / "val" / f"{file.parent.name}{file.name}")
    assert evaluate(run, classes) == 2
    assert (
        "no validation image has one: put the images in val/ into one folder per class"
        in capsys.readouterr().err
    )
    assert evaluate(run, classes / "train", "--val", classes / "val") == 2
    assert f"put the images in {classes / 'val'} into one folder per class" in capsys.readouterr().err


def test_a_loose_image_is_not_evaluated(run, tmp_path, capsys):
    data = make(tmp_path / "set", a=6, b=6)
    save_images(data, 1, seed=0)
    assert evaluate(run, data) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["train_images"] + result["val_images"] == 12
    assert "13 images (1 without a label: 000.jpg), 2 classes" in shown.err


def test_one_image_per_class_cannot_be_held_out(run, tmp_path, capsys):
    data = make(tmp_path / "set", a=1, b=1, c=1)
    assert evaluate(run, data) == 2
    assert "only one image of each class, so none can be held out" in capsys.readouterr().err
    make(data, d=2)
    assert evaluate(run, data) == 0
    assert json.loads(capsys.readouterr().out)["per_class"].keys() == {"d"}


def test_what_needs_no_labels_takes_all_images(run, classes, tmp_path, capsys):
    """Flat validation images, unknown classes and loose images are trained on or embedded like others."""
    make(classes, **{"val__purple": 2, "train__more__deep": 2})
    save_images(classes / "train", 1, seed=0)
    out = tmp_path / "v.parquet"
    assert cli.main(["embed", str(run), str(classes), "--out", str(out), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 24 + 12 + 5
    import pyarrow.parquet as pq

    labels = dict(zip(*(pq.read_table(out)[name].to_pylist() for name in ("path", "label")), strict=True))
    assert labels["train/000.jpg"] is None
    assert labels["val/purple/000.jpg"] is None
    assert labels["train/more/deep/000.jpg"] == "more"
    command = ["pretrain", classes, *TINY, "--epochs", "1", "--out", tmp_path / "run", "--json"]
    assert cli.main([*map(str, command)]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["knn"] <= 1
