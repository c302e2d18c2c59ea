"""Torch files in newer pickle protocols, and files whose names are not UTF-8."""

import argparse
import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from siam.convert.pickles import StandIn, load_foreign
from siam.convert.protocols import translated
from siam.convert.reading import read_tensors
from siam.errors import RunError

WEIGHTS = OrderedDict((name, torch.randn(3, 2)) for name in ("conv1.weight", "layer1.0.conv1.weight"))
BESIDE = {
    "args": argparse.Namespace(arch="resnet18", names=["a", "a"], token=b"ab\xff"),
    "rng": np.random.default_rng(0).bit_generator.state,
    "numpy": (np.float64(3), np.arange(300, dtype=np.int16)),
    "plain": [1, 2**80, -1.5, None, True, "x" * 300, "é\n", {"s"}, frozenset({"a"}), (), {}, bytearray(1)],
    "same": ["state_dict"] * 300,
    "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
}  # fmt: skip


def saved(file, contents, protocol, form="zip"):
    torch.save(contents, file, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    return file


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("form", ["zip", "older"])
def test_newer_protocols_are_read_like_protocol_2(tmp_path, protocol, form):
    contents = {"state_dict": WEIGHTS, **BESIDE}
    tensors, metadata = read_tensors(saved(tmp_path / "new.pt", contents, protocol, form))
    assert metadata == read_tensors(saved(tmp_path / "old.pt", contents, 2, form))[1] == {"arch": "resnet18"}
    assert list(tensors) == list(WEIGHTS)
    assert all(torch.equal(tensors[key], value) for key, value in WEIGHTS.items())


def test_values_next_to_the_weights_keep_their_meaning(tmp_path):
    found = load_foreign(saved(tmp_path / "new.pt", {"w": torch.ones(2), **BESIDE}, 4))
    assert isinstance(found["args"], StandIn)
    assert found["args"].state == vars(BESIDE["args"])
    assert found["plain"] == [*BESIDE["plain"][:7], ["s"], ("a",), (), {}, b"\0"]
    assert found["same"] == BESIDE["same"]
    assert found["rng"] == BESIDE["rng"]


class Command:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_functions_are_refused_in_newer_protocols(tmp_path, protocol):
    made = tmp_path / "made"
    contents = {
        "state_dict": WEIGHTS,
        "x": [Command(os.mkdir, str(made)), Command(os.system, f"touch {made}")],
    }
    with pytest.raises(RunError, match=r"could execute code \(posix.mkdir, posix.system\)"):
        read_tensors(saved(tmp_path / "c.pt", contents, protocol))
    assert not made.exists()


def test_a_name_that_is_put_together_from_stored_strings_is_read_as_one():
    """The module's name is stored by an earlier string, and is not next to the function's name."""
    data = b"\x80\x04\x8c\x02os\x94\x8c\x01x\x940h\x00\x8c\x06system\x94\x93."
    plain, _ = translated(io.BytesIO(data), 1)
    names = [argument for opcode, argument, _ in pickletools.genops(plain) if opcode.name == "GLOBAL"]
    assert names == ["os system"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x04K\x01K\x02\x93.", "a type has no name"),
        (b"\x80\x04\x8c\x02osK\x02\x93.", "a type has no name"),
        (b"\x80\x04\x8c\x04os\nx\x8c\x01s\x93.", "a type has no name"),
        (
            pickle.dumps("x" * 2**20, 4)[:-1] + b"h\x00" * 17 + b".",
            "is larger than 16 MB in pickle protocol 2",
        ),
    ],
    ids=["numbers", "one string", "a line break", "the same string many times"],
)
def test_pickles_that_cannot_be_translated(data, reason):
    with pytest.raises(ValueError, match=reason):
        translated(io.BytesIO(data), 1)


def test_members_that_claim_more_bytes_than_the_file(tmp_path):
    """Many entries of a zip that share their bytes are not copied."""
    file = saved(tmp_path / "c.pt", {"w": torch.ones(1000)}, 4)
    with zipfile.ZipFile(file, "a") as members:
        shared = next(info for info in members.infolist() if info.filename.endswith("/data/0"))
        members.filelist += [shared] * 300
        members._didModify = True
    with pytest.raises(RunError, match="its members claim more bytes than it has"):
        read_tensors(file)


def test_a_whole_module_in_the_older_format_is_named(tmp_path):
    file = saved(tmp_path / "c.pt", torch.nn.Sequential(torch.nn.Linear(2, 2)), 2, "older")
    with pytest.raises(
        RunError, match=r"a whole module in the format of torch before 1\.6: save its state_dict"
    ):
        read_tensors(file)


@pytest.mark.parametrize("kind", ["model.safetensors", "zip.pt", "older.pt", "folder"])
def test_names_that_are_not_utf8(tmp_path, kind):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    plain = tmp_path / "plain"
    if kind in ("model.safetensors", "folder"):
        save_file(WEIGHTS, plain, {"arch": "resnet18"})
        (tmp_path / "config.json").write_text("{}")
    else:
        saved(plain, WEIGHTS, 2, kind.removesuffix(".pt"))
    file = folder / ("model.safetensors" if kind == "folder" else kind)
    plain.rename(file)
    tensors, _ = read_tensors(folder if kind == "folder" else file)
    assert sorted(tensors) == sorted(WEIGHTS)
    assert [name.name for name in folder.iterdir()] == [file.name]
