"""From images to batches on the device: by workers or from a cached copy, and which files each reads."""

import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from siam.cli import command as cli
from siam.data.decode import BrokenImage
from siam.data.feeds import CachedFeed, WorkerFeed
from siam.data.loader import ViewLoader
from siam.data.order import Order
from siam.data.sources import open_images
from siam.data.sources.folder import FolderImages
from siam.data.subset import Subset
from siam.errors import DataError
from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings
from tests.conftest import TINY

CPU = torch.device("cpu")
SETTINGS = Settings(epochs=2, batch_size=8, views=ViewSettings(size=16), loader=LoaderSettings(0, "none"))


def make_square(folder):
    """Make all images one size, so that the set can be cached on the device."""
    for file in folder.iterdir():
        Image.open(file).resize((40, 32)).save(file, quality=95)


def same_batches(some, others):
    some, others = list(some), list(others)
    assert [(b.epoch, b.step) for b in some] == [(b.epoch, b.step) for b in others]
    return all(
        np.array_equal(a.indices, b.indices) and all(map(torch.equal, a.views, b.views))
        for a, b in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("cache", ["none", "device"])
@pytest.mark.parametrize("pipeline", ["fast", "reference"])
def test_batches_from_any_position_equal_those_of_the_whole_run(photos, cache, pipeline):
    make_square(photos)
    views = replace(SETTINGS.views, pipeline=pipeline)
    settings = replace(SETTINGS, views=views, loader=LoaderSettings(0, cache))
    loader = ViewLoader(open_images(photos).train, settings, CPU)
    assert loader.cached == (cache == "device" and pipeline == "fast")
    assert isinstance(loader.feed, CachedFeed if loader.cached else WorkerFeed)
    whole = list(loader.batches())
    assert [(b.epoch, b.step) for b in whole] == [(e, s) for e in range(2) for s in range(3)]
    assert all(b.views[0].shape == (8, 3, 16, 16) and len(b.views) == 2 for b in whole)
    for at, (epoch, step) in enumerate([(0, 0), (0, 2), (1, 1)]):
        assert same_batches(loader.batches(epoch, step), whole[[0, 2, 4][at] :])
    assert same_batches(loader.batches(0, 3), whole[3:]), "the step after the last begins the next epoch"


def test_a_key_holds_its_position():
    order = Order(20, Settings(batch_size=8, epochs=2))
    keys = list(order)
    assert [key[:2] for key in keys] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert np.array_equal(keys[2][2], order.epoch(1)[0])
    assert [key[:2] for key in order.at((0, 2))] == [(1, 0), (1, 1)]


@pytest.mark.slow
def test_images_that_vanish_in_a_worker_are_an_error_of_one_line(photos):
    settings = replace(SETTINGS, epochs=50, loader=LoaderSettings(1, "none"))
    batches = ViewLoader(open_images(photos).train, settings, CPU).batches()
    next(batches)
    photos.rename(photos.with_name("away"))
    with pytest.raises(
        DataError, match=r"can no longer be read: 24 images in a row, .*No such file"
    ) as caught:
        list(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", ["none", "device"])
def test_over_a_tenth_unreadable_ends_the_run_and_names_them(photos, cache):
    make_square(photos)
    for i in (3, 9, 11):
        (photos / f"{i:03d}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3 of 24 images .* more than 10 %: .*\(is not an image\)"):
        list(
            ViewLoader(
                open_images(photos).train, replace(SETTINGS, loader=LoaderSettings(0, cache)), CPU
            ).batches()
        )


def test_an_unreadable_set_is_refused(photos):
    for file in photos.iterdir():
        file.write_bytes(b"no image")
    says = r"the images in .* cannot be read: 24 images in a row, starting at 000.jpg, .*is not an image"
    for cache in ("auto", "device"):
        with pytest.raises(DataError, match=says):
            ViewLoader(open_images(photos).train, replace(SETTINGS, loader=LoaderSettings(0, cache)), CPU)


def count_reads(monkeypatch):
    """Count how often the file of each image is read, and how often it is decoded."""
    from siam.data import cache, images, views

    reads, decodes, files = Counter(), Counter(), {}
    encoded = FolderImages.encoded

    def read(self, i):
        data = encoded(self, i)
        reads[self.names[i]] += 1
        files[data] = self.names[i]
        return data

    monkeypatch.setattr(FolderImages, "encoded", read)
    for module in (cache, images, views):

        def decode(data, *args, true=module.decode, **options):
            decodes[files[data]] += 1
            return true(data, *args, **options)

        monkeypatch.setattr(module, "decode", decode)
    return reads, decodes


@pytest.mark.parametrize(("cache", "times"), [("none", 2), ("device", 3)])
def test_image_0_is_decoded_no_more_often_than_any_other_image(
    photos, tmp_path, monkeypatch, capsys, cache, times
):
    """Before the first step: twice for the monitor, and again if the whole set is cached on the device."""
    from siam.train import pretrain

    make_square(photos)
    reads, decodes = count_reads(monkeypatch)

    class Enough(Exception):
        pass

    class NoSteps(ViewLoader):
        def batches(self, *args):
            raise Enough

    monkeypatch.setattr(pretrain, "ViewLoader", NoSteps)
    args = ["pretrain", photos, *TINY, "--loader.cache", cache, "--out", tmp_path / "run"]
    with pytest.raises(Enough):
        cli.main(list(map(str, args)))
    assert decodes == {f"{i:03d}.jpg": times for i in range(24)}
    assert reads == {**decodes, "000.jpg": times + 1}, "its header says what size the images have"


def test_the_size_hint_is_that_of_the_first_readable_image(photos):
    with Image.open(photos / "002.jpg") as image:
        width, height = image.size
    (photos / "000.jpg").write_bytes(b"")
    (photos / "001.jpg").write_bytes(b"no image")
    images = open_images(photos).train
    assert images.size_hint == (height, width)
    (photos / "002.jpg").unlink()
    assert images.size_hint == (height, width), "looked up once"


def test_a_subset_keeps_the_properties_of_its_set(photos, tmp_path):
    """Groups and the end of a lost file are translated to its indices; pixels are those of its images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(photos.iterdir())
    pq.write_table(
        pa.table({"image": [f.read_bytes() for f in files]}), tmp_path / "a.parquet", row_group_size=5
    )
    whole = open_images(tmp_path / "a.parquet").train
    part = Subset(whole, np.array([0, 3, 4, 7, 20, 21]))  # groups begin at 0, 5, 10, 15, 20
    assert part.groups.tolist() == [0, 3, 4, 6]
    assert part.encoded(3) == files[7].read_bytes()
    assert part.stacked() is None
    assert part.size_hint == whole.size_hint
    (tmp_path / "a.parquet").write_bytes(b"gone")
    with pytest.raises(BrokenImage) as caught:  # the file's row group of images 10 to 14
        Subset(whole, np.array([3, 11, 12, 21, 22])).read(1)
    assert caught.value.until == 3

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    array = open_images(tmp_path / "a.npy").train
    some = Subset(array, np.array([1, 4]))
    assert some.encoded(0) is None
    assert some.groups is None
    assert torch.equal(some.stacked(), torch.from_numpy(pixels[[1, 4]]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("gray", [False, True])
def test_arrays_are_stacked_without_a_copy(tmp_path, gray):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 9) if gray else (6, 8, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    images = open_images(tmp_path / "a.npy").train
    stacked = images.stacked()
    assert stacked.data_ptr() == images.images.ctypes.data
    assert all(torch.equal(stacked[i], images.read(i)) for i in range(6))
    loader = ViewLoader(images, replace(SETTINGS, batch_size=3, loader=LoaderSettings(0, "auto")), CPU)
    assert loader.cached
    assert torch.equal(loader.feed.pixels, stacked)


def test_files_have_no_pixels_in_memory(photos, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(photos, "x")
    for name in (photos, tmp_path / "x.tar"):
        images = open_images(name).train
        assert images.stacked() is None
        assert images.groups is None


class Buggy(FolderImages):
    """A source with a bug, which is no damaged image."""

    def encoded(self, i):
        raise RuntimeError("a bug in a source")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_source_is_not_taken_for_a_dead_worker(photos, workers):
    images = open_images(photos).train
    buggy = Buggy(images.name, images.root, images.names)
    buggy.size_hint = images.size_hint
    settings = replace(SETTINGS, loader=LoaderSettings(workers, "none"))
    said = []
    with pytest.raises(RuntimeError, match="a bug in a source"):
        next(ViewLoader(buggy, settings, CPU, warn=said.append).batches())
    assert said == []
