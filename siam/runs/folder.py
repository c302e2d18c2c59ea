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

_MAX_SETTINGS = 2**16
"""Largest settings file in bytes; Siam writes some 3,000, and YAML is slow to parse."""
_TEXT = ("kind", "verdict", "device", "precision", "from", "layout")
_COUNTS = ("epoch", "step", "steps", "images", "val_images", "parameters")
"""Names in metrics.jsonl of strings and of whole numbers; `parts` is a list, and all others are numbers."""


@dataclass(frozen=True)
class Run:
    """A folder created by `siam pretrain` or `siam import`."""

    folder: Path
    settings: Settings

    def metrics(self) -> list[dict[str, Any]]:
        """Read the records in metrics.jsonl, in order, leaving out what is damaged. Raises RunError."""
        return read_records(self.folder)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read the records in a folder's metrics.jsonl, in order.

    What is damaged is left out: lines that are not records, such as an incomplete last line, and values of
    the wrong type. Raises RunError if the file cannot be read at all.
    """
    file = folder / METRICS
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from None
    return [record for record in map(_record, lines) if record]


def _record(line: bytes) -> dict[str, Any]:
    """Parse a line of metrics.jsonl; return {} if it is not a record."""
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    record = {k: v for k, v in plain.items() if _is_value(k, v)} if isinstance(plain, dict) else {}
    needed = {"epoch": {"epoch", "step"}, "step": {"step"}}.get(record.get("kind", ""), set())
    return record if "kind" in record and needed <= record.keys() else {}


def _is_value(name: str, value: Any) -> bool:
    if name in _TEXT:
        return isinstance(value, str)
    if name == "parts":
        return isinstance(value, list)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return is_count or (name not in _COUNTS and (value is None or isinstance(value, float)))


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a settings file that Siam wrote and that may have been edited. Raises RunError."""
    try:
        if file.stat().st_size > _MAX_SETTINGS:
            raise RunError(f"{file} is not a settings file: it is larger than {_MAX_SETTINGS:,} bytes")
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:  # ValueError: an impossible date
        raise RunError(f"{file} cannot be read: {first_line(error, 200)}") from None
    if not isinstance(plain, dict):
        raise RunError(f"{file} does not contain settings")
    return plain


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
    folder = Path(folder).expanduser()
    file = folder / SETTINGS
    if not folder.is_dir():
        if str(folder).startswith(("timm:", "hf-hub:")):
            raise RunError(f"{folder} is not a run: siam pretrain DATA --init {folder} makes one of it")
        if folder.is_file() and (folder.parent / SETTINGS).is_file():
            raise RunError(f"{folder} is a file of the run {folder.parent}: specify the folder instead")
        if folder.is_file():
            raise RunError(f"{folder} is a file, not a run folder: run siam import {folder} --out RUN")
        raise RunError(f"no run at {folder}: the folder does not exist")
    if not file.is_file():
        raise RunError(f"{folder} is not a run: it has no {SETTINGS}")
    plain = read_yaml(file)
    try:
        return Run(folder, from_dict(plain))
    except SettingsError as error:
        raise RunError(f"{file} cannot be read: {first_line(error, 200)}") from None


def save_settings(folder: Path, settings: Settings) -> None:
    """Write all settings, including defaults, to settings.yaml. Raises RunError if writing fails."""
    with writing(folder, ELSEWHERE):
        write_atomically(folder / SETTINGS, settings_file(settings))


def settings_file(settings: Settings) -> Write:
    """Return a function that writes the contents of settings.yaml."""
    text = yaml.safe_dump(to_dict(settings), sort_keys=False)
    return lambda file: file.write(text.encode())
