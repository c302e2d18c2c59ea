"""Both layouts on disk, and their possible errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siam.errors import DataError
from siam.transfer.annotations import Example, Instance, clip_box
from siam.transfer.coco import coco_files
from siam.transfer.data import Batches, open_annotated, with_target
from siam.transfer.masks import decode_mask, encode_mask, plain_segmentation
from tests.conftest import run_cli
from tests.transfer.conftest import LITTLE, few_of_coco, few_of_voc, names_of_voc


def photo(file, side=40):
    Image.fromarray(np.full((side, side, 3), 128, dtype=np.uint8)).save(file)


def xml(objects, size="<size><width>40</width><height>40</height></size>"):
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, hard, (a, b, c, d) in objects
    )
    return f"<annotation>{size}{boxes}</annotation>"


def make_voc(year, lists):
    """Write a VOC folder with every photograph. lists: {part: {name: XML text}}."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / part).mkdir(parents=True)
    for part, photos in lists.items():
        (year / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in photos))
        for name, text in photos.items():
            photo(year / "JPEGImages" / f"{name}.jpg")
            (year / "Annotations" / f"{name}.xml").write_text(text)
    return year


def make_coco(root, train, test=None):
    """Write a COCO folder. train, test: the contents of the two JSON files."""
    (root / "annotations").mkdir(parents=True)
    for part, plain in (("train2017", train), ("val2017", test or train)):
        (root / part).mkdir()
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(plain))
        for image in plain["images"]:
            photo(root / part / image["file_name"])
    return root


def coco_json(annotations, categories=((7, "cat"), (9, "dog"))):
    images = [{"id": 3, "file_name": "a.jpg", "width": 40, "height": 40}]
    named = [{"id": number, "name": name} for number, name in categories]
    return {"images": images, "annotations": annotations, "categories": named}


SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
GOOD = {
    "id": 1, "image_id": 3, "category_id": 9, "bbox": [10, 10, 10, 10], "area": 100, "iscrowd": 0,
    "segmentation": SQUARE,
}  # fmt: skip


def test_voc_is_read_correctly(voc):
    """600 and 300 photographs of five classes; box coordinates start at 0, and ends are exclusive."""
    found = open_annotated(voc, masks=False)
    assert (found.layout, found.years, len(found.train), len(found.test)) == ("voc", 1, 600, 300)
    assert found.classes == ("bus", "car", "cat", "person", "train")
    assert not found.skipped
    first = found.train[names_of_voc(voc, "trainval").index("000004")]
    text = (voc / "VOC2007" / "Annotations" / f"{first.file.stem}.xml").read_text()
    left, top, right, bottom = first.instances[0].box
    for side, value in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
        assert f"<{side}>{value:.0f}</{side}>" in text
    with pytest.raises(DataError, match="has no masks"):
        open_annotated(voc, masks=True)


def test_coco_is_read_correctly(coco):
    """80 categories, numbered up to 90; photographs without objects are used in the test only."""
    found = open_annotated(coco, masks=True)
    plain = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    with_objects = {row["image_id"] for row in plain["annotations"]}
    assert (found.layout, len(found.train), len(found.test)) == ("coco", len(with_objects), 100)
    assert found.category_ids[-1] == 90
    assert found.classes[0] == "person"
    assert sum(len(found.train[i].instances) for i in range(len(found.train))) == len(plain["annotations"])


