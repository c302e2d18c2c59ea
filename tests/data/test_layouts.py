"""Layouts of public datasets: what is trained on, what is measured on, and what the classes are."""

import tarfile

import pytest

from siam.data.sources import open_images

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
        ([f"{kind}/{split}/{city}/" for kind in ("leftImg8bit", "gtFine") for split in ("train", "val")
          for city in "ab"], "4 images in train/, 4 for validation in val/, 2 classes", {MASKS: 8}),
        ([f"{kind}/{split}/ * 3" for kind in ("annotations", "images")
          for split in ("training", "validation")],
         "3 images in training/, 3 for validation in validation/", {MASKS: 6}),
        ([f"{split}/{kind}/" for split in ("train", "val") for kind in ("images", "masks")],
         "2 images in train/, 2 for validation in val/", {MASKS: 4}),
    ],
    ids=["mvtec", "office-31", "domains with splits", "classes with splits", "folds", "tiny-imagenet",
         "imagenet", "voc", "cityscapes", "ade20k", "masks per split"],
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
