"""Layouts of public datasets: what is trained on, what is measured on, and what the classes are."""

import gzip
import io
import json
import shutil
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from siam.data import remote
from siam.data.patterns import expand_shards
from siam.data.sources import open_images
from siam.errors import DataError

C = ("bag", "mug", "pen", "toy")


def make(root, *folders):
    """Make empty image files. folders: "NAME/ * COUNT", or "NAME/" for two."""
    for folder in folders:
        name, _, count = folder.partition(" * ")
        for i in range(int(count or 2)):
            file = root / f"{name}{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return root


DOMAINS = [f"{domain}/images/{kind}/" for domain in ("amazon", "dslr") for kind in C]
MVTEC = [
    "bottle/train/good/ * 6", "bottle/test/good/", "bottle/test/broken/", "bottle/ground_truth/broken/",
    "cable/train/good/ * 4", "cable/test/good/", "cable/test/bent/", "cable/ground_truth/bent/",
]  # fmt: skip
MASKS = "images in folders of masks or annotations"


@pytest.mark.parametrize(
    ("folders", "said", "left_out"),
    [
        (MVTEC, "10 images in */train/, 8 for validation in */test/, 2 classes",
         {"images outside */train/ and */test/": 4}),
        (DOMAINS, "16 images, 4 classes (in each of amazon/images/, dslr/images/)", {}),
        ([f"{domain}/{split}/{kind}/" for domain in "ab" for split in ("train", "val") for kind in C],
         "16 images in */train/, 16 for validation in */val/, 4 classes (in each of a/train/, b/train/)", {}),
        ([f"{kind}/{split}/" for kind in C for split in ("Train", "Test")],
         "8 images in */Train/, 8 for validation in */Test/, 4 classes", {}),
        ([f"fold{fold}/{split}/{kind}/" for fold in (1, 2) for split in ("train", "val") for kind in C],
         "8 images in train/, 8 for validation in val/, 4 classes", {"images outside train/ and val/": 16}),
        ([*(f"train/n0{kind}/images/" for kind in C), "val/images/"],
         "8 images in train/, 2 for validation in val/ without labels, 4 classes", {}),
        ([f"ILSVRC/Data/CLS-LOC/{split}/{kind}/" for split in ("train", "val") for kind in C],
         "8 images in train/, 8 for validation in val/, 4 classes", {}),
        (["JPEGImages/ * 5", "SegmentationClass/", "SegmentationObject/ * 3"], "5 images", {MASKS: 5}),
        (["Object_Images/", "Object_Segmented_Masks/"], "2 images", {MASKS: 2}),  # matterport/Mask_RCNN#2784
        ([f"{kind}/{split}/{city}/" for kind in ("leftImg8bit", "gtFine") for split in ("train", "val")
          for city in "ab"], "4 images in train/, 4 for validation in val/, 2 classes", {MASKS: 8}),
        ([f"{kind}/{split}/ * 3" for kind in ("annotations", "images")
          for split in ("training", "validation")],
         "3 images in training/, 3 for validation in validation/", {MASKS: 6}),
        ([f"{split}/{kind}/" for split in ("train", "val") for kind in ("images", "masks")],
         "2 images in train/, 2 for validation in val/", {MASKS: 4}),
    ],
    ids=["mvtec", "office-31", "domains with splits", "classes with splits", "folds", "tiny-imagenet",
         "imagenet", "voc", "masks", "cityscapes", "ade20k", "masks per split"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_public_layouts(tmp_path, folders, said, left_out, form):
    root = make(tmp_path / "set", *folders)
    if form == "tar":
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(root, arcname=".")
        root = tmp_path / "set.tar"
    sets = open_images(root)
    assert sets.describe() == said
    assert sets.left_out.counts() == left_out


def test_the_parts_of_a_dataset_of_parts_keep_their_images_and_labels(tmp_path):
    sets = open_images(make(tmp_path, *MVTEC))
    assert sets.train.classes == sets.val.classes == ("bottle", "cable")
    assert sets.train.labels.tolist() == [0] * 6 + [1] * 4
    assert sets.val.labels.tolist() == [0] * 4 + [1] * 4
    assert [sets.val.path(i) for i in (0, 4, 7)] == [
        "bottle/test/broken/0.png", "cable/test/bent/0.png", "cable/test/good/1.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "folders",
    [
        [f"{year}/{month}/" for year in (2022, 2023) for month in ("feb", "jan", "may")],
        [f"{kind}/{side}/" for kind in C for side in ("back", "front")],
    ],
    ids=["albums by year", "classes with the same two folders"],
)
def test_folders_of_the_same_names_that_are_no_classes(tmp_path, folders):
    assert open_images(make(tmp_path, *folders)).train.labels is None


@pytest.mark.parametrize(
    "classes", [("with_mask", "without_mask"), ("bag", "image", "pen", "target"), ("mask", "pen")]
)
def test_classes_that_are_named_like_masks(tmp_path, classes):
    sets = open_images(make(tmp_path, *(f"{kind}/" for kind in classes)))
    assert sets.train.classes == classes
    assert not sets.left_out


# what tools write


def jpeg():
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "JPEG")
    return data.getvalue()


def make_tar(file, members):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_the_records_of_img2dataset_are_no_images(tmp_path):
    """Next to 00000.tar it writes 00000.parquet, with a row per download (rom1504/img2dataset#11)."""
    for number in range(2):
        name = f"{number:05d}"
        make_tar(
            tmp_path / f"{name}.tar", {f"{name}0.jpg": jpeg(), f"{name}0.json": b"{}", f"{name}0.txt": b"x"}
        )
        pq.write_table(pa.table({"url": ["a"], "status": ["success"]}), tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}_stats.json").write_text("{}")
    assert len(open_images(tmp_path).train) == 2
    shutil.copy(tmp_path / "00000.parquet", tmp_path / "others.parquet")
    with pytest.raises(DataError, match="matches both tar and Parquet files"):
        open_images(tmp_path)


def test_a_compressed_shard_is_named_as_such(tmp_path):
    """A file called .tar may be a .tar.gz (webdataset/webdataset#331)."""
    make_tar(tmp_path / "0.tar", {"0.jpg": jpeg()})
    (tmp_path / "1.tar").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    (tmp_path / "2.tar").write_bytes(b"<html>")
    reasons = open_images(tmp_path).unreadable_files.values()
    assert [reason.removeprefix("skipped because it is ") for reason in reasons] == [
        "compressed: decompress it first", "corrupt or not a tar",
    ]  # fmt: skip


def test_components_with_capitals(tmp_path):
    """huggingface/datasets#7732"""
    make_tar(
        tmp_path / "x" / "0.tar", {f"a/{i}.{part}": jpeg() for i in "01" for part in ("Left.jpg", "Mask.png")}
    )
    sets = open_images(tmp_path / "x")
    assert [sets.train.path(i) for i in range(len(sets.train))] == ["a/0.Left.jpg", "a/1.Left.jpg"]


def test_any_number_of_photographs_in_a_sample(tmp_path):
    """huggingface/datasets#7055: numbered, and not as many in each."""
    names = ("a.1.jpg", "a.2.jpg", "a.3.jpg", "a.json", "b.1.jpg", "b.json", "c.jpg", "c.mask.png", "c.json")
    make_tar(tmp_path / "x" / "0.tar", {name: b"{}" if name.endswith("json") else jpeg() for name in names})
    train = open_images(tmp_path / "x").train
    assert [train.path(i) for i in range(len(train))] == ["a.1.jpg", "a.2.jpg", "a.3.jpg", "b.1.jpg", "c.jpg"]


def test_a_list_names_files_without_a_suffix(tmp_path):
    """voxel51/fiftyone#1399: in a folder they are counted, from a list they are read."""
    for name in ("0.jpg", "1", "2"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "list.csv").write_text("filepath,label\n1,a\n2,b\n")
    train = open_images(tmp_path / "list.csv").train
    assert (train.read(1).shape, train.classes) == ((3, 16, 16), ("a", "b"))
    assert open_images(tmp_path).left_out.counts()["files without a suffix"] == 2


def test_words_of_splits_in_the_names_of_photographs(tmp_path):
    """huggingface/datasets#5021: only folders make splits."""
    for name in ("photo of a train.jpg", "photo of test tubes.jpg", "val.jpg"):
        (tmp_path / name).touch()
    sets = open_images(tmp_path)
    assert sets.describe() == "3 images"
    assert not sets.left_out


ROWS = [
    {"file_name": f"{split}/{i}.png", "label": "ab"[i], "split": split}
    for split in ("train", "val")
    for i in (0, 1)
]


def test_json_lines_next_to_images(tmp_path):
    """A metadata file of the Hub's image folders (huggingface/datasets#4548) is named, and read as a list."""
    make(tmp_path, "train/", "val/")
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(map(json.dumps, [*ROWS, {"file_name": "train/2.png", "label": None}])) + "\n\n")
    named = "tables, whose labels are used if passed as DATA"
    assert open_images(tmp_path).left_out.counts() == {named: 1}
    sets = open_images(file)
    assert (sets.train.classes, sets.train.labels.tolist()) == (("a", "b"), [0, 1])
    assert (sets.val.labels.tolist(), sets.folders) == ([0, 1], ("train", "val"))
    assert sets.left_out.counts() == {"images outside train and val": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"text": "a"}\n', "has no column of image paths, only text"),
        ('{"file_name": "a.jpg"}\n[1]\n', "line 2 is not a JSON object"),
        ('{"file_name": "a.jpg"\n', "line 1 is not a JSON object"),
    ],
)
def test_json_lines_that_are_refused(tmp_path, text, said):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "x.jsonl")