def test_several_years_are_joined(tmp_path):
    """All trainval lists and the existing test lists; the folder above them, VOCdevkit, is accepted too."""
    cat = xml([("cat", 0, (1, 1, 20, 20))])
    dog = xml([("dog", 1, (1, 1, 20, 20))])
    make_voc(tmp_path / "VOCdevkit" / "VOC2007", {"trainval": {"1": cat}, "test": {"2": cat, "3": dog}})
    make_voc(tmp_path / "VOCdevkit" / "VOC2012", {"train": {"2008_1": dog}, "val": {"2008_2": dog}})
    for root in (tmp_path, tmp_path / "VOCdevkit"):
        found = open_annotated(root, masks=False)
        assert (found.years, len(found.train), len(found.test)) == (2, 3, 2)
        assert found.classes == ("cat", "dog")
        assert found.test[1].instances[0].difficult
    alone = open_annotated(tmp_path / "VOCdevkit" / "VOC2012", masks=False)
    assert (alone.years, len(alone.train), len(alone.test)) == (1, 1, 1)


def test_bad_voc_is_skipped_and_counted(tmp_path):
    good = ("cat", 0, (1, 1, 20, 20))
    train = {
        "fine": xml(
            [good, ("cat", 0, (30, 30, 30, 39)), ("cat", 0, (50, 5, 60, 20)), ("cat", 0, (9, 9, 5, 20))]
        ),
        "sizeless": xml([good], size=""),
        "nonsense": "<annotation><object>",
        "nameless": xml([("", 0, (1, 1, 20, 20)), ("cat", 0, ("a", 1, 20, 20))]),
        "gone": xml([good]),
        "unannotated": xml([good]),
    }
    test = {"t": xml([good, ("zebra", 0, (1, 1, 20, 20))])}
    year = make_voc(tmp_path / "VOC2007", {"trainval": train, "test": test})
    (year / "JPEGImages" / "gone.jpg").unlink()
    (year / "Annotations" / "unannotated.xml").unlink()
    found = open_annotated(tmp_path, masks=False)
    assert {reason: count for reason, (count, _) in found.skipped.items()} == {
        "a box that is empty or outside its image": 2,
        "an annotation without a size, which was read from the image": 1,
        "an annotation that is not valid XML": 1,
        "an object without a name or box": 2,
        "an image that is listed but missing": 1,
        "an image without an annotation": 1,
        "an object of a class absent from the training data": 1,
    }
    assert [len(found.train[i].instances) for i in range(len(found.train))] == [2, 1]
    assert (found.train[1].width, found.train[1].height) == (40, 40)
    assert "2 x an object without a name or box (first: nameless.xml)" in found.skipped.lines()


