"""What a dataset is taken to be, what is left out, and that both are said."""

import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siam.cli import command as cli
from siam.data.images import UNLABELED
from siam.data.packed import PackedStrings
from siam.data.sources import open_images
from siam.errors import DataError
from tests.conftest import TINY, save_images


def paths(images):
    return [images.path(i) for i in range(len(images))]


def make(root, **folders):
    """Save images in folders, whose names have "__" for "/"."""
    for name, count in folders.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True)
        save_images(folder, count, seed=len(name))
    return root


@pytest.fixture
def left(tmp_path):
    """Return what is left out of a folder, by reason."""
    return lambda name=".": open_images(tmp_path / name).left_out.counts()


# links


def test_linked_class_folders_are_classes(tmp_path):
    make(tmp_path, store__b=2, store__c=3, set__a=2)
    for name in "bc":
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / name)
    sets = open_images(tmp_path / "set")
    assert np.bincount(sets.train.labels).tolist() == [2, 2, 3]
    assert sets.train.classes == ("a", "b", "c")
    assert paths(sets.train)[2:4] == ["b/000.jpg", "b/001.jpg"]
    assert sets.train.read(6).shape[0] == 3
    assert not sets.left_out


def test_each_real_folder_is_read_once(tmp_path):
    """Through links to the same folder, to a folder inside another, to itself, and to the folders above."""
    make(tmp_path, outer__inner=2, outer__other=1, set__real=2)
    for name, target in {
        "first": "../outer/inner", "second": "../outer/inner", "whole": "../outer", "again": "real",
        "up": "..", "self": "self", "here": ".",
    }.items():  # fmt: skip
        (tmp_path / "set" / name).symlink_to(target)
    sets = open_images(tmp_path / "set")
    assert paths(sets.train) == [
        f"{name}.jpg" for name in ("first/000", "first/001", "real/000", "real/001", "whole/other/000")
    ]
    assert sets.left_out.counts() == {"links to folders that are already included": 5, "broken links": 1}


def test_a_link_to_a_hidden_folder_is_followed(tmp_path, left):
    make(tmp_path, **{".store": 2, "a": 2})
    (tmp_path / "b").symlink_to(".store")
    assert paths(open_images(tmp_path).train)[2:] == ["b/000.jpg", "b/001.jpg"]
    assert left() == {"hidden or side files and folders": 1}


def test_a_validation_folder_that_is_a_link_to_the_training_images(classes, left):
    """It would measure on the training images, so it is left out and named."""
    for file in sorted((classes / "val").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (classes / "val").rmdir()
    (classes / "val").symlink_to("train")
    sets = open_images(classes)
    assert (len(sets.train), sets.val) == (24, None)
    assert str(sets.left_out) == "1 link to a folder that is already included (val/)"


# files


def test_side_files_of_servers_and_tools_are_not_images(tmp_path, left):
    folders = [
        "@eaDir__000.jpg",
        "a__@eaDir",
        "#recycle",
        "__MACOSX",
        "$RECYCLE.BIN",
        ".thumbnails",
        "lost+found",
    ]
    make(tmp_path, a=2, **dict.fromkeys((name for name in folders if name != "__MACOSX"), 1))
    (tmp_path / "__MACOSX").mkdir()
    for name in ("Thumbs.db", "desktop.ini", "a/._000.jpg", "__MACOSX/._000.jpg", ".DS_Store", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    assert len(open_images(tmp_path).train) == 2
    assert left() == {"hidden or side files and folders": 10}


def test_images_that_cannot_be_read_here_are_counted(photos):
    for name in (
        "a.HEIC",
        "b.psd",
        "c.jxl",
        "d.cr2",
        "e.svg",
        "f.zip",
        "g.parquet",
        "h",
        "i.jpg.part",
        "README",
        "notes.txt",
        "labels.csv",
    ):
        (photos / name).write_bytes(b"x")
    sets = open_images(photos)
    assert len(sets.train) == 24
    assert sets.left_out.counts() == {
        "images in unsupported formats": 5,
        "archives, tables and videos among the images": 2,
        "files without a suffix": 1,
        "unfinished downloads": 1,
        "tables, whose labels are used if passed as DATA": 1,
    }
    assert "5 images in unsupported formats (a.HEIC, b.psd, c.jxl, ...)" in str(sets.left_out)


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "jif", "pjpeg"])
def test_other_suffixes_of_jpeg(photos, suffix):
    (photos / "000.jpg").rename(photos / f"zz.{suffix}")
    images = open_images(photos).train
    assert len(images) == 24
    assert images.read(23).shape[0] == 3