# remote folders


@pytest.fixture
def bucket():
    """A remote file system in memory; put(NAME, DATA) adds a file."""
    system = fsspec.filesystem("memory")
    yield lambda name, data=b"": system.pipe(f"/bucket/{name}", data)
    system.rm("/bucket", recursive=True)


def test_shards_in_the_subfolders_of_a_url(bucket):
    """As datasets of the Hub have them: README.md, data/*.parquet."""
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [jpeg()] * 3, "label": [0, 1, 0]}), table)
    for name in ("data/train-0.parquet", "data/validation-0.parquet", "README.md"):
        bucket(f"hub/{name}", table.getvalue())
    sets = open_images("memory://bucket/hub")
    assert sets.describe() == "3 images, 3 for validation, 2 classes"
    assert sets.val.read(1).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "memory://bucket/photos/",
            r"found no .tar or .parquet files at memory://bucket/photos/: download the images",
        ),
        (
            "memory://bucket/photos/1.jpg",
            r"photos/1.jpg is no .tar or .parquet file: download the images, and pass",
        ),
        ("https://127.0.0.1:9/photos.ZIP", r"photos.ZIP is no .tar or .parquet file: download the images"),
        ("memory://bucket/nothing", r"memory://bucket/nothing cannot be listed"),
        (
            "hf://photos",
            r"hf://photos cannot be listed: .*; datasets of the Hugging Face Hub are at hf://datasets/",
        ),
    ],
)
def test_urls_without_shards_say_what_to_do(bucket, url, said):
    bucket("photos/1.jpg")
    with pytest.raises(DataError, match=said) as caught:
        open_images(url)
    assert "\n" not in str(caught.value)


def test_a_dataset_of_the_hub_without_parquet_files(monkeypatch):
    monkeypatch.setattr("siam.data.patterns.listed", lambda url: [])
    monkeypatch.setattr("siam.data.patterns.listed_below", lambda url, levels: [f"{url}/train.zip"])
    with pytest.raises(DataError, match=r"try .*hf://datasets/me/photos@refs/convert/parquet, or download"):
        open_images("hf://datasets/me/photos/data")


def test_urls_with_a_query_are_no_patterns(tmp_path, monkeypatch):
    """As of signed addresses."""
    url = "https://127.0.0.1:9/x/0.tar?X-Signature=a/b[1]*"
    assert expand_shards(url) == (url,)
    monkeypatch.setenv("SIAM_CACHE", str(tmp_path))
    monkeypatch.setattr(remote, "_download", lambda url, file: file.touch())
    assert remote.fetch(url).name.endswith("-0.tar")
