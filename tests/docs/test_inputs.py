"""Every row of the tables of inputs in the documentation is read as the row says."""

import io
import json
import re
import tarfile
from functools import cache, partial
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from siam.data import columns
from siam.data.kinds import IMAGE_SUFFIXES
from siam.data.sources import listing, open_images
from tests.convert import test_checkpoints as checkpoints
from tests.convert import test_protocols as protocols
from tests.convert import test_roundtrips as roundtrips
from tests.data import test_images as sources
from tests.data import test_samples as samples
from tests.docs import PAGES
from tests.transfer import test_data as annotated

DOCS = {page.name: page.read_text() for page in PAGES}


def rows(page, heading):
    """Return the cells of the first table below a heading, without its header."""
    text = DOCS[page].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.search(r"^\|.*?\n\| --- .*?\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in table[1].splitlines()]


def key(cell):
    """Return what a row is called: the name that its first cell begins with, or its first words."""
    return match[1] if (match := re.match(r"`([^`]+)`", cell)) else re.split("[:,] ", cell)[0]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


# files


@cache
def image(form="JPEG"):
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 0, 0)).save(data, form)
    return data.getvalue()


def write(root, *names):
    """Write images. names: "a/b" for a/b0.jpg and a/b1.jpg."""
    for name in names:
        for i in range(2):
            file = root / f"{name}{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image())
    return root


def folder(root, *names):
    return write(root, *names)


def tar(file, *names, labels=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as opened:
        for number, name in enumerate(names):
            for suffix, data in ((".jpg", image()), (".cls", b"ab"[number % 2 :][:1]))[: 1 + labels]:
                info = tarfile.TarInfo(name + suffix)
                info.size = len(data)
                opened.addfile(info, io.BytesIO(data))
    return file


def parquet(file, **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [image()] * 3, "label": ["a", "b", "a"], **more}), file)
    return file


def text(root, name, lines):
    write(root, "a/", "b/")
    (root / name).write_text("\n".join(lines))
    return root / name


def array(file, save, **arrays):
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    save(file, pixels) if not arrays else save(file, images=pixels, val_images=pixels, **arrays)
    return file


def pair(root, name):
    """Write the splits train and val of two classes, as shards or Parquet files."""
    make = partial(tar, labels=True) if name.endswith(".tar") else parquet
    for split in ("train", "val"):
        make(root / f"{split}-{name}", *("0", "1") if name.endswith(".tar") else ())
    return root


def bucket(root):
    system = fsspec.filesystem("memory")
    for split in ("train", "validation"):
        system.pipe(f"/inputs/data/{split}-0.parquet", parquet(root / "x.parquet").read_bytes())
    return "memory://inputs/"


TABLE = ["path,label,split", "a/0.jpg,a,train", "b/0.jpg,b,train", "a/1.jpg,a,val", "b/1.jpg,b,val"]
OBJECTS = [dict(zip(TABLE[0].split(","), line.split(","), strict=True)) for line in TABLE[1:]]
BOTH = "2 images in train/, 2 for validation in val/"
LISTED = "2 images in train, 2 for validation in val, 2 classes"
SHARDS = "2 images, 2 for validation, 2 classes"
TABLES = "3 images, 3 for validation, 2 classes"
C = ("bag", "mug", "pen")
LETTERS = ["a", "b", "a"]