def test_bad_coco_is_skipped_and_counted(tmp_path):
    """Categories need not start at 1, and annotation ids may be 0 or duplicates."""
    bad = [
        {**GOOD, "id": 0, "image_id": 99},
        {**GOOD, "category_id": 1},
        {**GOOD, "bbox": [10, 10, 0, 5]},
        {**GOOD, "bbox": [50, 50, 5, 5]},
        {**GOOD, "bbox": None},
        {**GOOD, "bbox": [1, 2, float("nan"), 4]},
        {**GOOD, "segmentation": []},
        {**GOOD, "segmentation": [[1, 2, 3]]},
    ]
    train, test = coco_json([*bad, GOOD]), coco_json([GOOD])
    train["images"].append({"id": 4, "file_name": "gone.jpg", "width": 40, "height": 40})
    train["images"].append({"id": 5, "file_name": "sizeless.jpg"})
    root = make_coco(tmp_path / "c", train, test)
    (root / "train2017" / "gone.jpg").unlink()
    found = open_annotated(root, masks=True)
    assert {reason: count for reason, (count, _) in found.skipped.items()} == {
        "an annotation without an image": 1,
        "an annotation of a category absent from the training data": 1,
        "a box that is empty or outside its image": 4,
        "an object without a segmentation": 2,
        "an annotation without a size, which was read from the image": 1,
        "an image that is listed but missing": 1,
    }
    assert found.category_ids == (7, 9)
    (thing,) = found.train[0].instances
    assert (thing.label, thing.id, thing.box) == (2, 9, (10, 10, 20, 20))
    boxes_only = open_annotated(root, masks=False)
    assert len(boxes_only.train[0].instances) == 3


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "is in neither VOC nor COCO format"),
        (lambda root: root.write_text("x"), "is not a folder"),
        (lambda root: make_voc(root / "VOC2007", {"trainval": {"1": xml([])}}), "has no training and test"),
        (
            lambda root: make_voc(root / "V", {"trainval": {"1": "<a"}, "test": {"2": xml([])}}),
            "no training images with valid annotations; skipped: 1 x an annotation that is not "
            r"valid XML \(first: 1.xml\)",
        ),
        (lambda root: make_coco(root, coco_json([])), "no training images with valid annotations"),
        (lambda root: make_coco(root, coco_json([GOOD]), coco_json([])), "no test images with valid"),
        (
            lambda root: make_coco(root, coco_json([GOOD]), coco_json([GOOD], ((9, "fox"),))),
            "category 9 is 'fox' in .*, but 'dog' in instances_train2017.json",
        ),
    ],
)  # fmt: skip
def test_unusable_sets_are_refused(tmp_path, make, complaint):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=complaint) as raised:
        open_annotated(tmp_path / "data", masks=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("train", "test", "images"),
    [
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "{split}"),
        ("export/Train/_annotations.coco.json", "export/Test/_annotations.coco.json", "export/{split}"),
        ("train/images/annotation.json", "valid/images/annotation.json", "{split}/images"),
        ("train/labels.json", "val/labels.json", "{split}/data"),
        ("annotations/instances_Train.json", "annotations/instances_Validation.json", "images/{split}"),
        ("annotations/instances_train_v2.json", "annotations/instances_test.json", "images"),
    ],
    ids=["Roboflow", "in a folder", "lightly-train#509", "FiftyOne", "CVAT", "versions"],
)
def test_coco_as_tools_lay_it_out(tmp_path, train, test, images):
    for number, name in enumerate((train, test)):
        file = tmp_path / name
        split = file.stem.removeprefix("instances_") if "instances" in name else name.split("/")[-2]
        split = name.split("/")[0] if "/images/" in name else split
        folder = tmp_path / images.format(split=split)
        folder.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(folder / f"{number}.jpg")
        plain = coco_json([{**GOOD, "id": 1}])
        plain["images"][0]["file_name"] = f"{number}.jpg"
        file.write_text(json.dumps(plain))
    found = open_annotated(tmp_path, masks=False)
    assert [Path(part.path(0)).name for part in (found.train, found.test)] == ["0.jpg", "1.jpg"]
    assert found.test.read(0).shape == (3, 40, 40)
    assert not found.skipped


