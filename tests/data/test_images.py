"""Every kind of image set: which images, in which order, with which labels; and the errors."""

import gzip
import io
import os
import pickle
import tarfile
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siam.data.decode import BrokenImage
from siam.data.images import UNLABELED
from siam.data.packed import PackedStrings
from siam.data.sources import open_images
from siam.errors import DataError
from tests.conftest import DATA, save_images


def paths(images):
    return [images.path(i) for i in range(len(images))]


def test_a_flat_folder_has_no_labels(photos):
    sets = open_images(photos)
    assert sets.val is None
    assert sets.train.labels is None
    assert paths(sets.train) == [f"{i:03d}.jpg" for i in range(24)]
    assert sets.train.read(0).dtype == torch.uint8


def test_hidden_and_foreign_files_are_skipped(photos):
    (photos / ".hidden.jpg").touch()
    (photos / "notes.txt").touch()
    (photos / ".cache").mkdir()
    save_images(photos / ".cache", 1, seed=0)
    assert len(open_images(photos).train) == 24


def test_class_folders_give_labels(classes):
    train = open_images(classes / "train").train
    assert train.classes == ("dark", "light")
    assert train.labels.tolist() == [0] * 12 + [1] * 12


def test_train_and_val_folders_give_both_sets(classes):
    sets = open_images(classes)
    assert (len(sets.train), len(sets.val)) == (24, 12)
    assert not sets.left_out
    assert sets.val.labels.tolist() == [0] * 6 + [1] * 6
    assert sets.train.classes == sets.val.classes == ("dark", "light")


def test_a_test_folder_serves_as_val(classes):
    (classes / "val").rename(classes / "test")
    assert len(open_images(classes).val) == 12


def test_a_class_missing_in_train_is_named(classes):
    (classes / "val" / "purple").mkdir()
    save_images(classes / "val" / "purple", 2, seed=1)
    sets = open_images(classes)
    assert sets.val.classes == ("dark", "light")
    assert sets.val.labels.tolist() == [0] * 6 + [1] * 6 + [UNLABELED] * 2
    assert str(sets.left_out) == "1 validation class without training images (purple)"


def test_a_tar_gives_the_same_images_as_its_folder(classes, tmp_path):
    """Same names, labels and pixels, with or without a common top folder; also after pickling."""
    for arcname in ("classes", "."):
        file = tmp_path / f"{arcname.strip('.')}x.tar"
        with tarfile.open(file, "w") as tar:
            tar.add(classes, arcname=arcname)
        folder, tared = open_images(classes), open_images(file)
        for ours, theirs in ((folder.train, tared.train), (folder.val, tared.val)):
            again = pickle.loads(pickle.dumps(theirs))  # noqa: S301
            assert len(again) == len(ours)
            assert again.labels.tolist() == ours.labels.tolist()
            assert again.classes == ours.classes
            assert all(torch.equal(again.read(i), ours.read(i)) for i in range(len(ours)))


def test_a_truncated_tar_keeps_its_complete_members(photos, tmp_path):
    file = tmp_path / "photos.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(photos, arcname="photos")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    sets = open_images(file)
    assert 10 <= len(sets.train) < 24
    assert sets.unreadable_files[str(file)] == (
        f"corrupt or truncated: only the images before the corrupt part are used ({len(sets.train)})"
    )


def test_arrays(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", images)
    assert (open_images(tmp_path / "a.npy").train.read(2).permute(1, 2, 0).numpy() == images[2]).all()
    np.savez(
        tmp_path / "b.npz", images=images[..., 0], labels=np.array([0, 1, 2, 0, 1, 2]), val_images=images
    )
    sets = open_images(tmp_path / "b.npz")
    assert sets.train.classes == ("0", "1", "2")
    assert (sets.train.read(1)[2].numpy() == images[1, ..., 0]).all()
    assert sets.val.labels is None


def test_a_list_of_files(photos, tmp_path):
    file = photos / "list.txt"
    file.write_text("003.jpg\tcat\n001.jpg\tdog\n")
    train = open_images(file).train
    assert paths(train) == ["003.jpg", "001.jpg"]
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1]


def test_the_demo_set():
    sets = open_images(None)
    assert (len(sets.train), len(sets.val), len(sets.train.classes)) == (5000, 1000, 10)
    assert np.bincount(sets.train.labels).tolist() == [500] * 10
    again = open_images("demo")
    assert (again.train.images == sets.train.images).all()
    assert sets.train.images.shape[1:] == (16, 16, 3)


