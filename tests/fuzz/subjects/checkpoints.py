"""Checkpoints of others: imported, or refused; nothing in them is executed."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from siam.convert.importer import import_checkpoint
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import json_value, scribble, word
from tests.fuzz.subjects.runs import _network

SENTINEL = "/tmp/siam-fuzz-executed"
"""A file that the pickles among the seeds would make."""


def _zip_member(rng: Any, data: bytes) -> bytes:
    """Change the pickle within a zip, with the right checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            members = {info.filename: old.read(info) for info in old.infolist()}
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError):
        return scribble(rng, data)
    out = io.BytesIO()
    name = rng.choice([n for n in members if n.endswith((".pkl", "version", "byteorder"))] or sorted(members))
    with zipfile.ZipFile(out, "w") as new:
        for member, contents in members.items():
            new.writestr(member, rng.choice((scribble, word))(rng, contents) if member == name else contents)
    return out.getvalue()


SPECIAL = {".pth": (_zip_member,), ".json": (json_value, word)}


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {SENTINEL}",)


def seeds() -> dict[str, Case]:
    """Return checkpoints of a tiny network, in the forms that others write."""
    torch.manual_seed(0)
    _, network = _network()
    state = network.state_dict()
    backbone = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    tensors = {key: value.contiguous() for key, value in state.items()}
    known = {"backbone": "resnet10t", "width": "0.125", "image_size": "16", "method": "simsiam"}
    config = {
        "architecture": "resnet10t",
        "pretrained_cfg": {"input_size": [3, 16, 16]},
        "siam": {"width": "0.125"},
    }
    return {
        "own": {"c.pth": _torch({"network": state, "siam": known})},
        "legacy": {"c.pth": _torch({"model": state, "siam": known}, _use_new_zipfile_serialization=False)},
        "parallel": {
            "c.pth": _torch({"state_dict": {f"module.{k}": v for k, v in backbone.items()}, "siam": known})
        },
        "bomb": {"c.pth": _torch({"network": state, "siam": known, "args": _Bomb()})},
        "safetensors": {"c.safetensors": save(tensors, known)},
        "timm": {"m/model.safetensors": save(backbone), "m/config.json": json.dumps(config).encode()},
        "pickle": {"c.pth": pickle.dumps({"state_dict": {}, "x": _Bomb()})},
    }


def _torch(contents: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    torch.save(contents, data, **options)
    return data.getvalue()


def check(case: Case, folder: Path) -> None:
    write(case, folder)
    source = folder / ("m" if "m/config.json" in case else next(iter(case)))
    try:
        import_checkpoint(
            source, folder / "run", backbone="resnet10t" if "m/config.json" not in case else None
        )
    finally:
        assert not Path(SENTINEL).exists(), "code in a checkpoint was executed"
