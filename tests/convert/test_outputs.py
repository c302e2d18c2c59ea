"""Outputs of embed, export, import and shard: whose they are, what they replace, equal bytes, a full disk."""

import contextlib
import errno
import os
import shutil
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from siam.convert import parts as parts_module
from siam.convert import vectors as vectors_module
from siam.convert.export import export
from siam.convert.importer import import_checkpoint
from siam.convert.vectors import embed_to_parquet
from siam.data.sharding import shard
from siam.errors import RunError, SettingsError, SiamError
from siam.runs.tensors import safetensors_file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("checkpoint") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    import_checkpoint(checkpoint, folder, image_size=64)
    return folder


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "run"
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18().state_dict(), folder.parent / "other.pth")
    import_checkpoint(folder.parent / "other.pth", folder, image_size=64)
    return folder


embed = partial(embed_to_parquet, batch_size=2, workers=0)


# The folder of parts


@pytest.fixture
def interrupted(run, photos, tmp_path, monkeypatch):
    """An embed of 24 images that ended before its parts were joined."""
    with monkeypatch.context() as patch:
        patch.setattr(vectors_module, "_PART", 2)

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(vectors_module, "_join", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(run, photos, tmp_path / "v.parquet")
    monkeypatch.setattr(vectors_module, "_PART", 2)
    assert len(list((tmp_path / "v.parquet.parts").glob("*.parquet"))) == 6
    return tmp_path / "v.parquet"


def count_embedded(monkeypatch):
    """Count the images that are embedded from now on."""
    counts = []
    whole = vectors_module.Embedder.vectors

    def counting(self, images, indices, *unreadable):
        counts.append(len(indices))
        return whole(self, images, indices, *unreadable)

    monkeypatch.setattr(vectors_module.Embedder, "vectors", counting)
    return counts


def test_parts_are_continued_for_a_copy_of_the_images(run, photos, interrupted, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "elsewhere")
    (interrupted.with_name("v.parquet.parts") / "0-00000003.parquet").unlink()
    counts = count_embedded(monkeypatch)
    assert embed(run, tmp_path / "elsewhere", interrupted)["images"] == 24
    assert counts == [4]


@pytest.mark.parametrize("harm", ["rename", "overwrite", "exchange"])
def test_parts_of_changed_images_are_not_mixed_with_new_ones(run, photos, interrupted, capsys, harm):
    """The number of images is the same."""
    if harm == "rename":
        (photos / "000.jpg").rename(photos / "zzz.jpg")
    else:
        shutil.copy(photos / "023.jpg", photos / "000.jpg")
    if harm == "exchange":
        shutil.copy(photos / "001.jpg", photos / "023.jpg")
    embed(run, photos, interrupted)
    assert "starting over, because the interrupted call had other inputs: training images" in " ".join(
        capsys.readouterr().err.split()
    )
    table = pq.read_table(interrupted).to_pydict()
    assert table["path"] == sorted(file.name for file in photos.iterdir())
    vectors = dict(zip(table["path"], table["embedding"], strict=True))
    if harm == "overwrite":
        assert np.allclose(vectors["000.jpg"], vectors["023.jpg"], atol=1e-3)
    if harm == "exchange":
        assert np.allclose(vectors["001.jpg"], vectors["023.jpg"], atol=1e-3)


def test_parts_of_another_encoder_are_discarded_with_a_word(other_run, photos, interrupted, capsys):
    embed(other_run, photos, interrupted)
    assert "other inputs: weights" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("file", ["thesis.txt", "job.json", "0-00000000.parquet"])
def test_a_folder_of_the_users_is_never_taken_for_parts(run, photos, tmp_path, file):
    """Whatever its files are called."""
    folder = tmp_path / "v.parquet.parts"
    folder.mkdir()
    (folder / file).write_text("precious")
    with pytest.raises(RunError, match=r"v\.parquet\.parts was not written by siam: move it away"):
        embed(run, photos, tmp_path / "v.parquet")
    assert (folder / file).read_text() == "precious"


def test_a_file_added_to_the_parts_is_kept(run, photos, interrupted):
    folder = interrupted.with_name("v.parquet.parts")
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="was not written by siam"):
        embed(run, photos, interrupted)
    assert (folder / "thesis.txt").read_text() == "precious"


def test_parts_are_not_written_through_a_link(run, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "v.parquet.parts").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="was not written by siam"):
        embed(run, photos, tmp_path / "v.parquet")
    assert list((tmp_path / "mine").iterdir()) == []


def test_two_calls_do_not_write_the_same_file(run, photos, tmp_path):
    with (
        parts_module.parts_folder(tmp_path / "v.parquet"),
        pytest.raises(RunError, match="in use by another"),
    ):
        embed(run, photos, tmp_path / "v.parquet")


# What is replaced


def test_vectors_are_replaced_only_by_those_of_the_same_encoder_and_data(run, other_run, photos, tmp_path):
    out = tmp_path / "v.parquet"
    embed(run, photos, out)
    (photos / "000.jpg").unlink()
    embed(run, photos, out)  # the same folder, with an image less
    assert len(pq.read_table(out)) == 23
    kept = out.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "001.jpg", tmp_path / "elsewhere")
    for source, data in ((other_run, photos), (run, tmp_path / "elsewhere")):
        with pytest.raises(RunError, match="exists and was not written from the same encoder and data"):
            embed(source, data, out)
    assert out.read_bytes() == kept
    assert not (tmp_path / "v.parquet.parts").exists()


