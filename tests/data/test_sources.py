"""Sources: exactly one for each kind of name. tests/test_additions.py adds one."""

import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siam import plugins
from siam.data.sharding import shard
from siam.data.sources import open_images
from siam.errors import DataError

REMOTE = "memory://set"


@pytest.fixture
def samples(photos, tmp_path, monkeypatch):
    """Return a name of every kind, with its source."""
    import fsspec

    monkeypatch.chdir(tmp_path)
    shard(photos, tmp_path / "shards", "8kB")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "photos")
    table = pa.table({"image": pa.array([file.read_bytes() for file in sorted(photos.iterdir())])})
    (tmp_path / "tables").mkdir()
    for n in range(2):
        pq.write_table(table, tmp_path / "tables" / f"{n}.parquet")
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    (tmp_path / "list.txt").write_text("photos/000.jpg\nphotos/001.jpg\n")
    (tmp_path / "folder.tar").mkdir()
    memory = fsspec.filesystem("memory")
    for file in (tmp_path / "shards").iterdir():
        memory.pipe(f"/set/{file.name}", file.read_bytes())
    memory.pipe("/tables/0.parquet", (tmp_path / "tables" / "0.parquet").read_bytes())
    last = max(int(file.stem[-6:]) for file in (tmp_path / "shards").glob("*.tar"))
    yield {
        "photos": "folder", "folder.tar": "folder", "photos.tar": "tar", "a.npy": "arrays", "a.npz": "arrays",
        "list.txt": "listing", "demo": "demo", "cifar10": "torchvision_sets", "cifar100": "torchvision_sets",
        "stl10": "torchvision_sets", "shards": "shards", "shards/*.tar": "shards", "shards/": "shards",
        f"shards/train-{{000000..{last:06d}}}.tar": "shards", REMOTE: "shards", f"{REMOTE}/*.tar": "shards",
        "tables": "parquet", "tables/0.parquet": "parquet", "tables/*.parquet": "parquet",
        "memory://tables": "parquet", "photos/*.jpg": "pattern", "photos/{000..003}.jpg": "pattern",
        "photos/000.jpg": "picture",
    }  # fmt: skip
    memory.rm("/set", recursive=True)
    memory.rm("/tables", recursive=True)


def test_exactly_one_source_recognizes_each_name(samples):
    assert set(samples.values()) == set(plugins.names("siam.data.sources"))
    for name, source in samples.items():
        found = [
            module.__name__ for module in plugins.modules("siam.data.sources") if module.recognizes(name)
        ]
        assert found == [f"siam.data.sources.{source}"], name


def test_no_source_recognizes_other_names(samples, tmp_path):
    (tmp_path / "notes.md").touch()
    for name in ("notes.md", "nowhere", "no/where.tar", "photos/*.gif", "list.txt/", "a\0b", "x" * 300):
        assert not any(module.recognizes(name) for module in plugins.modules("siam.data.sources")), name


def test_an_unrecognized_name_is_an_error_that_lists_every_source(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError) as caught:
        open_images(tmp_path / "notes.md")
    for source in plugins.modules("siam.data.sources"):
        assert source.LOOKS_LIKE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_opened_again_is_listed_again(samples, tmp_path):
    """A listing is cached only while sources are being tried."""
    before = len(open_images("tables").train)
    (tmp_path / "tables" / "2.parquet").write_bytes((tmp_path / "tables" / "0.parquet").read_bytes())
    assert len(open_images("tables").train) == before * 3 / 2


def test_an_array_file_that_claims_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((50, 100, 100, 3), np.uint8))
    monkeypatch.setattr("siam.data.sources.arrays.total_memory", lambda: 10**6)
    with pytest.raises(DataError, match=r"a\.npz cannot be read: its arrays have 0\.0 GiB, more than"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", ["(-1, 8, 8, 3)", "(10**12, 8, 8, 3)", "(1000000000000000, 8, 8, 3)"])
def test_an_array_header_that_claims_more_than_the_file_is_refused(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    contents = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(600)
    (tmp_path / "a.npy").write_bytes(contents)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("images.npy", contents)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            open_images(tmp_path / name)