@pytest.mark.parametrize(
    ("files", "written", "found"),
    [
        (["a.jpg"], "a", "a.jpg"),
        (["a.PNG"], "a.jpg", "a.PNG"),
        (["a.v2.png"], "a.v2", "a.v2.png"),
        (["a.png", "a.bmp"], "a.jpg", None),
        (["b.png"], "a.jpg", None),
    ],
)
def test_file_names_without_their_suffix_or_with_another(tmp_path, files, written, found):
    """As LabelBox's converter and older CVAT write them (lightly-ai/labelformat#16, cvat-ai/cvat#54)."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for name in files:
            photo(tmp_path / split / name)
        plain = coco_json([GOOD])
        plain["images"][0]["file_name"] = written
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(plain))
    if found is None:
        with pytest.raises(DataError, match="2 x an image that is listed but missing"):
            open_annotated(tmp_path, masks=False)
        return
    sets = open_annotated(tmp_path, masks=False)
    assert Path(sets.train.path(0)).name == found
    assert list(sets.skipped) == ["an image whose file has another suffix than its annotation says"]


def test_valid_is_preferred_to_test_and_named_in_the_error(tmp_path):
    for split in ("test", "train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "_annotations.coco.json").write_text("{}")
        photo(tmp_path / split / "a.jpg")
    assert [file.parent.name for file in coco_files(tmp_path)] == ["train", "valid"]
    (tmp_path / "train" / "_annotations.coco.json").unlink()
    with pytest.raises(DataError, match=r"or train/_annotations\.coco\.json and valid/"):
        open_annotated(tmp_path, masks=False)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_json_file_not_in_coco_format(tmp_path, text):
    root = make_coco(tmp_path / "c", coco_json([GOOD]))
    (root / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(DataError, match=r"instances_val2017\.json (cannot be read|is not in COCO format)"):
        open_annotated(root, masks=False)


@pytest.mark.slow
def test_a_set_without_usable_images_exits_with_status_2_and_one_line(tmp_path, encoder):
    make_voc(tmp_path / "d" / "VOC2007", {"trainval": {"1": xml([])}, "test": {"2": xml([])}})
    done = run_cli("transfer", encoder, tmp_path / "d", *LITTLE, "--out", tmp_path / "out", check=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "has no training images with valid annotations" in done.stderr
    assert not (tmp_path / "out").exists()


def test_boxes_are_clipped_to_the_image():
    assert clip_box((-5, 3, 20, 50), 40, 40) == (0, 3, 20, 40)
    assert clip_box((3, 3, 3.5, 20), 40, 40) is None
    assert clip_box((40, 3, 60, 20), 40, 40) is None
    assert clip_box((20, 3, 10, 20), 40, 40) is None
    assert clip_box((float("nan"), 3, 10, 20), 40, 40) is None


def test_flipping_flips_boxes_and_masks(tmp_path):
    """A box's mask fills it before and after; crowds are left out of training, difficult objects are not."""
    outline = [[5, 10, 15, 10, 15, 30, 5, 30]]
    things = (
        Instance(1, (5, 10, 15, 30), 2, 200, segmentation=outline),
        Instance(2, (0, 0, 40, 40), 1, 1600, iscrowd=True, segmentation=outline),
        Instance(3, (-4, 0, 8, 8), 1, 96, difficult=True, segmentation=[[0, 0, 8, 0, 8, 8, 0, 8]]),
    )
    ramp = torch.arange(40, dtype=torch.uint8).expand(3, 40, 40)
    for flip in (False, True):
        image, target = with_target(ramp, Example(1, tmp_path, 40, 40, things), flip, masks=True)
        assert image[0, 0, 0] == (39 if flip else 0)
        assert target["labels"].tolist() == [2, 1]
        expected = [[25, 10, 35, 30], [32, 0, 40, 8]] if flip else [[5, 10, 15, 30], [0, 0, 8, 8]]
        assert target["boxes"].tolist() == expected
        for (left, top, right, bottom), mask in zip(expected, target["masks"], strict=True):
            assert mask[top:bottom, left:right].all()
            assert mask.sum() == (right - left) * (bottom - top)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_segmentations_in_all_their_forms():
    """One square as a polygon, as plain run lengths and compressed; pycocotools reads the output."""
    pycocotools = pytest.importorskip("pycocotools.mask")
    expected = np.zeros((6, 8), dtype=np.uint8)
    expected[1:4, 2:5] = 1
    counts, value, run = [], 0, 0
    for pixel in expected.ravel(order="F"):
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    plain = {"size": [6, 8], "counts": [*counts, run]}
    compressed = encode_mask(expected.astype(bool))
    assert isinstance(compressed["counts"], str)
    for segmentation in ([[2, 1, 5, 1, 5, 4, 2, 4]], plain, compressed):
        assert np.array_equal(decode_mask(segmentation, 8, 6), expected)
    assert np.array_equal(pycocotools.decode(compressed), expected)