def test_a_folder_without_images_says_what_it_found(tmp_path):
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"no images in .*; found only 2 images in unsupported formats \(.\.heic, "
    ):
        open_images(tmp_path)


def test_a_pipe_and_a_locked_folder_are_named(photos, monkeypatch):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    sets = open_images(photos)
    assert len(sets.train) == 24
    assert sets.left_out.counts() == {"pipes, sockets and devices": 1, "folders without read permission": 1}


def test_a_tar_is_accounted_for_like_its_folder(photos, tmp_path):
    make(photos, **{"@eaDir": 1, ".hidden": 1})
    for name in ("a.heic", "b.zip"):
        (photos / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(photos, ".")
    sets = open_images(tmp_path / "x.tar")
    assert len(sets.train) == 24
    assert sets.left_out.counts() == open_images(photos).left_out.counts()


# splits


@pytest.mark.parametrize(
    ("train", "val", "rest"),
    [
        ("train", "valid", "test"), ("train", "validation", "test"), ("training", "validation", "testing"),
        ("Train", "Val", "Test"), ("TRAIN", "TEST", ""), ("train2017", "val2017", "test2017"),
        ("train_images", "test_images", ""), ("trainset", "dev", "eval"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("above", ["", "data/images/"])
def test_the_names_of_splits(tmp_path, train, val, rest, above):
    for name, count in ((train, 3), (val, 2), (rest, 1)):
        for kind in ("a", "b") if name else ():
            make(tmp_path, **{f"{above}{name}/{kind}".replace("/", "__"): count})
    sets = open_images(tmp_path)
    assert (len(sets.train), len(sets.val)) == (6, 4)
    assert sets.folders == (f"{train}/", f"{val}/")
    assert sets.val.path(0).startswith(f"{above}{val}/a/")
    assert sets.val.classes == ("a", "b")
    assert sets.describe() == f"6 images in {train}/, 4 for validation in {val}/, 2 classes"
    assert sets.left_out.counts() == ({f"images outside {train}/ and {val}/": 2} if rest else {})


def test_a_loose_image_does_not_cost_the_split(classes):
    save_images(classes.parent, 1, seed=0)
    make(classes.parent, docs=2)
    sets = open_images(classes.parent)
    assert (len(sets.train), len(sets.val)) == (24, 12)
    assert str(sets.left_out) == "3 images outside train/ and val/ (000.jpg, docs/000.jpg, docs/001.jpg)"


def test_a_class_folder_with_a_split_of_its_own_is_no_split_of_all(tmp_path):
    """One of three classes has train/ and val/, which hold less than half of the images."""
    make(tmp_path, a__train=1, a__val=1, b=4, c=4)
    assert len(open_images(tmp_path).train) == 10


def test_only_validation_images_are_not_trained_on(classes, tmp_path, capsys):
    (classes / "train").rename(tmp_path / "elsewhere")
    sets = open_images(classes)
    assert len(sets.train) == 12
    with pytest.raises(DataError, match=r"has val/ but no train/: put the training images into train/"):
        sets.to_train_on()
    for verb in ("pretrain", "bench"):
        assert cli.main([verb, str(classes), *TINY]) == 2
        assert "has val/ but no train/" in capsys.readouterr().err
    assert open_images(classes / "val").to_train_on().classes == ("dark", "light")


def test_a_class_may_be_named_test(tmp_path):
    assert open_images(make(tmp_path, boat=2, car=2, test=2)).to_train_on().classes == ("boat", "car", "test")


def test_folders_of_packed_names():
    names = PackedStrings(["a.jpg", "b/c/1.jpg", "b/c/2.jpg", "b/d.jpg", "b/e/3.jpg", "c.jpg", "f/4.jpg"])
    assert list(names.folders("")) == ["b", "f"]
    assert list(names.folders("b/")) == ["c", "e"]
    assert list(names.folders("b/c/")) == []


# labels


def test_a_loose_image_and_a_subfolder_do_not_cost_the_labels(tmp_path):
    make(tmp_path, a=3, a__more=2, b=3, c__deeper=2)
    save_images(tmp_path, 1, seed=0)
    sets = open_images(tmp_path)
    assert sets.train.classes == ("a", "b", "c")
    assert sets.train.labels.tolist() == [UNLABELED, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert sets.describe() == "11 images (1 without a label: 000.jpg), 3 classes"


def test_a_larger_subfolder_does_not_hide_its_class(tmp_path):
    assert open_images(make(tmp_path, a=1, a__many=9, b=1)).train.labels.tolist() == [0] * 10 + [1]


@pytest.mark.parametrize(
    "folders",
    [
        {"2023__may": 2, "2023__june": 2, "2024__may": 2, "2024__june": 2},
        {"only": 5},
        {"x": 5, "album__a": 1, "album__b": 1},
    ],
)
def test_folders_that_are_not_classes(tmp_path, folders):
    """Nested albums, a single folder, and class folders with less than half of the images."""
    make(tmp_path, **folders)
    save_images(tmp_path, 3, seed=0)
    train = open_images(tmp_path).train
    assert (train.labels, train.classes) == (None, ())


def test_an_empty_class_folder_is_no_class(classes):
    (classes / "train" / "empty").mkdir()
    assert open_images(classes).train.classes == ("dark", "light")


def test_flat_validation_images_leave_the_labels_of_the_training_images(classes):
    for file in list((classes / "val").rglob("*.jpg")):
        file.rename(classes / "val" / f"{file.parent.name}{file.name}")
    sets = open_images(classes)
    assert sets.train.classes == ("dark", "light")
    assert sets.val.labels is None
    assert sets.describe() == "24 images in train/, 12 for validation in val/ without labels, 2 classes"


def test_validation_images_of_a_single_class_are_labeled(classes):
    for file in (classes / "val" / "dark").iterdir():
        file.unlink()
    sets = open_images(classes)
    assert sets.val.classes == ("dark", "light")
    assert sets.val.labels.tolist() == [1] * 6


PIXELS = np.zeros((4, 8, 8, 3), np.uint8)


def test_minus_one_is_unlabeled(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        images=PIXELS,
        labels=np.array([5, -1, 7, -1]),
        val_images=PIXELS,
        val_labels=np.arange(5, 9),
    )
    sets = open_images(tmp_path / "a.npz")
    assert sets.train.classes == ("5", "7")
    assert sets.train.labels.tolist() == [0, UNLABELED, 1, UNLABELED]
    assert paths(sets.train) == ["train/5/000000", "train/000001", "train/7/000002", "train/000003"]
    assert sets.val.labels.tolist() == [0, UNLABELED, 1, UNLABELED]
    assert sets.left_out.counts() == {"validation classes without training images": 2}
    np.savez(tmp_path / "b.npz", images=PIXELS, labels=np.full(4, -1))
    assert open_images(tmp_path / "b.npz").train.labels is None


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (np.array(["dog", "", "cat", "dog"]), ("cat", "dog"), [1, UNLABELED, 0, 1]),
        (np.array([[3.0], [np.nan], [1.0], [3.0]]), ("1", "3"), [1, UNLABELED, 0, 1]),
        (np.array([3, -1, -2, 3], np.int8), ("-2", "3"), [1, UNLABELED, 0, 1]),
        (np.array([True, False, False, True]), ("0", "1"), [1, 0, 0, 1]),
        (np.array([9, 8, 8, 9], np.uint8), ("8", "9"), [1, 0, 0, 1]),
    ],
)
def test_labels_of_any_type(tmp_path, labels, classes, numbers):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=labels)
    train = open_images(tmp_path / "a.npz").train
    assert train.classes == classes
    assert train.labels.tolist() == numbers


@pytest.mark.parametrize("labels", [np.arange(3), np.arange(4) / 2, np.eye(4), np.array([1, 2, np.inf, 1])])
def test_labels_that_cannot_be_used_cost_no_images(tmp_path, labels):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=labels)
    sets = open_images(tmp_path / "a.npz")
    assert (len(sets.train), sets.train.labels) == (4, None)
    assert str(sets.left_out) == (
        f"1 array of labels without a class per image (labels: {labels.dtype} {labels.shape} for 4 images)"
    )


# lists


def test_a_list_with_labels_on_some_lines(photos):
    (photos / "list.txt").write_text("003.jpg\tcat\n001.jpg\n002.jpg\t-1\n004.jpg\tant\n")
    train = open_images(photos / "list.txt").train
    assert train.classes == ("ant", "cat")
    assert train.labels.tolist() == [1, UNLABELED, UNLABELED, 0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.csv", "Filename,Label\n003.jpg,cat\n\n001.jpg,\n002.jpg,ant\n"),
        ("a.csv", "label;path\ncat;003.jpg\n;001.jpg\nant;002.jpg\n"),
        ("a.tsv", "id\timage\tclass\n1\t003.jpg\tcat\n2\t001.jpg\t-1\n3\t002.jpg\tant\n"),
        ("a.csv", "003.jpg,cat\n001.jpg\n002.jpg,ant\n"),
        ("a.CSV", '\ufeffpath,label\r\n"003.jpg","cat"\r\n001.jpg,\r\n002.jpg,ant\r\n'),
    ],
)
def test_a_table_of_files(photos, file, text):
    (photos / file).write_text(text, newline="")
    sets = open_images(photos / file)
    assert paths(sets.train) == ["003.jpg", "001.jpg", "002.jpg"]
    assert sets.train.classes == ("ant", "cat")
    assert sets.train.labels.tolist() == [1, UNLABELED, 0]
    assert sets.val is None
    assert sets.train.read(0).shape[0] == 3


