"""WebDataset samples: one photograph each, and labels stored next to it."""

import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest

from siam.convert.vectors import embed_to_parquet
from siam.data.samples import label_in, split_key
from siam.data.sharding import shard
from siam.data.sources import open_images
from tests.conftest import TINY, run_cli


def write_tar(file, members):
    """Write a tar. members: (name, contents) pairs."""
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def images_in(name):
    return open_images(name).train


def paths(images):
    return [images.path(i) for i in range(len(images))]


@pytest.fixture
def data(photos):
    return [file.read_bytes() for file in sorted(photos.iterdir())]


@pytest.mark.parametrize(
    ("components", "photograph"),
    [
        (("jpg", "mask.png"), "jpg"), (("jpg", "png"), "jpg"), (("png", "seg.png"), "png"),
        (("image.jpg", "depth.png", "normals.png"), "image.jpg"), (("rgb.png", "Mask01.PNG"), "rgb.png"),
        (("input.png", "target.png"), "input.png"), (("jpg", "thumbnail.jpg"), "jpg"),
        (("JPG", "gt.PNG"), "JPG"), (("left.png", "disparity.png"), "left.png"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shards", [1, 2])
def test_a_samples_mask_is_no_photograph(data, tmp_path, components, photograph, shards):
    """In one tar and in several, whatever the order of the components."""
    for n in range(shards):
        keys = range(4 * n, 4 * n + 4)
        members = [(f"{key:04d}.{c}", data[key]) for key in keys for c in sorted(components, reverse=key % 2)]
        write_tar(tmp_path / f"x-{n}.tar", members)
    sets = open_images(tmp_path / "x-0.tar" if shards == 1 else tmp_path / "x-{0..1}.tar")
    assert paths(sets.train) == [f"{key:04d}.{photograph}" for key in range(4 * shards)]
    aside = (len(components) - 1) * 4 * shards
    assert f"{aside} masks and other images of samples" in str(sets.left_out)


def test_names_that_begin_alike_are_photographs(data, tmp_path):
    """A tar of a folder is no WebDataset: a dot in a name means nothing."""
    names = ["a.1.jpg", "a.2.jpg", "a.jpg", "b.edited.jpg", "mask.jpg", "sub.1/c.jpg", "sub.2/c.jpg"]
    write_tar(tmp_path / "x.tar", list(zip(names, data, strict=False)))
    sets = open_images(tmp_path / "x.tar")
    assert paths(sets.train) == sorted(names)
    assert not sets.left_out


def test_several_views_of_a_sample_are_all_photographs(data, tmp_path):
    write_tar(tmp_path / "x.tar", [(f"{i}.{side}.jpg", data[i]) for i in range(3) for side in ("a", "b")])
    assert len(images_in(tmp_path / "x.tar")) == 6


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        ([b"3", b"10", b"3\n", b"-1"], ("3", "10"), [0, 1, 0, -1]),
        ([b"cat", b"dog\r\n", b" cat ", "ä".encode()], ("cat", "dog", "ä"), [0, 1, 0, 2]),
        ([b"cat", b"", b"dog", b"cat"], ("cat", "dog"), [0, -1, 1, 0]),
        ([b"-1"] * 4, (), None),
        ([b"x" * 5000] * 4, (), None),
    ],
)
@pytest.mark.parametrize("first", ["cls", "jpg"])
def test_labels_come_from_cls_members(data, tmp_path, labels, classes, numbers, first):
    """Before or after the image, with captions and metadata next to them."""
    members = []
    for i, label in enumerate(labels):
        sample = {"jpg": data[i], "cls": label, "txt": b"7", "json": json.dumps({"caption": "9"}).encode()}
        members += [(f"d/{i:03d}.{c}", sample[c]) for c in sorted(sample, reverse=first == "jpg")]
    write_tar(tmp_path / "x-0.tar", members[:8])
    write_tar(tmp_path / "x-1.tar", members[8:])
    images = images_in(tmp_path / "x-*.tar")
    assert len(images) == 4
    assert images.classes == classes
    assert numbers == (None if images.labels is None else images.labels.tolist())


@pytest.mark.parametrize(
    ("component", "text", "label"),
    [
        ("cls", b"12", 12), ("cls", b"\xff", "\ufffd"), ("cls", b"1.5", "1.5"), ("cls", b"\xc2\xb2", "²"),
        ("cls", b"9" * 30, "9" * 30), ("json", b'{"label": 4, "class_name": "x"}', 4),
        ("json", b'{"class_name": "x"}', "x"), ("json", b'{"label": true}', None),
        ("json", b'{"label": [1]}', None),
        ("json", b"[" * 100_000, None), ("json", b"7", None), ("json", b"", None),
    ],
)  # fmt: skip
def test_the_label_in_a_component(component, text, label):
    assert label_in(component, text) == label


def test_keys_end_at_the_first_dot_of_the_base_name():
    assert split_key("a.b/c.d.PNG") == ("a.b/c", "d.png")
    assert split_key("c") == ("c", "")


def test_labels_in_json_serve_if_there_is_no_cls(data, tmp_path):
    members = []
    for i in range(4):
        members += [(f"{i}.json", json.dumps({"label": i % 2}).encode()), (f"{i}.jpg", data[i])]
    write_tar(tmp_path / "x.tar", members)
    assert images_in(tmp_path / "x.tar").labels.tolist() == [0, 1, 0, 1]


def test_labels_of_a_list_survive_sharding(photos, tmp_path):
    """Labels with names, in an order of their own, and one image without a label; then sharded again."""
    kinds = ["zebra", "ant", "-1", "mole"]
    lines = [f"{file.name}\t{kinds[i % 4]}" for i, file in enumerate(sorted(photos.iterdir()))]
    (photos / "list.txt").write_text("\n".join(lines))
    listed = images_in(photos / "list.txt")
    assert listed.classes == ("ant", "mole", "zebra")
    shard(photos / "list.txt", tmp_path / "shards", "8kB")
    shard(tmp_path / "shards", tmp_path / "again", "1MB")
    for name in ("shards", "shards/*.tar", "again", "again/train-000000.tar"):
        images = images_in(tmp_path / name)
        assert images.labels.tolist() == listed.labels.tolist(), name
        expected = listed.classes if name != "again/train-000000.tar" else ("0", "1", "2")
        assert images.classes == expected, name


def test_class_folders_name_the_numbers_of_cls_members(classes, tmp_path):
    shard(classes / "train", tmp_path / "shards", "1MB")
    (tmp_path / "shards" / "index.json").unlink()
    images = images_in(tmp_path / "shards")
    assert images.classes == ("dark", "light")


@pytest.mark.parametrize(
    "index", ["[]", '{"shardlist": 1, "classes": 2}', "[" * 100_000, '{"classes": [[1]]}']
)
def test_a_damaged_index_costs_no_images(classes, tmp_path, index):
    shard(classes / "train", tmp_path / "shards", "1MB")
    (tmp_path / "shards" / "index.json").write_text(index)
    assert len(images_in(tmp_path / "shards")) == 24


def test_images_of_the_same_name_in_a_tar_are_counted(data, tmp_path):
    """The last one wins, as in extraction."""
    write_tar(tmp_path / "x.tar", [("a.jpg", data[0]), ("./a.jpg", data[1]), ("b.jpg", data[2])])
    sets = open_images(tmp_path / "x.tar")
    assert [sets.train.encoded(i) for i in range(2)] == data[1:3]
    assert "1 image with the name of a later one (a.jpg)" in str(sets.left_out)


def test_embed_evaluate_and_shard_name_lost_shards(classes, tmp_path):
    """One is missing, and one is cut off."""
    run = tmp_path / "run"
    run_cli("pretrain", classes / "train", *TINY, "--epochs", 1, "--out", run, check=0)
    shard(classes / "train", tmp_path / "shards", "4kB")
    files = sorted((tmp_path / "shards").glob("*.tar"))
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:3000])
    out = tmp_path / "v.parquet"
    for args in (
        ["embed", run, tmp_path / "shards", "--workers", 0, "--out", out],
        ["evaluate", run, tmp_path / "shards", "--workers", 0],
        ["shard", tmp_path / "shards", "--out", tmp_path / "again"],
    ):
        said = run_cli(*args, check=0).said()
        assert f"{files[1]}: skipped because it is missing" in said
        assert f"{files[2]}: corrupt or truncated" in said


