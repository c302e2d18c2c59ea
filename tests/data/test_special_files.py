"""Only regular files are read: a pipe would block for ever, and a device has no end."""

import json
import os
import socket
import tarfile

import pytest

from siam.convert.importer import read_tensors
from siam.data.decode import BrokenImage
from siam.data.sharding import shard
from siam.data.sources import open_images
from siam.errors import DataError, RunError
from siam.runs.encoder import _read_safetensors
from siam.runs.tensors import load_checkpoint
from siam.system.files import regular
from siam.transfer.annotations import AnnotatedImages, Example
from siam.transfer.coco import _read

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes"),
    pytest.mark.timeout(60),
]


@pytest.fixture(params=["pipe", "device", "socket"])
def special(request, tmp_path):
    """A file that is not regular."""
    file = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(file)
    elif request.param == "device":
        file.symlink_to("/dev/zero")
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(file))
        listener.close()
    return file


def test_regular_files_are_those_with_an_end(special, photos):
    assert regular(photos / "000.jpg").read_bytes()
    with pytest.raises(OSError, match="not a regular file"):
        regular(special)
    with pytest.raises(IsADirectoryError):
        regular(photos)
    with pytest.raises(OSError, match="NUL"):
        regular(photos / "a\0b.jpg")


def test_a_link_in_a_folder(special, photos, tmp_path):
    """It is left out, and named; one that appears after the folder was listed is unreadable."""
    images = open_images(photos).train
    (photos / "000.jpg").unlink()
    (photos / "000.jpg").symlink_to(special)
    with pytest.raises(BrokenImage, match="not a regular file"):
        images.read(0)
    done = shard(photos, tmp_path / "shards")
    assert (done["images"], done["unreadable"]) == (23, 0)


def test_an_entry_of_a_list(special, photos, tmp_path):
    file = photos / "list.txt"
    file.write_bytes(b"000.jpg\n" + os.fsencode(special) + b"\na\0b.jpg\n001.jpg\n")
    done = shard(file, tmp_path / "shards")
    assert (done["images"], done["unreadable"]) == (2, 2)


def test_a_shard(special, photos, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a-0.tar", "w") as tar:
        tar.add(photos, arcname="photos")
    (folder / "a-1.tar").symlink_to(special)
    sets = open_images(folder)
    assert len(sets.train) == 24
    assert list(sets.unreadable_files) == [str(folder / "a-1.tar")]


def test_a_parquet_file(special, tmp_path):
    folder = tmp_path / "parquet"
    folder.mkdir()
    (folder / "a.parquet").symlink_to(special)
    with pytest.raises(DataError, match=r"found no images in .*not a regular file"):
        open_images(folder)


def test_an_index_of_shards(special, photos, tmp_path):
    folder = tmp_path / "shards"
    shard(photos, folder)
    (folder / "index.json").unlink()
    (folder / "index.json").symlink_to(special)
    assert len(open_images(folder).train) == 24


def test_annotations_and_their_images(special):
    with pytest.raises(DataError, match=r"cannot be read as JSON: .*not a regular file"):
        _read(special)
    images = AnnotatedImages("set", [Example(1, special, 8, 8, ())])
    with pytest.raises(BrokenImage, match="not a regular file"):
        images.read(0)


def test_weights_and_checkpoints(special, tmp_path):
    for read in (_read_safetensors, load_checkpoint, read_tensors):
        with pytest.raises(RunError, match="not a regular file"):
            read(special)
    folder = tmp_path / "timm"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}))
    (folder / "model.safetensors").symlink_to(special)
    with pytest.raises(RunError, match="not a regular file"):
        read_tensors(folder)
