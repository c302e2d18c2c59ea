"""A run folder: what lies in it, how it is locked while in use, and how its encoder is taken out again."""

import contextlib
import fcntl
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
import yaml
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save
from torch import Tensor, nn

from siam.errors import RunError, SettingsError, first_words
from siam.parts.backbone import build_backbone, features_of
from siam.parts.heads import build_projector
from siam.settings import Settings, from_dict, to_dict
from siam.train.device import find_device

SETTINGS, METRICS, CHECKPOINT = "settings.yaml", "metrics.jsonl", "checkpoint.pt"
ENCODER, REPORT, BROKEN = "encoder.safetensors", "report.html", "broken.txt"
EVALUATIONS, NETWORK = "evaluations.json", "network.safetensors"
TRANSFERS = "transfer"

Layer = Literal["backbone", "projector"]


@dataclass(frozen=True)
class Run:
    """A folder that `siam pretrain` or `siam import` made."""

    folder: Path
    settings: Settings

    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl, in order; the last line counts once it is whole."""
        file = self.folder / METRICS
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]


def open_run(folder: str | Path) -> Run:
    """Raises RunError where there is no run, or its settings cannot be read."""
    folder = Path(folder)
    file = folder / SETTINGS
    if not folder.is_dir():
        if folder.is_file():
            raise RunError(f"{folder} is a file, not a run: make one of it by siam import {folder} --out RUN")
        raise RunError(f"no run at {folder}: there is no such folder")
    if not file.is_file():
        raise RunError(f"{folder} is not a run: it holds no {SETTINGS}")
    try:
        plain = yaml.safe_load(file.read_text())
        if not isinstance(plain, dict):
            raise RunError(f"{file} does not hold settings")
        return Run(folder, from_dict(_as_written_today(plain)))
    except (yaml.YAMLError, UnicodeDecodeError, SettingsError) as error:
        raise RunError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None


def _as_written_today(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings of version 0.1, where checkpoints had their times in two fields."""
    saves = plain.get("checkpoint")
    if not isinstance(saves, dict) or "every_minutes" not in saves:
        return plain
    every = [f"{saves['every_minutes']}m"] + ([str(saves["every_steps"])] if saves.get("every_steps") else [])
    return {**plain, "checkpoint": {"every": ",".join(every)}}


def save_settings(folder: Path, settings: Settings) -> None:
    """Write settings.yaml, complete."""
    text = yaml.safe_dump(to_dict(settings), sort_keys=False)
    write_atomically(folder / SETTINGS, lambda file: file.write(text.encode()))


class Encoder(nn.Module):
    """The backbone of a run: normalised images (B, 3, H, W) -> features (B, D), in eval mode, float32.

    image_size: the side in pixels it was trained at. features: D, or d where a projector follows.
    """

    def __init__(self, backbone: nn.Module, image_size: int, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_size = image_size
        self.features = features_of(backbone)
        if projector is not None:
            self.projector: nn.Module | None = projector
            last = [layer for layer in projector.modules() if isinstance(layer, nn.Linear)][-1]
            self.features = last.out_features
        else:
            self.projector = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone(x)
        return (out if self.projector is None else self.projector(out)).float()


def load(run: str | Path, device: str = "cpu", layer: Layer = "backbone") -> Encoder:
    """The encoder of a run, ready to use: `siam.load("runs/photos")`.

    layer: where its output is taken, `projector` for z. Raises RunError, and SettingsError for a device that
    is not there.
    """
    where = find_device(device)
    opened = open_run(run)
    settings = opened.settings
    backbone = build_backbone(settings.backbone, settings.views.size, settings.width, settings.stem)
    projector = None
    if layer == "projector":
        weights = load_network(run)
        projector = build_projector(features_of(backbone), settings.network)
        _fill(projector, _below(weights, "projector."), opened.folder)
        _fill(backbone, _below(weights, "backbone."), opened.folder)
    else:
        file = opened.folder / ENCODER
        if not file.exists():
            raise RunError(
                f"{opened.folder} holds no {ENCODER} yet: the run has not finished its first epoch"
            )
        _fill(backbone, _read_safetensors(file), file)
    encoder = Encoder(backbone, settings.views.size, projector).requires_grad_(False)
    return encoder.to(where).eval()


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _fill(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{source} cannot be read: {str(error).splitlines()[0]}") from None


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_safetensors(file)
    except Exception as error:
        raise RunError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None


def untrained(run: str | Path, device: str = "cpu") -> Encoder:
    """The encoder as it was before the run: its random initialisation, to compare with. Raises RunError."""
    settings = open_run(run).settings
    torch.manual_seed(settings.seed)
    backbone = build_backbone(settings.backbone, settings.views.size, settings.width, settings.stem)
    return Encoder(backbone.requires_grad_(False), settings.views.size).to(device).eval()


def save_encoder(folder: Path, backbone: nn.Module, settings: Settings) -> None:
    """encoder.safetensors: the backbone alone, in timm's (for ResNets: torchvision's) parameter names."""
    from siam import __version__

    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    metadata = {"method": settings.method, "backbone": settings.backbone, "siam": __version__}
    write_atomically(folder / ENCODER, lambda file: file.write(save(tensors, metadata)))


def save_network(folder: Path, network: nn.Module) -> None:
    """network.safetensors: both branches, of a run that was imported rather than trained."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    write_atomically(folder / NETWORK, lambda file: file.write(save(tensors)))


def load_network(run: str | Path) -> dict[str, Tensor]:
    """All weights of a run by their names in `siam.Network`, heads too. Raises RunError when it has none."""
    folder = open_run(run).folder
    if (folder / CHECKPOINT).exists():
        weights: dict[str, Tensor] = load_checkpoint(folder / CHECKPOINT)["network"]
        return weights
    if not (folder / NETWORK).exists():
        raise RunError(f"{folder} holds no weights yet: neither {CHECKPOINT} nor {NETWORK}")
    return _read_safetensors(folder / NETWORK)


def write_atomically(
    path: Path, write: Callable[[BinaryIO], Any], then: Callable[[], None] = lambda: None
) -> None:
    """Write beside the name, flush to disk, then move into place: a crash leaves the old file or the new.

    then: done between the two. Where the disk is full, what was begun is removed. Raises OSError.
    """
    beside = path.with_name(path.name + ".writing")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    then()
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a loss of power, as fsync lets the bytes."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the lock ends with the process, however it ends."""
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder} is in use by another process: wait for it, or choose another --out"
            ) from None
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """One process after another, where several add to what the run folder holds already."""
    with (folder / ".turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's contents, read without executing anything in it. Raises RunError.

    It is a zip, so each part of it has a checksum; torch itself does not look at them.
    """
    try:
        with zipfile.ZipFile(file) as parts:
            damaged = parts.testzip()
        if damaged is not None:
            raise RunError(f"{file} is damaged: the checksum of {damaged} is wrong")
        contents: dict[str, Any] = load_tensors(file)
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint at {file}") from None
    except Exception as error:
        raise RunError(f"{file} cannot be read: {first_words(error)}") from None
    return contents


def load_tensors(file: Path) -> Any:
    """What torch saved, as long as it is tensors and plain values: nothing else is built, nothing executed.

    Raises ValueError, which says why not, and what torch raises for damaged files.
    """
    with file.open("rb") as opened:
        pickled = opened.read(2) in (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
    if not pickled:
        raise ValueError("it is not a checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds more than tensors, and what it holds will not be executed") from None