SETS = {
    "photos/": (lambda r: write(r, "", "x/"), "4 images"),
    "CLASS/1.jpg": (lambda r: write(r, "a/", "b/", "b/more/"), "6 images, 2 classes"),
    "CLASS/images/1.jpg": (lambda r: write(r, "a/images/", "b/images/"), "4 images, 2 classes"),
    "DOMAIN/CLASS/1.jpg": (
        lambda r: write(r, *(f"{domain}/{kind}/" for domain in ("art", "photo") for kind in C)),
        "12 images, 3 classes (in each of art/, photo/)",
    ),
    "train/": (lambda r: write(r, "train/a/", "train/b/", "val/a/"),
               "4 images in train/, 2 for validation in val/, 2 classes (no validation images for b)"),
    "train/, valid/": (lambda r: write(r, "train/", "valid/", "test/"),
                       "2 images in train/, 2 for validation in valid/"),
    "PART/train/": (lambda r: write(r, *(f"{p}/{s}/good/" for p in "ab" for s in ("train", "test"))),
                    "4 images in */train/, 4 for validation in */test/, 2 classes"),
    "images/": (lambda r: write(r, "images/", "masks/"), "2 images"),
    "photos.tar": (lambda r: tar(r / "photos.tar", "train/0", "train/1", "val/2", "val/3"), BOTH),
    "photos/**/*.jpg": (lambda r: f"{write(r, 'train/', 'val/')}/**/*.jpg", BOTH),
    "photo.jpg": (lambda r: write(r, "") / "0.jpg", "1 image"),
    "list.txt": (lambda r: text(r, "list.txt", ["a/0.jpg\ta", "b/0.jpg\tb"]), "2 images, 2 classes"),
    "list.csv": (lambda r: text(r, "list.csv", TABLE), LISTED),
    "list.tsv": (lambda r: text(r, "list.tsv", [line.replace(",", "\t") for line in TABLE]), LISTED),
    "list.jsonl": (lambda r: text(r, "list.jsonl", map(json.dumps, OBJECTS)), LISTED),
    "a.npy": (lambda r: array(r / "a.npy", np.save), "3 images"),
    "a.npz": (lambda r: array(r / "a.npz", np.savez, labels=LETTERS, val_labels=LETTERS), TABLES),
    "shards/": (lambda r: pair(r, "0.tar"), SHARDS),
    "x-{000..099}.tar": (lambda r: f"{pair(r, '0.tar')}/{{train,val}}-{{0..0}}.tar", SHARDS),
    "tables/": (lambda r: pair(r, "0.parquet"), TABLES),
    "tables/*.parquet": (lambda r: f"{pair(r, '0.parquet')}/*.parquet", TABLES),
    "dataset/": (lambda r: (pair(r / "data", "0.parquet"), (r / "README.md").touch(), r)[2], TABLES),
    "s3://bucket/set/": (bucket, TABLES),
    "nothing": (lambda r: None, "5,000 images, 1,000 for validation, 10 classes"),
}  # fmt: skip
"""What a row calls DATA -> (a function that writes it, what it is taken for)."""

ELSEWHERE = {"cifar10": sources.test_a_set_by_name}
"""Tests of the rows that are tested elsewhere, with torchvision's classes replaced."""


def name_of(cell):
    return "train/, valid/" if cell.startswith("`train/`, `valid/`") else key(cell)


def test_every_kind_of_data_has_a_row_and_a_case():
    assert [name_of(cell) for cell, *_ in rows("data.md", "What is read") if "list.csv" not in cell] == [
        name for name in (*list(SETS)[:-1], *ELSEWHERE, "nothing") if name not in ("list.csv", "list.tsv")
    ]


