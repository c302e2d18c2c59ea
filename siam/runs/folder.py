"""Run folders: file names, settings and records."""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from siam.errors import RunError, SettingsError, first_line
from siam.settings.plain import from_dict, to_dict
from siam.settings.pretraining import Settings
from siam.system.files import ELSEWHERE, Write, write_atomically, writing

SETTINGS, METRICS, CHECKPOINT = "settings.yaml", "metrics.jsonl", "checkpoint.pt"
ENCODER, REPORT, UNREADABLE = "encoder.safetensors", "report.html", "unreadable.txt"
EVALUATIONS, NETWORK = "evaluations.json", "network.safetensors"
TRANSFERS, PICTURES, BOARD = "transfer", "pictures.npz", "tensorboard"

_WEIGHTS = (CHECKPOINT, ENCODER, NETWORK)
_OWN = (
    *_WEIGHTS, SETTINGS, METRICS, REPORT, UNREADABLE, EVALUATIONS, TRANSFERS, PICTURES, BOARD,
)  # fmt: skip
"""The files and folders of a run."""


@dataclass(frozen=True)
class Run:
    """A folder created by `siam pretrain` or `siam import`."""

    folder: Path
    settings: Settings

    def metrics(self) -> list[dict[str, Any]]:
        """Read the records in metrics.jsonl, in order, skipping an incomplete last line."""
        return read_records(self.folder)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read the records in a folder's metrics.jsonl, in order, skipping an incomplete last line."""
    file = folder / METRICS
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def require_free(folder: Path, names: Sequence[str] = _OWN) -> None:
    """Raise RunError if `folder` already contains one of the files that a new run would write.

    names: names of those files; default: those of a run.
    """
    taken = next((name for name in names if os.path.lexists(folder / name)), None)
    if taken in _WEIGHTS:
        raise RunError(f"{folder} already contains a run: resume it with --resume, or choose another --out")
    if taken is not None:
        raise RunError(f"{folder} already contains {taken}, which would be overwritten: choose another --out")


def require_new(folder: Path) -> None:
    """Raise RunError unless a run can start in `folder`: it has no run, or one that never saved weights."""
    if not any(os.path.lexists(folder / name) for name in _WEIGHTS):
        with contextlib.suppress(RunError):
            open_run(folder)
            return
    require_free(folder)


def open_run(folder: str | Path) -> Run:
    """Open a run and read its settings. Raises RunError if the run is missing or its settings are invalid."""
    folder = Path(folder)
    file = folder / SETTINGS
    if not folder.is_dir():
        if folder.is_file():
            raise RunError(f"{folder} is a file, not a run folder: run siam import {folder} --out RUN")
        raise RunError(f"no run at {folder}: the folder does not exist")
    if not file.is_file():
        raise RunError(f"{folder} is not a run: it has no {SETTINGS}")
    try:
        plain = yaml.safe_load(file.read_text())
        if not isinstance(plain, dict):
            raise RunError(f"{file} does not contain settings")
        return Run(folder, from_dict(plain))
    except (yaml.YAMLError, UnicodeDecodeError, SettingsError) as error:
        raise RunError(f"{file} cannot be read: {first_line(error, 200)}") from None


def save_settings(folder: Path, settings: Settings) -> None:
    """Write all settings, including defaults, to settings.yaml. Raises RunError if writing fails."""
    with writing(folder, ELSEWHERE):
        write_atomically(folder / SETTINGS, settings_file(settings))


def settings_file(settings: Settings) -> Write:
    """Return a function that writes the contents of settings.yaml."""
    text = yaml.safe_dump(to_dict(settings), sort_keys=False)
    return lambda file: file.write(text.encode())