def test_embed_lists_what_it_could_not_read_also_when_it_continues(classes, tmp_path, monkeypatch):
    """Parts written before an interruption know their unreadable images."""
    run = tmp_path / "run"
    run_cli("pretrain", classes / "train", *TINY, "--epochs", 1, "--out", run, check=0)
    broken = [classes / "train" / "dark" / f"{i:03d}.jpg" for i in (0, 7)]
    for file in broken:
        file.write_bytes(b"no image")
    monkeypatch.setattr("siam.convert.vectors._PART", 1)
    monkeypatch.setattr("siam.convert.vectors._join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_to_parquet(run, classes / "train", tmp_path / "v.parquet", batch_size=4, workers=0)
    monkeypatch.undo()
    monkeypatch.setattr("siam.convert.vectors._PART", 1)
    written = embed_to_parquet(run, classes / "train", tmp_path / "v.parquet", batch_size=4, workers=0)
    assert (written["images"], written["unreadable"]) == (22, 2)
    listed = (tmp_path / "v.parquet.unreadable.txt").read_text()
    assert listed == "dark/000.jpg\tis not an image\ndark/007.jpg\tis not an image\n"
    assert b"unreadable" not in pq.read_schema(tmp_path / "v.parquet").metadata


def interrupted(*_):
    raise KeyboardInterrupt