def test_batches_are_the_same_from_any_step_and_for_any_number_of_processes(voc, tmp_path):
    names = names_of_voc(voc, "trainval")[:7]
    few = few_of_voc(voc, tmp_path / "few", names, names[:1])
    photos = open_annotated(few, masks=False).train

    def contents(batches):
        return [[(im.float().mean().item(), t["boxes"].tolist()) for im, t in batch] for batch in batches]

    def make(rank=0, world=1, seed=0, workers=0):
        return Batches(photos, 4, seed, False, workers, rank, world)

    whole = contents(make().batches(0, 7))
    assert contents(make().batches(3, 7)) == whole[3:]
    shares = [contents(make(rank, 2).batches(0, 7)) for rank in (0, 1)]
    assert [
        [one for pair in zip(a, b, strict=True) for one in pair] for a, b in zip(*shares, strict=True)
    ] == whole
    assert contents(make(seed=1).batches(0, 7)) != whole
    assert contents(make(workers=2).batches(0, 7)) == whole
    first_epoch = [one for batch in whole for one in batch][:7]
    assert len({str(boxes) for _, boxes in first_epoch}) == 7


def test_an_unreadable_photograph_is_replaced_and_listed(voc, tmp_path):
    names = names_of_voc(voc, "trainval")[:12]
    few = few_of_voc(voc, tmp_path / "few", names, names[:1])
    broken = few / "VOC2007" / "JPEGImages" / f"{names[3]}.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    batches = Batches(open_annotated(few, masks=False).train, 4, 0, False, 0)
    assert all(len(batch) == 4 for batch in batches.batches(0, 3))
    assert list(batches.unreadable) == [str(broken)]
    shutil.copy(few / "VOC2007" / "JPEGImages" / f"{names[0]}.jpg", broken)  # of another size than it says
    other = few / "VOC2007" / "JPEGImages" / f"{names[5]}.jpg"
    Image.new("RGB", (30, 20)).save(other)
    batches = Batches(open_annotated(few, masks=False).train, 4, 0, False, 0)
    with pytest.raises(DataError, match=r"2 of 12 images .* cannot be read, more than 10 %: .* \(.*\), .*\("):
        list(batches.batches(0, 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_unreadable_photographs(tmp_path, workers):
    text = xml([("cat", 0, (1, 1, 20, 20))])
    year = make_voc(tmp_path / "VOC2007", {"trainval": {"1": text, "2": text}, "test": {"3": text}})
    for file in (year / "JPEGImages").iterdir():
        file.write_bytes(b"no image")
    batches = Batches(open_annotated(tmp_path, masks=False).train, 2, 0, False, workers)
    with pytest.raises(DataError, match=r"2 of 2 images .* cannot be read") as raised:
        list(batches.batches(0, 1))
    assert "\n" not in str(raised.value)


def test_a_subset_of_coco_is_in_coco_format(coco, tmp_path):
    found = open_annotated(few_of_coco(coco, tmp_path / "few", 5, 4), masks=True)
    assert len(found.test) == 4
    assert not found.skipped


DOG = ((9, "dog"),)


def only(found):
    """The single object of the single training image."""
    ((thing,),) = (found.train[i].instances for i in range(len(found.train)))
    return thing


def coco_of(tmp_path, objects, image=None, categories=((7, "cat"), (9, "dog"))):
    """A COCO folder with these objects in a.jpg, 40 x 40."""
    plain = coco_json(objects, categories)
    plain["images"][0].update(image or {})
    return open_annotated(make_coco(tmp_path / "c", plain), masks=True)


@pytest.mark.parametrize(
    ("change", "image", "categories"),
    [
        ({"image_id": "3", "category_id": "9", "id": "1"}, {"id": "3"}, ((7, "cat"), (9, "dog"))),
        ({"image_id": "b7f0", "category_id": "x"}, {"id": "b7f0"}, (("c", "cat"), ("x", "dog"))),
        ({"image_id": [3], "category_id": [9], "id": [1]}, {}, ((7, "cat"), (9, "dog"))),
        ({"image_id": 3.0, "category_id": 9.0, "id": 1.0}, {"id": 3.0}, ((7.0, "cat"), (9.0, "dog"))),
        ({"image_id": 2**70, "id": 2**70}, {"id": 2**70}, ((7, "cat"), (9, "dog"))),
        ({"category_id": 1}, {}, ((0, "cat"), (1, "dog"))),
        ({"bbox": ["10", "10.0", 10, 10.0], "area": "100", "iscrowd": "0"}, {}, ((7, "cat"), (9, "dog"))),
        ({}, {"width": 40.0, "height": "40"}, ((7, "cat"), (9, "dog"))),
        ({}, {"width": 10**9, "height": 10**9}, ((7, "cat"), (9, "dog"))),
        ({"segmentation": SQUARE[0]}, {}, ((7, "cat"), (9, "dog"))),
        ({"segmentation": [[[10, 10], [20, 10], [20, 20], [10, 20]]]}, {}, ((7, "cat"), (9, "dog"))),
        ({"segmentation": [[10, 10], [20, 10], [20, 20], [10, 20]]}, {}, ((7, "cat"), (9, "dog"))),
        ({"segmentation": [[1, 2], *SQUARE, ["a"] * 6]}, {}, ((7, "cat"), (9, "dog"))),
        ({"segmentation": {"size": [40.0, "40"], "counts": [410, *[10, 30] * 9, 10, 820]}}, {}, DOG),
    ],
    ids=["strings", "names", "lists", "floats", "huge", "from 0", "boxes", "sizes", "huge sizes", "flat",
         "points", "one of points", "some bad polygons", "runs"],
)  # fmt: skip
def test_coco_as_tools_write_it_is_the_same_object(tmp_path, change, image, categories):
    thing = only(found := coco_of(tmp_path, [{**GOOD, **change}], image, categories))
    assert found.classes[thing.label - 1] == "dog"
    assert (thing.box, thing.area, thing.iscrowd) == ((10, 10, 20, 20), 100, False)
    expected = np.zeros((40, 40), np.uint8)
    expected[10:20, 10:20] = 1
    assert (decode_mask(thing.segmentation, 40, 40) == expected).all()
    for number in (found.train[0].id, thing.id, *found.category_ids):
        assert isinstance(number, int)
        assert 0 <= number < 2**53


UNFILLED = "a mask whose run lengths do not fill its image"
FULL = encode_mask(np.ones((40, 40), dtype=bool))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": [1, 2]}, "an annotation without an image"),
        ({"category_id": [7, 9]}, "an annotation of a category absent from the training data"),
        ({"category_id": {"id": 9}}, "an annotation of a category absent from the training data"),
        ({"bbox": [1e300, 1, 5, 5]}, "a box that is empty or outside its image"),
        ({"bbox": {"x": 1}}, "a box that is empty or outside its image"),
        ({"bbox": [1, 2, 3]}, "a box that is empty or outside its image"),
        ({"segmentation": {"size": [40, 30], "counts": [600, 600]}}, "a mask of another size than its image"),
        ({"segmentation": {"size": [40, 40], "counts": [600, 600]}}, UNFILLED),
        ({"segmentation": {"size": [40, 40], "counts": [-1, 1601]}}, UNFILLED),
        ({"segmentation": {"size": [40, 40], "counts": "o" * 99}}, UNFILLED),
        ({"segmentation": {**FULL, "counts": FULL["counts"] + "1"}}, UNFILLED),
        ({"segmentation": {"size": "40x40", "counts": []}}, "a mask of another size than its image"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "an object without a segmentation"),
        ({"segmentation": "none"}, "an object without a segmentation"),
    ],
)  # fmt: skip
def test_coco_that_has_no_plain_meaning_is_counted_with_the_reason(tmp_path, change, reason):
    found = coco_of(tmp_path, [{**GOOD, **change}, {**GOOD, "id": 2}])
    assert {why: count for why, (count, _) in found.skipped.items()} == {reason: 2}  # training and test
    assert only(found).id == 2


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_of_any_mask_fill_it(seed):
    """Against faster-coco-eval's own compression, whose runs are differences of up to three characters."""
    r = np.random.default_rng(seed)
    mask = r.random((97, 211)) < r.choice([0.001, 0.02, 0.5, 0.999])
    segmentation = encode_mask(mask)
    kept, problem = plain_segmentation(segmentation, 211, 97)
    assert (kept, problem) == (segmentation, "")
    assert (decode_mask(kept, 211, 97) == mask).all()
    cut = {**segmentation, "counts": segmentation["counts"][:-1]}
    assert plain_segmentation(cut, 211, 97)[0] is None