@pytest.mark.parametrize("name", SETS)
def test_a_kind_of_data_is_read(name, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    make, said = SETS[name]
    sets = open_images(make(root))
    assert sets.describe() == said
    assert sets.train.read(0).shape[0] == 3


FORMATS = {
    "JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "AVIF": "AVIF", "JPEG 2000": "JPEG2000", "TIFF": "TIFF",
    "BMP": "BMP", "GIF": "GIF", "PNM": "PPM",
}  # fmt: skip


def test_the_table_of_suffixes_is_complete():
    table = rows("data.md", "Image files")
    assert [name for name, *_ in table] == list(FORMATS)
    assert sorted(suffix for _, cell, *_ in table for suffix in quoted(cell)) == sorted(IMAGE_SUFFIXES)


@pytest.mark.parametrize("upper", [False, True])
def test_every_suffix_is_read(tmp_path, upper):
    table = rows("data.md", "Image files")
    for name, cell, *_ in table:
        for suffix in quoted(cell):
            (tmp_path / f"x{suffix.upper() if upper else suffix}").write_bytes(image(FORMATS[name]))
    train = open_images(tmp_path).train
    assert len(train) == len(IMAGE_SUFFIXES)
    for i in range(len(train)):
        red, green, blue = train.read(i).float().mean(dim=(1, 2)).tolist()
        assert (abs(red - 200) < 8, green < 12, blue < 12) == (True, True, True), train.path(i)


NAMES = {
    "paths, in lists": listing.PATHS,
    "labels, in lists": listing.LABELS,
    "splits, in lists": listing.SPLITS,
    "paths, in Parquet files without encoded images": columns.PATHS,
    "labels, in Parquet files": columns.LABELS,
}  # fmt: skip


def test_the_table_of_columns_is_complete():
    table = rows("data.md", "Lists and tables")
    assert {name: tuple(quoted(cell)) for name, cell in table} == NAMES


@pytest.mark.parametrize("name", [*listing.PATHS, *listing.LABELS, *listing.SPLITS])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_columns_of_lists(tmp_path, name, suffix):
    kinds = {"path": listing.PATHS, "label": listing.LABELS, "split": listing.SPLITS}
    names = [name.title() if name in kinds[kind] else kind for kind in kinds]
    if suffix == ".csv":
        lines = [",".join(names), *TABLE[1:]]
    else:
        lines = [json.dumps(dict(zip(names, line.split(","), strict=True))) for line in TABLE[1:]]
    assert open_images(text(tmp_path, f"list{suffix}", lines)).describe() == LISTED


@pytest.mark.parametrize("name", columns.PATHS)
def test_columns_of_paths_in_parquet_files(tmp_path, name):
    write(tmp_path, "a/")
    pq.write_table(pa.table({"other": [1, 2], name.upper(): ["a/0.jpg", "a/1.jpg"]}), tmp_path / "x.parquet")
    train = open_images(tmp_path / "x.parquet").train
    assert (train.path(1), train.read(1).shape) == ("a/1.jpg", (3, 16, 16))


@pytest.mark.parametrize("name", columns.LABELS)
def test_columns_of_labels_in_parquet_files(tmp_path, name):
    table = pa.table({"image": [image()] * 3, "other": ["x", "y", "z"], name.upper(): ["a", "b", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    train = open_images(tmp_path / "x.parquet").train
    assert (train.classes, train.labels.tolist()) == (("a", "b"), [0, 1, -1])


def test_the_readme_names_the_same_inputs():
    readme = " ".join(DOCS["README.md"].split())
    listed = readme[readme.index("`photos/` is any folder of images") :].split("everything that is read")[0]
    for name in (
        ".tar",
        "photos/*.jpg",
        ".npy",
        ".npz",
        ".txt",
        ".csv",
        ".tsv",
        ".jsonl",
        "cifar10",
        "stl10",
    ):
        assert f"`{name}`" in listed, name
    for words in (
        "flat, nested, or one folder per class",
        "an image file",
        "shards and Parquet files",
        "URL",
    ):
        assert words in listed, words
    assert Path(PAGES[0]).name == "README.md"


# rows that have tests of their own

CHECKPOINTS = {
    ".pth": (
        protocols.test_newer_protocols_are_read_like_protocol_2,
        checkpoints.test_a_teacher_is_preferred_to_its_student,
    ),
    "the older format of torch before 1.6": (protocols.test_newer_protocols_are_read_like_protocol_2,),
    "a whole module that was saved": (checkpoints.test_a_whole_module_and_one_in_a_dict,),
    ".safetensors": (
        protocols.test_names_that_are_not_utf8, roundtrips.test_import_of_export_is_the_identity,
    ),
    "a folder of timm": (checkpoints.test_a_folder_of_timm_with_an_older_config,),
    "a folder of Transformers": (
        checkpoints.test_a_folder_of_transformers_with_a_resnet,
        checkpoints.test_a_sharded_folder_of_transformers_with_a_vit,
    ),
    "a run's folder": (checkpoints.test_a_runs_own_files_are_imported,),
    "released SimSiam and MoCo v2": (
        roundtrips.test_a_released_simsiam_gives_the_same_p_and_z, roundtrips.test_a_released_moco_v2,
    ),
    "lightly": (
        roundtrips.test_lightning_checkpoints_of_lightly_and_solo_learn, checkpoints.test_vissl,
        checkpoints.test_mmselfsup, checkpoints.test_lightly_train,
    ),
    "CLIP and open_clip": (checkpoints.test_the_image_encoder_of_open_clip,),
    "Detectron2": (roundtrips.test_import_of_export_is_the_identity,),
    "a ResNet in `nn.Sequential`": (checkpoints.test_a_resnet_in_a_sequential,),
    "prefixes": (checkpoints.test_prefixes_of_wrappers_and_trainers,),
    "ResNets": (checkpoints.test_resnets_are_told_apart_by_their_shapes,),
    "other backbones": (checkpoints.test_dinov2_as_released_and_as_trained,),
    "heads": (checkpoints.test_heads_of_other_methods_are_left_out_and_named,),
    "objects next to the weights": (checkpoints.test_objects_beside_the_weights_are_stand_ins,),
}  # fmt: skip

MEMBERS = {
    "0001.jpg": samples.test_a_samples_mask_is_no_photograph,
    "0001.left.jpg": samples.test_several_views_of_a_sample_are_all_photographs,
    "0001.cls": samples.test_labels_come_from_cls_members,
    "0001.json": samples.test_labels_in_json_serve_if_there_is_no_cls,
    "anything else": samples.test_the_label_in_a_component,
}

ANNOTATIONS = {
    "Pascal VOC": annotated.test_voc_is_read_correctly,
    "COCO": annotated.test_coco_is_read_correctly,
    "COCO next to the images": annotated.test_coco_as_tools_lay_it_out,
}


@pytest.mark.parametrize(
    ("page", "heading", "tests", "name"),
    [
        ("using-your-encoder.md", "Checkpoints that can be imported", CHECKPOINTS, key),
        ("data.md", "How they are read", MEMBERS, key),
        ("transfer.md", "Data", ANNOTATIONS, str),
    ],
    ids=["checkpoints", "samples", "annotations"],
)
def test_each_row_has_a_test_and_each_test_a_row(page, heading, tests, name):
    """Importing the tests shows that they are there."""
    assert [name(cell) for cell, *_ in rows(page, heading)] == list(tests)
