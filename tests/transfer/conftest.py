"""Real annotated photographs, a run to transfer from, and flags for detectors that train in seconds."""

import json
import shutil
import tarfile

import pytest
import torch

from siam.parts.backbone import build_backbone
from siam.runs.encoder import save_encoder
from siam.runs.folder import save_settings
from siam.settings.pretraining import Settings, ViewSettings
from tests.conftest import DATA

LITTLE = """
--batch-size 2 --iterations 4 --train-sides 64 96 --test-side 96 --max-side 128 --anchors 8 16 32 64 96
--rois 8 --score-threshold 0.005 --candidates 100 60 --proposals 40 20 --precise-bn 2
--log-every 1 --workers 0 --precision float32
""".split()  # noqa: SIM905
"""Flags for a transfer of seconds."""


def unpacked(name, folder):
    """Unpack a set of the shared data below `folder`."""
    file = DATA / f"{name}.tar"
    if not file.exists():
        pytest.skip(f"{file} is not there: set SIAM_DATA")
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    return folder / name


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """voc-5class: 600 photographs for training, 300 for the test."""
    return unpacked("voc-5class", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    """coco-200: 100 photographs for training, 100 for the test."""
    return unpacked("coco-200", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A run with an untrained ResNet-18 of a quarter of the width."""
    return make_run(tmp_path_factory.mktemp("runs") / "quarter", "resnet18", 0.25, 128)


def make_run(folder, backbone, width, size):
    """Write a run with an encoder whose BN statistics are unlike the initial ones."""
    settings = Settings(backbone=backbone, width=width, views=ViewSettings(size=size))
    torch.manual_seed(1)
    network = build_backbone(backbone, size, width)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    folder.mkdir(parents=True)
    save_encoder(folder, network, settings)
    save_settings(folder, settings)
    return folder


def few_of_voc(source, folder, train, test):
    """Copy the layout with only the photographs of the given names."""
    year = folder / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / part).mkdir(parents=True)
    for part, names in (("trainval", train), ("test", test)):
        (year / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            for kind in (f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml"):
                shutil.copy(source / "VOC2007" / kind, year / kind)
    return folder


def names_of_voc(source, part):
    return (source / "VOC2007" / "ImageSets" / "Main" / f"{part}.txt").read_text().split()


def few_of_coco(source, folder, train, test):
    """Copy the layout with only the first few photographs."""
    (folder / "annotations").mkdir(parents=True)
    for part, count in (("train2017", train), ("val2017", test)):
        plain = json.loads((source / "annotations" / f"instances_{part}.json").read_text())
        plain["images"] = plain["images"][:count]
        kept = {image["id"] for image in plain["images"]}
        plain["annotations"] = [row for row in plain["annotations"] if row["image_id"] in kept]
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(plain))
        (folder / part).mkdir()
        for image in plain["images"]:
            shutil.copy(source / part / image["file_name"], folder / part)
    return folder
