"""Parquet columns told by metadata, type, name and contents; labels of any type; paths in place of images."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siam.data.columns import values_of
from siam.data.decode import BrokenImage
from siam.data.photographs import rank
from siam.data.sources import open_images
from siam.errors import DataError


@pytest.fixture
def data(photos):
    return [file.read_bytes() for file in sorted(photos.iterdir())][:8]


def write(file, columns, features=None):
    table = pa.table(columns)
    if features:
        noted = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    pq.write_table(table, file, row_group_size=3)


def structs(data, names):
    return pa.array([{"bytes": one, "path": name} for one, name in zip(data, names, strict=True)])


def assert_photos(file, data):
    images = open_images(file).train
    assert [images.encoded(i) for i in range(len(images))] == data


IMAGE = {"_type": "Image"}


@pytest.mark.parametrize(
    ("before", "name", "features"),
    [
        ("md5", "jpg", None), ("sha256", "content", None), ("mask", "image", {"mask": IMAGE, "image": IMAGE}),
        ("annotation", "scene", {"annotation": IMAGE, "scene": IMAGE}), ("depth_map", "rgb", None),
        ("raw", "picture", {"picture": IMAGE}), ("label_image", "img", None), ("embedding", "x", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("struct", [False, True])
def test_the_column_of_photographs_is_found_wherever_it_is(data, tmp_path, before, name, features, struct):
    """A checksum, a mask or another image comes first."""
    is_image = rank(before)[0] == 2 or before == "raw"
    other = data[::-1] if is_image else [b"abcd"] * 8
    names = [f"{i}.jpg" for i in range(8)]
    columns = {before: structs(other, names) if struct and is_image else other}
    columns[name] = structs(data, names) if struct else data
    write(tmp_path / "a.parquet", columns, features)
    assert_photos(tmp_path / "a.parquet", data)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_of_any_type_are_images(data, tmp_path, kind):
    write(tmp_path / "a.parquet", {"image": pa.array(data, kind)})
    assert_photos(tmp_path / "a.parquet", data)


def test_a_table_of_checksums_is_refused_by_its_columns(tmp_path):
    write(tmp_path / "a.parquet", {"md5": [b"abcd"] * 8, "size": [1] * 8})
    with pytest.raises(DataError, match=r"only md5 \(binary\), size \(int64\)"):
        open_images(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("column", "values", "classes", "numbers"),
    [
        ("label", pa.array([2, 0, -1, 0], pa.int8()), ("0", "2"), [1, 0, -1, 0]),
        ("Label", pa.array([2, 10, 2, 10], pa.uint64()), ("2", "10"), [0, 1, 0, 1]),
        ("class_name", pa.array(["b", None, "a", ""], pa.large_string()), ("a", "b"), [1, -1, 0, -1]),
        ("category", pa.array(["b", "a", "a", "b"], pa.string_view()), ("a", "b"), [1, 0, 0, 1]),
        ("cls", pa.array(["b", "a", None, "b"]).dictionary_encode(), ("a", "b"), [1, 0, -1, 1]),
        ("target", pa.array([5, 7, 5, 7]).dictionary_encode(), ("5", "7"), [0, 1, 0, 1]),
        ("labels", pa.array([1.0, None, float("nan"), 0.0]), ("0", "1"), [1, -1, -1, 0]),
        ("label", pa.array([True, False, True, None]), ("False", "True"), [1, 0, 1, -1]),
        ("label", pa.array([b"x", b"\xff", b"x", b"x"]), ("x", "\ufffd"), [0, 1, 0, 0]),
        ("label", pa.array([-1] * 4), (), None), ("label", pa.array([None] * 4, pa.string()), (), None),
        ("label", pa.array([[1], [2], [3], [4]]), (), None), ("caption", pa.array(["a"] * 4), (), None),
    ],
)  # fmt: skip
def test_labels_of_any_type(data, tmp_path, column, values, classes, numbers):
    write(tmp_path / "a.parquet", {"image": data[:4], column: values})
    images = open_images(tmp_path / "a.parquet").train
    assert images.classes == classes
    assert numbers == (None if images.labels is None else images.labels.tolist())


@pytest.mark.parametrize("column", ["label", "breed"])
def test_class_names_come_from_the_metadata(data, tmp_path, column):
    """Under any column's name; classes without images are kept; -1 is unlabeled."""
    features = {"image": IMAGE, column: {"_type": "ClassLabel", "names": ["pug", "boxer", "husky"]}}
    write(tmp_path / "a.parquet", {"image": data[:4], column: [2, 0, -1, 2]}, features)
    images = open_images(tmp_path / "a.parquet").train
    assert images.classes == ("pug", "boxer", "husky")
    assert images.labels.tolist() == [2, 0, -1, 2]


@pytest.mark.parametrize("noted", ["[]", "{", '{"info": {"features": {"image": 3, "label": {"names": 4}}}}'])
def test_odd_metadata_is_ignored(data, tmp_path, noted):
    table = pa.table({"image": data[:2], "label": [0, 1]}).replace_schema_metadata({"huggingface": noted})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_images(tmp_path / "a.parquet").train.classes == ("0", "1")


def test_files_without_labels_are_unlabeled_among_others(data, tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "0.parquet", {"image": data[:4], "label": ["b", "a", "b", "a"]})
    write(tmp_path / "set" / "1.parquet", {"jpg": data[4:]})
    images = open_images(tmp_path / "set").train
    assert images.labels.tolist() == [1, 0, 1, 0, -1, -1, -1, -1]
    assert_photos(tmp_path / "set", data)