def test_crowds_are_objects_where_a_tool_marks_all_as_crowds(tmp_path):
    crowds = [{**GOOD, "id": number, "iscrowd": 1} for number in (1, 2)]
    found = coco_of(tmp_path, crowds)
    assert [one.iscrowd for one in found.train[0].instances] == [False, False]
    assert found.skipped.lines()[0].startswith("4 x a crowd (iscrowd 1) used as an object")


def test_an_image_with_only_crowds_is_not_trained_on_and_counted(tmp_path):
    plain = coco_json([GOOD, {**GOOD, "id": 2, "image_id": 4, "iscrowd": True}])
    plain["images"].append({"id": 4, "file_name": "b.jpg", "width": 40, "height": 40})
    found = open_annotated(make_coco(tmp_path / "c", plain), masks=False)
    assert (len(found.train), len(found.test)) == (1, 2)
    assert found.skipped == {"a training image with only crowds (iscrowd 1)": (1, "b.jpg")}


@pytest.mark.parametrize(
    "name", ["../../secret.jpg", "ABSOLUTE", "..\\..\\secret.jpg", "/etc/passwd", "x/../../../secret.jpg"]
)
def test_no_file_name_leads_out_of_a_coco_folder(tmp_path, name):
    photo(tmp_path / "secret.jpg")
    plain = coco_json([GOOD, {**GOOD, "id": 2, "image_id": 4}])
    root = make_coco(tmp_path / "c", plain)
    other = {
        "id": 4,
        "file_name": name.replace("ABSOLUTE", str(tmp_path / "secret.jpg")),
        "width": 40,
        "height": 40,
    }
    plain["images"].insert(0, other)
    for part in ("train2017", "val2017"):
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(plain))
    found = open_annotated(root, masks=False)
    assert [found.train.path(i) for i in range(len(found.train))] == [str(root / "train2017" / "a.jpg")]
    assert found.skipped["an image outside the dataset's folder"][0] == 2