def test_raw_pixels_classify_the_demo_set_poorly():
    """The accuracy of nearest neighbors on pixels, by cosine or by distance, is at most 40 %."""
    sets = open_images("demo")
    bank, queries = (
        torch.from_numpy(s.images).flatten(1).float() / 255 - 0.5 for s in (sets.train, sets.val)
    )
    labels, truth = torch.from_numpy(sets.train.labels), torch.from_numpy(sets.val.labels)
    unit = torch.nn.functional.normalize
    for similarity in (unit(queries, dim=1) @ unit(bank, dim=1).T, -torch.cdist(queries, bank)):
        nearest = labels[similarity.topk(20, dim=1).indices]
        assert (nearest.mode(dim=1).values == truth).float().mean() <= 0.4


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1), max_size=20))
def test_names_are_kept_as_given(names):
    assert list(PackedStrings(names)) == names


def test_files_without_extension_or_with_pickles_are_refused(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        open_images(tmp_path / "evil.npy")
    with pytest.raises(DataError, match=r"set\.tar\.xz is compressed.*unpack it"):
        open_images(tmp_path / "set.tar.xz")
    (tmp_path / "what.xyz").touch()
    with pytest.raises(DataError, match="is not a supported dataset"):
        open_images(tmp_path / "what.xyz")


def test_a_list_cannot_name_files_outside_its_folder(photos):
    (photos / "list.txt").write_text("../secret.jpg\n001.jpg\n")
    with pytest.raises(DataError, match="is outside the list's folder"):
        open_images(photos / "list.txt")


def test_the_nearest_name_is_suggested(photos):
    with pytest.raises(DataError, match=r"did you mean photos\?"):
        open_images(photos.parent / "photo")


def test_images_are_sorted_by_their_whole_paths(tmp_path):
    """Not folder by folder: "-" sorts before "/", so "a-b/0.jpg" comes before "a/0.jpg"."""
    for folder in ("a", "a-b", "a/c", "b", "é"):
        (tmp_path / folder).mkdir()
        save_images(tmp_path / folder, 2, seed=1)
    save_images(tmp_path, 2, seed=1)
    names = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.jpg")]
    assert paths(open_images(tmp_path).train) == sorted(names)


def test_more_folders_than_file_descriptors(tmp_path):
    """ImageNet has 1,000 class folders, and 1,024 open files are the usual limit."""
    resource = pytest.importorskip("resource")
    for c in range(80):
        (tmp_path / f"{c:02d}").mkdir()
        (tmp_path / f"{c:02d}" / "0.jpg").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(tmp_path, os.O_RDONLY)  # the lowest free number
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 8, hard))
    try:
        assert len(open_images(tmp_path).train) == 80
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_links_and_pipes(photos):
    """Listing neither loops nor blocks; a broken link is an unreadable image."""
    (photos / "again").symlink_to(photos, target_is_directory=True)
    (photos / "zz.jpg").symlink_to(photos / "gone.jpg")
    os.mkfifo(photos / "pipe.jpg")
    train = open_images(photos).train
    assert paths(train) == [f"{i:03d}.jpg" for i in range(24)] + ["zz.jpg"]
    with pytest.raises(BrokenImage, match="No such file"):
        train.read(24)


def test_suffixes_in_any_case(tmp_path):
    for ending in ("JPG", "jpeg", "Png", "WEBP", "bmp", "gif", "tif", "TIFF", "ppm", "pgm", "txt", "jpg2"):
        (tmp_path / f"x.{ending}").touch()
    assert len(open_images(tmp_path).train) == 10


@pytest.mark.parametrize("above", [".", ".."])
def test_images_outside_train_and_val_are_counted(classes, above):
    (classes / "more").mkdir()
    save_images(classes / "more", 3, seed=1)
    assert open_images(classes / above).left_out.counts() == {"images outside train/ and val/": 3}
    (classes / "val").rename(classes / "sketches")
    assert open_images(classes / above).left_out.counts() == {"images outside train/": 15}


def test_a_class_may_be_named_train(tmp_path):
    """CIFAR-100 has such a class: among class folders and without val/, train/ is a class."""
    for name in ("bus", "plane", "train"):
        (tmp_path / name).mkdir()
        save_images(tmp_path / name, 2, seed=1)
    sets = open_images(tmp_path)
    assert sets.train.classes == ("bus", "plane", "train")
    assert len(sets.train) == 6
    assert sets.val is None
    assert not sets.left_out