def test_a_table_with_splits(photos):
    rows = [f"{i:03d}.jpg,{'ab'[i % 2]},{('train', 'train', 'valid', 'test')[i % 4]}" for i in range(12)]
    (photos / "a.csv").write_text("\n".join(["file_name,label,split", *rows]))
    sets = open_images(photos / "a.csv")
    assert (len(sets.train), len(sets.val)) == (6, 3)
    assert paths(sets.val) == ["002.jpg", "006.jpg", "010.jpg"]
    assert sets.val.labels.tolist() == [0, 0, 0]
    assert sets.left_out.counts() == {"images outside train and valid": 3}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,label\n1,cat\n", "no column of image paths, only id, label: name it 'path'"),
        ("path\n", "the list is empty"),
        ("", "the list is empty"),
        ("path\n../secret.jpg\n", "is outside the list's folder"),
        ("path\n" + "x" * 200_000 + "\n", "cannot be read as a table: field larger"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, sentence):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        open_images(tmp_path / "a.csv")


# shards and tables below a folder


def parquet(photos, file, count=8):
    file.parent.mkdir(parents=True, exist_ok=True)
    data = [path.read_bytes() for path in sorted(photos.iterdir())[:count]]
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": b, "path": f"{i}.jpg"} for i, b in enumerate(data)])}), file
    )


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet"])
def test_a_snapshot_from_the_hub(photos, tmp_path, layout):
    snapshot = tmp_path / "snapshot"
    for split, count in (("train", 8), ("validation", 3), ("test", 2)):
        parquet(photos, snapshot / layout.format(split), count)
    (snapshot / "README.md").write_text("---\n")
    (snapshot / ".cache" / "huggingface").mkdir(parents=True)
    sets = open_images(snapshot)
    assert (len(sets.train), len(sets.val)) == (8, 3)
    assert sets.left_out.counts() == {"files for neither training nor validation": 1}


def test_tables_next_to_images_are_named(photos):
    parquet(photos, photos / "data" / "train.parquet")
    sets = open_images(photos)
    assert len(sets.train) == 24
    assert str(sets.left_out) == "1 archive, table or video among the images (data/train.parquet)"


def test_shards_in_subfolders_have_their_own_index(photos, tmp_path):
    """A shard that is in a folder's index but missing is named, whichever the folder."""
    from siam.data.sharding import shard

    for split in ("train", "val"):
        shard(photos, tmp_path / "set" / split, "8kB")
    lost = tmp_path / "set" / "val" / "train-000001.tar"
    lost.rename(tmp_path / "lost.tar")
    sets = open_images(tmp_path / "set")
    assert list(sets.unreadable_files) == [str(lost)]