@pytest.mark.parametrize("name", ["A.JPG", "./a.jpg", "../train2017/a.jpg", "INSIDE"])
def test_file_names_that_plainly_mean_a_file_in_the_folder(tmp_path, name):
    root = make_coco(tmp_path / "c", plain := coco_json([GOOD]))
    plain["images"][0]["file_name"] = name.replace("INSIDE", str(root / "train2017" / "a.jpg"))
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(plain))
    found = open_annotated(root, masks=False)
    assert [found.train.path(i) for i in range(len(found.train))] == [str(root / "train2017" / "a.jpg")]


@pytest.mark.parametrize("name", ["a\0b.jpg", "a" * 300 + ".jpg", "\ud800.jpg", ""])
def test_file_names_that_cannot_exist_are_missing(tmp_path, name):
    root = make_coco(tmp_path / "c", plain := coco_json([GOOD]))
    plain["images"].append({"id": 4, "file_name": name, "width": 40, "height": 40})
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(plain))
    found = open_annotated(root, masks=False)
    assert found.skipped["an image that is listed but missing"][0] == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": Infinity', "\udfff"])
def test_a_coco_file_that_is_no_json_is_named(tmp_path, text):
    root = make_coco(tmp_path / "c", coco_json([GOOD]))
    (root / "annotations" / "instances_val2017.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"instances_val2017\.json cannot be read as JSON") as raised:
        open_annotated(root, masks=False)
    assert "\n" not in str(raised.value)


CAT = ("cat", 0, (1, 1, 20, 20))


def one_of_voc(tmp_path, text=None, line="1", image="1.jpg", annotation="1.xml"):
    """A VOC folder with one training image; `line` is its entry in trainval.txt."""
    year = make_voc(tmp_path / "VOC2007", {"trainval": {"1": text or xml([CAT])}, "test": {"2": xml([CAT])}})
    (year / "JPEGImages" / "1.jpg").rename(year / "JPEGImages" / image)
    (year / "Annotations" / "1.xml").rename(year / "Annotations" / annotation)
    (year / "ImageSets" / "Main" / "trainval.txt").write_bytes(
        line.encode("utf-8", "surrogateescape") + b"\r\n"
    )
    return open_annotated(tmp_path, masks=False)


@pytest.mark.parametrize(
    ("line", "image", "annotation"),
    [
        ("1", "1.JPG", "1.xml"),
        ("img 1", "img 1.jpeg", "img 1.xml"),
        ("img 1", "img 1.Jpeg", "img 1.XML"),
        ("1.jpg", "1.jpg", "1.xml"),
        ("1.v2", "1.v2.png", "1.v2.xml"),
        ("1  1", "1.jpg", "1.xml"),
        ("img 1 -1", "img 1.jpg", "img 1.xml"),
        ("\ufeff1", "1.bmp", "1.xml"),
        ("caf\udce9", "caf\udce9.jpg", "caf\udce9.xml"),
    ],
)
def test_voc_lists_as_tools_write_them(tmp_path, line, image, annotation):
    if image.endswith("bmp"):
        photo(tmp_path / "x.bmp")
    found = one_of_voc(tmp_path, line=line, image=image, annotation=annotation)
    assert (len(found.train), found.train[0].file.name) == (1, image)
    assert not found.skipped
    assert only(found).box == (0, 0, 20, 20)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (xml([CAT], "<size><width>40.0</width><height> 40 </height><depth>3</depth></size>"), None),
        (xml([CAT]).replace("<difficult>0</difficult>", ""), None),
        (xml([("cat", 0, ("1.0", "1", 20.0, "20"))]), None),
        (xml([CAT], "<size><width>0</width><height>0</height></size>"), "which was read from the image"),
        (xml([CAT], "<size><width>99999999</width><height>99999999</height></size>"), "read from the image"),
        (xml([CAT], "<size><width>wide</width></size>"), "read from the image"),
    ],
)
def test_voc_annotations_as_tools_write_them(tmp_path, text, reason):
    found = one_of_voc(tmp_path, text)
    assert (found.train[0].width, found.train[0].height, only(found).box) == (40, 40, (0, 0, 20, 20))
    assert [reason in line for line in found.skipped.lines()] == ([True] if reason else [])


@pytest.mark.parametrize(
    "box", [("1", "1", "inf", "20"), ("nan", 1, 20, 20), ("", 1, 20, 20), (1, 1, "1e300", 2)]
)
def test_a_voc_box_that_is_no_box_is_counted(tmp_path, box):
    found = one_of_voc(tmp_path, xml([CAT, ("cat", 0, box)]))
    assert found.skipped["an object without a name or box"][0] == 1
    assert only(found).box == (0, 0, 20, 20)


def test_no_line_leads_out_of_a_voc_folder(tmp_path):
    photo(tmp_path / "secret.jpg")
    (tmp_path / "secret.xml").write_text(xml([CAT]))
    for name in ("../../secret", str(tmp_path / "secret"), "../../secret.jpg"):
        with pytest.raises(DataError, match="outside the dataset's folder"):
            one_of_voc(tmp_path / str(abs(hash(name))), line=name)