def test_a_train_folder_alone_is_the_set(classes):
    (classes / "val").rename(classes / "sketches")
    sets = open_images(classes)
    assert len(sets.train) == 24
    assert sets.train.classes == ("dark", "light")
    assert sets.val is None


def test_labels_of_val_index_the_classes_of_train(classes):
    """val/ lacks the first class, so numbering its own classes would differ."""
    for split in ("train", "val"):
        (classes / split / "yellow").mkdir()
        save_images(classes / split / "yellow", 2, seed=1)
    for file in (classes / "val" / "dark").iterdir():
        file.unlink()
    sets = open_images(classes)
    assert sets.val.classes == ("dark", "light", "yellow")
    assert sets.val.labels.tolist() == [1] * 6 + [2] * 2


def jpeg(level):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level,) * 3).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(file, members):
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_members_with_paths_outside_the_tar_are_ignored(tmp_path):
    odd = ["/abs.jpg", "../up.jpg", "a/../../up.jpg", ".hidden.jpg", "a/.b/c.jpg", "notes.txt"]
    write_tar(tmp_path / "x.tar", [(name, jpeg(0)) for name in [*odd, "b.jpg", "./a.jpg", "é.jpg"]])
    assert paths(open_images(tmp_path / "x.tar").train) == ["a.jpg", "b.jpg", "é.jpg"]


def test_the_later_of_two_members_with_the_same_name_counts(tmp_path):
    write_tar(tmp_path / "x.tar", [("b.jpg", jpeg(0)), ("a.jpg", jpeg(50)), ("b.jpg", jpeg(200))])
    train = open_images(tmp_path / "x.tar").train
    assert [int(train.read(i)[0, 0, 0]) for i in range(len(train))] == [50, 200]


def test_an_invalid_tar_and_a_tar_that_vanishes(tmp_path):
    file = tmp_path / "x.tar"
    file.write_bytes(gzip.compress(b"x" * 10_000))
    with pytest.raises(DataError, match=r"cannot be read as a tar.*decompress"):
        open_images(file)
    write_tar(file, [("a.jpg", jpeg(0)), ("b.jpg", jpeg(0))])
    train = open_images(file).train
    file.unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        train.read(0)


@pytest.mark.parametrize("grey", [False, True])
def test_arrays_in_a_file_are_memory_mapped(tmp_path, grey):
    """The pickle for a worker is small and reads the same; gray images do not take three times the memory."""
    images = np.random.default_rng(0).integers(
        0, 256, (50, 16, 16) if grey else (50, 16, 16, 3), dtype=np.uint8
    )
    np.save(tmp_path / "a.npy", images)
    train = open_images(tmp_path / "a.npy").train
    sent = pickle.dumps(train)
    again = pickle.loads(sent)  # noqa: S301
    assert len(sent) < 1000
    assert train.images.shape == (50, 16, 16, 3)
    assert torch.equal(again.read(7), train.read(7))
    assert (again.read(7)[0].numpy() == (images[7] if grey else images[7, ..., 0])).all()
    assert again.read(7).permute(1, 2, 0).is_contiguous()


def test_writing_to_an_image_leaves_the_file_as_it_was(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    train = open_images(tmp_path / "a.npy").train
    train.images[0] = 9
    train.read(1)[:] = 9
    assert np.load(tmp_path / "a.npy").max() == 0


PIXELS = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"pictures": PIXELS}, "no 'images' array, only pictures"),
        ({"images": PIXELS.astype(np.float32)}, "must be uint8 .* got float32"),
        ({"images": PIXELS[..., :2]}, "must be uint8"),
        ({"images": PIXELS[:0]}, "no images"),
    ],
)
def test_arrays_of_the_wrong_shape_are_refused(tmp_path, arrays, sentence):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=sentence):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04rest", b"\x93NUMPY\x01\x00", b"text"])
def test_damaged_arrays_are_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"a\.np[yz] cannot be read: ."):
        open_images(tmp_path / name)


def test_labels_need_not_be_dense_and_val_follows_train(tmp_path):
    """Classes are the numbers that occur, in numerical order; labels of val mean the same classes."""
    labels, val = np.array([10, 2, 1_000_000, 2]), np.array([1_000_000, 10, 10, 10])
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=labels, val_images=PIXELS, val_labels=val)
    sets = open_images(tmp_path / "a.npz")
    assert sets.train.classes == sets.val.classes == ("2", "10", "1000000")
    assert sets.train.labels.tolist() == [1, 0, 2, 0]
    assert sets.val.labels.tolist() == [2, 1, 1, 1]