@pytest.mark.parametrize("form", ["struct", "image", "file_name"])
def test_paths_lead_to_files_next_to_the_table(photos, data, tmp_path, form):
    """As written by datasets without embedded files, and by metadata.parquet."""
    names = [f"photos/{i:03d}.jpg" for i in range(8)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": None, "path": name} for name in names], kind) if form == "struct" else names
    write(tmp_path / "a.parquet", {"caption": ["x"] * 8, "image" if form == "struct" else form: column})
    assert_photos(tmp_path / "a.parquet", data)
    assert open_images(tmp_path / "a.parquet").train.path(3) == "photos/003.jpg"


@pytest.mark.parametrize("path", ["../photos/000.jpg", "{root}/photos/000.jpg", "photos/../../x.jpg"])
def test_paths_that_leave_the_folder_are_not_followed(photos, tmp_path, path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.parquet", {"image": [path.format(root=tmp_path)] * 2})
    with pytest.raises(BrokenImage, match="only a path that leads out of the Parquet file's folder"):
        open_images(tmp_path / "set" / "a.parquet").train.read(0)


def test_a_path_without_a_file_is_an_unreadable_image(tmp_path):
    write(tmp_path / "a.parquet", {"image": ["gone/0.jpg", "gone/1.jpg"]})
    with pytest.raises(BrokenImage, match="the row has no image, only a path: No such file"):
        open_images(tmp_path / "a.parquet").train.read(0)


def test_rows_with_the_same_path_are_told_apart(data, tmp_path):
    write(tmp_path / "a.parquet", {"image": structs(data, ["image.jpg"] * 8)})
    images = open_images(tmp_path / "a.parquet").train
    assert images.path(3) == "a.parquet#3"


@pytest.mark.parametrize(
    "layout",
    [
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
    ],
)
@pytest.mark.parametrize("picture", [False, True])
def test_a_snapshot_of_the_hub(photos, data, tmp_path, layout, picture):
    """With a README.md, hidden files, and pictures for the README."""
    root = tmp_path / "snapshot"
    (root / ".cache").mkdir(parents=True)
    (root / "README.md").write_text("---\n")
    (root / ".gitattributes").touch()
    if picture:
        (root / "assets").mkdir()
        (photos / "000.jpg").rename(root / "assets" / "teaser.jpg")
    for file, part in zip(layout, (data[:5], data[5:]), strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write(root / file, {"image": part, "label": [0, 1, 0, 1, 0][: len(part)]})
    sets = open_images(root)
    assert (len(sets.train), len(sets.val)) == (5, 3)
    assert sets.val.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.jpg", ["000.jpg", "001.jpg", "002.jpg"]), ("photos/00[01].jpg", ["000.jpg", "001.jpg"]),
        ("photos/{000,002}.jpg", ["000.jpg", "002.jpg"]), ("photos/{000..001}.jpg", ["000.jpg", "001.jpg"]),
        ("**/*.jpg", ["photos/000.jpg", "photos/001.jpg", "photos/002.jpg"]), ("photos/*2*", ["002.jpg"]),
        ("{root}/photos/00?.jpg", ["000.jpg", "001.jpg", "002.jpg"]),
        ("{photos,other}/*.jpg", ["photos/000.jpg", "photos/001.jpg", "photos/002.jpg"]),
        ("~/photos/*.jpg", ["000.jpg", "001.jpg", "002.jpg"]),
        ("~/photos", ["000.jpg", "001.jpg", "002.jpg"]),
    ],
)  # fmt: skip
def test_patterns_and_home(photos, tmp_path, monkeypatch, pattern, names):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for file in sorted(photos.iterdir())[3:]:
        file.unlink()
    (photos / "notes.txt").touch()
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir" / "t.jpg").touch()
    images = open_images(pattern.replace("{root}", str(tmp_path))).train
    assert [images.path(i) for i in range(len(images))] == names
    assert images.read(0).shape[0] == 3


def test_patterns_of_class_folders_have_labels_and_splits(classes, monkeypatch):
    monkeypatch.chdir(classes.parent)
    sets = open_images("classes/{train,val}/*/*.jpg")
    assert (len(sets.train), len(sets.val), sets.train.classes) == (24, 12, ("dark", "light"))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("none/*.jpg", r"no files match none/\*\.jpg"), ("*.csv.md", "no files match"),
        ("*.md", r"\*\.md matches 1 files, but no images or shards, only a\.md"),
        ("x-{00..01}.tar.gz", "is compressed"),
        ("x-{0..99999999}.jpg", "stands for more than 1,000,000 files"),
    ],
)  # fmt: skip
def test_patterns_without_images_are_refused(tmp_path, monkeypatch, pattern, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.md").touch()
    with pytest.raises(DataError, match=says):
        open_images(pattern)


def test_strings_that_are_no_text_are_names_like_others(tmp_path):
    """A column of paths in Latin-1, as a table from elsewhere may hold it; pyarrow does not check."""
    paths = pa.array([b"caf\xe9.jpg", b"b.jpg", None], pa.binary())
    assert values_of(paths.view(pa.string())) == ["caf\udce9.jpg", "b.jpg", None]
    structs = pa.StructArray.from_arrays([paths.view(pa.string())], ["path"])
    assert values_of(structs) == [None, None, None]
