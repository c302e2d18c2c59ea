"""Fingerprints: the same images at another place are the same; other names, sizes or numbers are not."""

import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siam.data.fingerprint import changes, fingerprint
from siam.data.sources import open_images


def as_folder(photos, out):
    shutil.copytree(photos, out)
    return out


def as_list(photos, out):
    """A list of absolute paths, next to the images."""
    as_folder(photos, out)
    (out / "list.txt").write_text("\n".join(str(file) for file in sorted(out.glob("*.jpg"))))
    return out / "list.txt"


def as_tar(photos, out):
    out.mkdir(parents=True)
    with tarfile.open(out / "photos.tar", "w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    return out / "photos.tar"


def as_shards(photos, out):
    out.mkdir(parents=True)
    files = sorted(photos.iterdir())
    for number, half in enumerate((files[::2], files[1::2])):
        with tarfile.open(out / f"x-{number:06d}.tar", "w") as tar:
            for file in half:
                tar.add(file, file.name)
    return f"{out}/x-{{000000..000001}}.tar"


def as_parquet(photos, out):
    out.mkdir(parents=True)
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in sorted(photos.iterdir())]
    pq.write_table(pa.table({"image": rows}), out / "photos.parquet")
    return out / "photos.parquet"


def as_array(photos, out):
    out.mkdir(parents=True)
    rows = [np.full((8, 8, 3), len(file.read_bytes()) % 251, np.uint8) for file in sorted(photos.iterdir())]
    np.save(out / "photos.npy", np.stack(rows))
    return out / "photos.npy"


SOURCES = [as_folder, as_list, as_tar, as_shards, as_parquet, as_array]


def of(data):
    return fingerprint(open_images(str(data)))


@pytest.mark.parametrize("write", SOURCES)
def test_a_copy_elsewhere_is_the_same_set(photos, tmp_path, write):
    one, other = of(write(photos, tmp_path / "here")), of(write(photos, tmp_path / "over" / "there"))
    assert changes(one, other) == []
    assert one["training"]["images"] == 24


def remove(photos):
    (photos / "003.jpg").unlink()


def rename(photos):
    (photos / "003.jpg").rename(photos / "003_new.jpg")


def edit(photos):
    (photos / "003.jpg").write_bytes((photos / "003.jpg").read_bytes() + b"0")


@pytest.mark.parametrize("write", SOURCES)
def test_an_image_less_is_another_set(photos, tmp_path, write):
    before = of(write(photos, tmp_path / "before"))
    remove(photos)
    found = changes(before, of(write(photos, tmp_path / "after")))
    assert found == ["23 training images instead of 24"]


@pytest.mark.parametrize("write", [write for write in SOURCES if write is not as_array])
def test_another_name_is_another_set(photos, tmp_path, write):
    before = of(write(photos, tmp_path / "before"))
    rename(photos)
    assert changes(before, of(write(photos, tmp_path / "after"))) == ["training images with other names"]


@pytest.mark.parametrize("write", SOURCES)
def test_another_file_under_the_same_name_is_another_set(photos, tmp_path, write):
    before = of(write(photos, tmp_path / "before"))
    edit(photos)
    assert changes(before, of(write(photos, tmp_path / "after"))) == ["training images with other contents"]


def test_validation_images_belong_to_the_set(classes):
    before = of(classes)
    (classes / "val" / "dark" / "000.jpg").unlink()
    assert changes(before, of(classes)) == ["11 validation images instead of 12"]


def test_an_image_that_is_gone_changes_the_contents(photos):
    (photos / "list.txt").write_text("\n".join(f"{i:03d}.jpg" for i in range(24)))
    before = of(photos / "list.txt")
    remove(photos)
    assert changes(before, of(photos / "list.txt")) == ["training images with other contents"]
