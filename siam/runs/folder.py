"""Run folders: file names, settings and records."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from siam.errors import RunError, SettingsError, first_line
from siam.settings.plain import from_dict, to_dict
from siam.settings.pretraining import Settings
from siam.system.files import write_atomically

SETTINGS, METRICS, CHECKPOINT = "settings.yaml", "metrics.jsonl", "checkpoint.pt"
ENCODER, REPORT, UNREADABLE = "encoder.safetensors", "report.html", "unreadable.txt"
EVALUATIONS, NETWORK = "evaluations.json", "network.safetensors"
TRANSFERS = "transfer"


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


def open_run(folder: str | Path) -> Run:
    """Open a run and read its settings. Raises RunError if the run is missing or its settings are invalid."""
    folder = Path(folder).expanduser()
    file = folder / SETTINGS
    if not folder.is_dir():
        if folder.is_file() and (folder.parent / SETTINGS).is_file():
            raise RunError(f"{folder} is a file of the run {folder.parent}: specify the folder instead")
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
    text = yaml.safe_dump(to_dict(settings), sort_keys=False)
    try:
        write_atomically(folder / SETTINGS, lambda file: file.write(text.encode()))
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