def test_a_list_may_name_files_by_absolute_path(photos, tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes(f"\ufeff{photos}/003.jpg\r\n\r\nphotos/001.jpg\r\n".encode())
    train = open_images(file).train
    assert paths(train) == [f"{photos}/003.jpg", "photos/001.jpg"]
    assert torch.equal(train.read(0), open_images(photos).train.read(3))


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"\xe9.jpg")
    try:
        (tmp_path / name).write_bytes(jpeg(70))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (tmp_path / "a.jpg").write_bytes(jpeg(70))
    (tmp_path / "list.txt").write_bytes(b"a.jpg\n\xe9.jpg\n")
    for source in (tmp_path, tmp_path / "list.txt"):
        train = open_images(source).train
        assert paths(train) == ["a.jpg", name]
        assert train.read(1)[0, 0, 0] == 70


def test_folders_that_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no images in .*looked for \.jpg \.jpeg \.png"):
        open_images(tmp_path)
    save_images(tmp_path, 1, seed=0)
    assert len(open_images(tmp_path).train) == 1  # verbs that need more check it

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"cannot read {tmp_path}.*: Permission denied"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "imagenet",
            r"no such file, folder or dataset: imagenet \(datasets: demo, cifar10, cifar100, stl10\)$",
        ),
        ("cifar", "did you mean cifar10"),
        ("no/such/place.npy", r"no such file or folder: no/such/place\.npy$"),
        ("x" * 300, "no such file, folder or dataset: xxx"),
        ("a\0b", "no such file, folder or dataset: a"),
    ],
)
def test_missing_paths(name, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=sentence):
        open_images(name)


class FakeSet:
    """Behaves as torchvision's sets do: raises RuntimeError if the files are missing."""

    classes: ClassVar = ["cat", "dog"]
    asked: ClassVar = []
    found = True

    def __init__(self, root, download, train=True, split=None):
        self.asked.append((str(root), download, train, split))
        if not self.found:
            raise OSError("no route to host") if download else RuntimeError("not found")
        self.targets = [0, 1, 1]
        self.data = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape((3, 3, 8, 8) if split else (3, 8, 8, 3))


@pytest.fixture
def fake_sets(monkeypatch, tmp_path):
    for name in ("CIFAR10", "STL10"):
        monkeypatch.setattr(f"torchvision.datasets.{name}", FakeSet)
    monkeypatch.setattr(FakeSet, "asked", [])
    monkeypatch.setenv("SIAM_DATASETS", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)


def test_a_set_by_name(fake_sets, tmp_path):
    sets = open_images("cifar10")
    assert sets.train.classes == sets.val.classes == ("cat", "dog")
    assert sets.val.labels.tolist() == [0, 1, 1]
    assert FakeSet.asked == [(str(tmp_path / "sets"), False, train, None) for train in (True, False)]


def test_stl10_includes_its_unlabeled_images(fake_sets):
    sets = open_images("stl10")
    assert [split for *_, split in FakeSet.asked] == ["train+unlabeled", "test"]
    assert sets.train.labels is None
    expected = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 3, 8, 8)[2]
    assert (sets.train.read(2).numpy() == expected).all()
    assert sets.train.read(2).permute(1, 2, 0).is_contiguous()


def test_a_missing_set_is_an_error_that_says_where_to_put_it(fake_sets, monkeypatch, tmp_path):
    monkeypatch.setattr(FakeSet, "found", False)
    with pytest.raises(
        DataError, match=f"cifar10 is not in {tmp_path / 'sets'} .*no route to host.*copy it there"
    ):
        open_images("cifar10")
    assert [download for _, download, *_ in FakeSet.asked] == [False, True]


words = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=20)


@given(words, st.sampled_from(["a/", "b/c/", "é/"]))
def test_names_below_a_folder_begin_with_its_path(names, folder):
    names = sorted([*names, *(folder + name for name in names[:5]), folder[:-1] + "0", folder[:-1] + "-"])
    kept = PackedStrings(names)
    expected = [name for name in names if name.startswith(folder)]
    part = kept.part([kept.below(folder)])
    assert list(part) == expected
    assert list(pickle.loads(pickle.dumps(part))) == expected  # noqa: S301
    assert [part[i] for i in range(len(part))] == expected


def test_real_photographs_in_a_tar():
    file = DATA / "photos.tar"
    if not file.is_file():
        pytest.skip("photos.tar is not in SIAM_DATA")
    train = open_images(file).train
    assert len(train) == 240
    assert all(min(train.read(i).shape[1:]) > 32 for i in range(0, 240, 8))
