"""Set up a transfer run (backbone, data, settings and output folder) and start it."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import nn

from siam.convert.importer import backbone_weights
from siam.errors import RunError, SettingsError, first_line
from siam.parts.backbone import build_backbone
from siam.processes.agree import on_rank_zero
from siam.processes.gather import world_size
from siam.processes.launch import how_many, launch, require_equal_shares
from siam.processes.rendezvous import is_distributed, process_group, was_restarted
from siam.report.page import write_report
from siam.report.transfer import write_transfer_report
from siam.runs.bars import print_line
from siam.runs.encoder import load
from siam.runs.folder import (
    BOARD,
    CHECKPOINT,
    METRICS,
    REPORT,
    TRANSFERS,
    UNREADABLE,
    open_run,
    read_yaml,
    require_free,
)
from siam.runs.job import MAY_CHANGE, require_images_of
from siam.runs.results import (
    BOXES,
    DRAWN,
    MASKS,
    RESULT,
    TRANSFER,
    TRUTH,
    TransferResult,
    load_transfer,
    save_transfer,
)  # fmt: skip
from siam.settings.checks import parse_duration
from siam.settings.overrides import Overrides
from siam.settings.plain import differences, from_dict, to_dict
from siam.system.device import float32_by_default
from siam.system.files import ELSEWHERE, make_folder, same_place, write_atomically, writing
from siam.system.names import LONGEST_NAME
from siam.transfer.annotations import DetectionDataset
from siam.transfer.data import open_annotated
from siam.transfer.settings import TransferSettings, starting_point
from siam.transfer.train import train

Opener = Callable[[str | Path, bool], DetectionDataset]
"""Type of `open_annotated`, which may be cached so that annotations are read once."""


@float32_by_default()
def transfer(
    run: str | Path,
    data: str | Path,
    overrides: Overrides | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> TransferResult:
    """Fine-tune a detector with `run`'s backbone on `data`, and measure its AP.

    Launches one process per device if there are several. overrides: settings that
    override the recipe's. recipe: recipe name; None: one that fits the data. out:
    output folder; None: a folder in RUN/transfer/. resume: resume the run in the output
    folder. Raises SiamError.
    """
    console = console or Console(stderr=True)
    overrides = overrides or Overrides()
    resume = resume or was_restarted()
    open_once = cache(open_annotated)
    group = overrides.only("device", "timeout").over(TransferSettings())
    with process_group(group.device, parse_duration(group.timeout, "timeout")):
        settings, folder = on_rank_zero(
            lambda: resolve(run, data, overrides, recipe, out, resume, console, open_once)
        )
        finished = on_rank_zero(lambda: _finished(folder, data, settings, open_once))
        if finished is not None:
            return finished
        if not is_distributed():
            processes = how_many(settings.devices, settings.device, settings.batch_size)
            if processes > 1:
                return launch(processes, _train_launched, run, data, settings, folder)
        return _train(run, data, settings, folder, console, open_once)


def _finished(
    folder: Path, data: str | Path, settings: TransferSettings, open_once: Opener
) -> TransferResult | None:
    """Return the result of a finished run on the same data, or None. Raises RunError for other data."""
    finished = load_transfer(folder)
    if finished is not None:
        annotated = open_once(data, settings.task == "segmentation")
        require_images_of(folder, annotated.fingerprint, "choose another --out")
    return finished


def _train_launched(
    run: str | Path, data: str | Path, settings: TransferSettings, folder: Path
) -> TransferResult:
    """Train in a process launched by `transfer`."""
    with process_group(settings.device, parse_duration(settings.timeout, "timeout")):
        return _train(run, data, settings, folder, Console(stderr=True), open_annotated)


def _train(
    run: str | Path,
    data: str | Path,
    settings: TransferSettings,
    folder: Path,
    console: Console,
    open_once: Opener,
) -> TransferResult:
    require_equal_shares(settings.batch_size, world_size())
    annotated = open_once(data, settings.task == "segmentation")
    outcome = train(annotated, init_backbone(run, settings.init, settings.seed), settings, folder, console)
    on_rank_zero(lambda: _save(Path(run).expanduser(), folder, outcome))
    return outcome


def _save(run: Path, folder: Path, outcome: TransferResult) -> None:
    """Write result.json and report.html.

    If `folder` is in RUN/transfer/, also update the run's report.
    """
    with writing(folder, "; free some space and continue with --resume"):
        save_transfer(folder, outcome)
    with writing(f"{folder}/report.html", "; the result was saved, but is not on that page"):
        write_transfer_report(folder)
        if folder.parent.resolve() == (run / TRANSFERS).resolve():
            write_report(run, lambda line: print_line(Console(stderr=True), line))


def resolve(
    run: str | Path,
    data: str | Path,
    overrides: Overrides,
    recipe: str | None,
    out: str | Path | None,
    resume: bool,
    console: Console,
    open_once: Opener,
) -> tuple[TransferSettings, Path]:
    """Return the run's settings and output folder, creating the folder if necessary.

    Raises SiamError.
    """
    backbone = open_run(run).settings.backbone
    task = overrides.only("task").over(TransferSettings()).task
    annotated = open_once(data, task == "segmentation")
    for line in annotated.skipped.lines():
        print_line(console, f"skipped: {line}")
    base = starting_point(recipe, annotated.layout, annotated.years, len(annotated.train))
    settings = overrides.over(base)
    folder = Path(out).expanduser() if out is not None else _default_folder(Path(run), str(data), settings)
    if not (folder / TRANSFER).exists():
        init_backbone(run, settings.init, settings.seed)  # raises before anything is written
    _claim(folder, resume, {"run": str(run), "data": str(data), **to_dict(settings)}, settings)
    print_line(
        console,
        f"{settings.task} with {settings.detector} on {data}: {len(annotated.train):,} images, "
        f"{len(annotated.classes)} classes, {backbone} from {settings.init or run}, "
        f"{settings.iterations:,} steps of {settings.batch_size} images -> {folder}",
    )  # fmt: skip
    return settings, folder


def init_backbone(run: str | Path, init: str, seed: int) -> nn.Module:
    """Build the backbone and initialize its weights.

    init: '' for the weights of `run`, `random`, another run's folder, or a checkpoint
    file; `random` and checkpoint files use the architecture of `run`. Raises RunError.
    """
    if not init or (Path(init).is_dir() and init != "random"):
        return load(init or run).backbone
    opened = open_run(run)
    settings = opened.settings
    torch.manual_seed(seed)
    resnet = build_backbone(settings.backbone, settings.views.size, settings.width, settings.stem)
    if init == "random":
        return resnet
    if not Path(init).is_file():
        raise RunError(f"--init must be `random`, a run folder or a checkpoint file, got {init}")
    resnet.load_state_dict({**resnet.state_dict(), **backbone_weights(Path(init), opened)})
    return resnet


def _claim(folder: Path, resume: bool, plain: dict[str, Any], settings: TransferSettings) -> None:
    """Write transfer.yaml, or check that an existing one matches. Raises RunError.

    A run that has never saved anything starts over.
    """
    file = folder / TRANSFER
    if file.exists() and (resume or (folder / CHECKPOINT).exists() or (folder / RESULT).exists()):
        if not resume:
            raise RunError(
                f"{folder} already contains a transfer run: resume it with --resume, or choose another --out"
            )
        _require_same(file, plain, settings)
        return
    if not file.exists():
        require_free(
            folder, [METRICS, CHECKPOINT, REPORT, UNREADABLE, RESULT, TRUTH, BOXES, MASKS, DRAWN, BOARD]
        )
    with writing(folder, ELSEWHERE), make_folder(folder):
        text = yaml.safe_dump(plain, sort_keys=False)
        write_atomically(file, lambda out: out.write(text.encode()))


def _require_same(file: Path, plain: dict[str, Any], settings: TransferSettings) -> None:
    """Raise RunError if run, data or training settings differ from transfer.yaml."""
    try:
        before = read_yaml(file)
        before.pop("data")  # may be at another place; the checkpoint knows which images they are
        same_run = same_place(before.pop("run"), plain["run"])
        other = from_dict(before, TransferSettings())
    except (SettingsError, KeyError) as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}") from None
    changed = [name for name in differences(other, settings) if not name.startswith(MAY_CHANGE)]
    changed += [] if same_run else ["run"]
    if changed:
        raise RunError(
            f"{file.parent} was started with different settings: {', '.join(changed)}; use the original "
            "values, or choose another --out"
        )


def _default_folder(run: Path, data: str, settings: TransferSettings) -> Path:
    """Return RUN/transfer/DATA-TASK-DETECTOR, plus `init` and seed if set."""
    parts = [Path(data).resolve().name[:LONGEST_NAME], settings.task, settings.detector]
    if settings.init:
        parts.append(Path(settings.init).stem[:LONGEST_NAME])
    if settings.seed:
        parts.append(f"seed{settings.seed}")
    return run / TRANSFERS / re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))