def test_a_file_of_the_users_is_not_replaced_by_vectors(run, photos, tmp_path):
    out = tmp_path / "v.parquet"
    out.write_bytes(b"precious")
    with pytest.raises(RunError, match="delete it"):
        embed(run, photos, out)
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.csv", "vectors.NPZ", "v.json"])
def test_a_suffix_that_promises_another_format_is_refused(run, photos, tmp_path, name):
    with pytest.raises(
        RunError, match=r"siam embed writes Parquet, not \.\w+: choose a name such as .*\.parquet"
    ):
        embed(run, photos, tmp_path / name)
    assert not (tmp_path / name).exists()


FILES = {
    "torchvision": "e.pth",
    "detectron2": "e.pkl",
    "safetensors": "e.safetensors",
    "onnx": "e.onnx",
    "timm": "timm",
}


@pytest.mark.parametrize("format", FILES)
def test_an_export_replaces_an_export_and_nothing_else(run, tmp_path, format):
    out = tmp_path / FILES[format]
    export(run, format, out)
    first = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    export(run, format, out)
    assert {file: file.read_bytes() for file in first} == first, "the same run gives the same bytes"
    target = out / "model.safetensors" if format == "timm" else out
    target.write_bytes(b"precious")
    with pytest.raises(RunError, match="exists and was not written by siam export"):
        export(run, format, out)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("format", [name for name in FILES if name != "timm"])
def test_an_export_onto_a_folder_is_refused(run, tmp_path, format):
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match=r"mine is a folder: specify a file, such as .*mine/encoder\.\w+"):
        export(run, format, tmp_path / "mine")
    assert [file.name for file in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize(
    ("format", "name", "says"),
    [
        ("torchvision", "e.onnx", r"choose a name that ends in \.pth, or --format onnx"),
        ("onnx", "e.safetensors", r"choose a name that ends in \.onnx, or --format safetensors"),
        ("timm", "e.pth", "choose a folder, or --format torchvision"),
    ],
)
def test_a_suffix_of_another_format_is_refused(run, tmp_path, format, name, says):
    with pytest.raises(RunError, match=says):
        export(run, format, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["encoder.safetensors", "metrics.jsonl", "report.html"])
def test_an_import_into_a_folder_with_such_a_file_is_refused(checkpoint, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match="already contains"):
        import_checkpoint(checkpoint, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_shards_need_a_folder(photos, tmp_path):
    with pytest.raises(SettingsError, match="--out is a folder of shards"):
        shard(photos, tmp_path / "photos.tar")


# Equal bytes


def test_metadata_is_written_in_the_same_order_every_time(tmp_path):
    """The library's own order differs from call to call."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.int64)}
    metadata = {f"key {i}": f"välue {i}" for i in range(12)}
    written = set()
    for order in (metadata, dict(reversed(metadata.items()))):
        for _ in range(10):
            with (tmp_path / "file").open("wb") as file:
                safetensors_file(tensors, order)(file)
            written.add((tmp_path / "file").read_bytes())
    assert len(written) == 1
    loaded = load_file(tmp_path / "file")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_equal_imports_vectors_and_shards_are_equal_to_the_byte(checkpoint, run, photos, tmp_path):
    import_checkpoint(checkpoint, tmp_path / "again", image_size=64)
    for name in ("encoder.safetensors", "network.safetensors", "settings.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    for number, source in enumerate((run, tmp_path / "again")):
        embed(source, photos, tmp_path / f"{number}.parquet")
        shard(photos, tmp_path / f"shards{number}")
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    one, other = (sorted((tmp_path / f"shards{number}").iterdir()) for number in (0, 1))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]


# A full disk


@pytest.fixture(params=["fsync", "write"])
def full(request, monkeypatch):
    """Return a function that fills the disk: flushing fails, or writing more than 100 kB does."""

    def fill():
        if request.param == "fsync":
            monkeypatch.setattr(os, "fsync", no_space)
        else:
            fdopen = os.fdopen
            monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Small(fdopen(descriptor, mode)))

    return fill


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Small:
    """A file on a disk with little room left."""

    def __init__(self, file):
        self.file, self.left = file, 100

    def write(self, data):
        self.left -= memoryview(data).nbytes
        if self.left < 0:
            no_space()
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


VERBS = {
    "import": lambda run, checkpoint, photos, out: import_checkpoint(checkpoint, out / "deep" / "run"),
    "embed": lambda run, checkpoint, photos, out: embed(run, photos, out / "v.parquet"),
    "shard": lambda run, checkpoint, photos, out: shard(photos, out / "deep" / "shards"),
    **{
        name: lambda run, checkpoint, photos, out, name=name: export(run, name, out / "deep" / FILES[name])
        for name in FILES
    },
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_line_and_nothing_half_written(run, checkpoint, photos, tmp_path, full, verb):
    out = tmp_path / "disk"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    full()
    with pytest.raises(SiamError, match=r"cannot write to .*: No space left on device") as raised:
        VERBS[verb](run, checkpoint, photos, out)
    assert "\n" not in str(raised.value)
    left = {file.name for file in out.rglob("*")} - {"v.parquet.parts", ".lock"}
    assert left == {"mine.txt"}, "embed keeps its folder of parts, which are whole"


def test_the_second_of_two_shards_fails_and_the_first_goes_too(photos, tmp_path, monkeypatch):
    """Half of the shards would pass for the whole set."""
    fsync, calls = os.fsync, []

    def second(descriptor):
        calls.append(descriptor)
        no_space() if len(calls) > 2 else fsync(descriptor)

    monkeypatch.setattr(os, "fsync", second)
    with contextlib.suppress(SiamError):
        shard(photos, tmp_path / "shards", size="10kB")
    assert len(calls) > 2
    assert not (tmp_path / "shards").exists()
