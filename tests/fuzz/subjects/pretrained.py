"""Weights of timm's in a folder or a file: an encoder, or one sentence."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save

from siam.parts.backbone import build_backbone
from siam.runs.encoder import load
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import json_value, word

SPECIAL = {".json": (json_value, word)}


def seeds() -> dict[str, Case]:
    """Return a folder as timm writes it, of today and of some years ago, and a file as Siam exports it."""
    torch.manual_seed(0)
    weights = save(timm.create_model("test_byobnet", num_classes=2).state_dict())
    about = {
        "input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9,
        "interpolation": "bicubic", "classifier": "head.fc", "first_conv": "stem.conv",
    }  # fmt: skip
    whole = {"architecture": "test_byobnet", "num_classes": 2, "model_args": {"global_pool": "avg"}}
    own = {"backbone": "resnet10t", "width": "0.125", "stem": "small", "image_size": "16"}
    return {
        "folder": {
            "m/model.safetensors": weights,
            "m/config.json": json.dumps({**whole, "pretrained_cfg": about}).encode(),
        },
        "old": {
            "m/model.safetensors": weights,
            "m/config.json": json.dumps({"architecture": "test_byobnet", "num_classes": 2, **about}).encode(),
        },
        "siam": {"encoder.safetensors": save(build_backbone("resnet10t", 16, 0.125).state_dict(), own)},
    }


def check(case: Case, folder: Path) -> None:
    write(case, folder)
    encoder = load(folder / ("m" if "m/config.json" in case else "encoder.safetensors"))
    assert encoder.features > 0
