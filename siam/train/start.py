"""Start or resume a run: resolve its settings and folder, open its images, and launch its processes."""

import errno
import itertools
import os
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from rich.console import Console

from siam import recipes
from siam.data.images import ImageSets
from siam.data.loader import require_batch, require_several
from siam.data.sources import open_images
from siam.errors import DataError, RunError, SettingsError
from siam.methods import METHODS
from siam.plan.machine import Machine
from siam.plan.plan import Dataset, Plan, make_plan, planned_seconds
from siam.plan.rules import METHOD
from siam.processes.agree import all_gather_object, on_rank_zero, raise_everywhere
from siam.processes.gather import rank, world_size
from siam.processes.launch import how_many, launch, require_equal_shares
from siam.processes.rendezvous import is_distributed, process_group, was_restarted
from siam.runs.bars import print_line, print_sets
from siam.runs.folder import SETTINGS, open_run, require_new
from siam.runs.job import MAY_CHANGE, train_on
from siam.settings.checks import parse_duration
from siam.settings.overrides import Overrides
from siam.settings.plain import differences
from siam.settings.pretraining import Settings
from siam.system.device import find_device, float32_by_default
from siam.system.files import ELSEWHERE, LOCK, removed_if_empty, same_place, writing
from siam.system.names import LONGEST_NAME
from siam.train.finished import Opener, finished
from siam.train.initialize import init_settings
from siam.train.pretrain import Outcome, train
from siam.train.speed import ThisMachine

Resume = bool | Literal["auto"]
_SCHEDULE = " (its learning rate has followed a schedule for its own number of epochs)"


@float32_by_default()
def start(
    overrides: Overrides,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: Resume = False,
    console: Console | None = None,
    open_once: Opener | None = None,
    duration: str | None = None,
) -> Outcome:
    """Start or resume a run, in this process or in several launched processes.

    overrides: the user's settings. recipe: name of the base settings; default: chosen to suit the images.
    When a run is resumed, `overrides` apply to the run's own settings instead. out: the run folder. resume:
    continue the run in `out`; "auto" starts a new run if there is none in `out`. open_once: a cached
    `open_images`, shared between runs on the same dataset. duration: time to plan the run for, such as
    `20m`; default: 30 minutes on a CPU and 2 hours on a GPU, unless a recipe, epochs or init are given.
    Raises SiamError.
    """
    console = console or Console(stderr=True)
    open_once = open_once or cache(open_images)
    resume = "auto" if was_restarted() else resume
    group = overrides.only("device", "timeout").over(Settings())
    with process_group(group.device, parse_duration(group.timeout, "timeout")):
        began = time.time()
        settings, folder = on_rank_zero(
            lambda: resolve(overrides, recipe, out, resume, open_once, duration, console)
        )
        outcome = on_rank_zero(lambda: finished(folder, settings.data, open_once, console))
        if outcome is not None:
            return outcome
        with removed_if_empty(folder) if rank() == 0 else nullcontext():
            if not is_distributed():
                processes = how_many(
                    settings.devices, settings.device, settings.batch_size, settings.grad_accum
                )
                if processes > 1:
                    return launch(processes, _train_launched, settings, folder, began)
            return _train(settings, folder, console, open_once, began)


def _train_launched(settings: Settings, folder: Path, began: float) -> Outcome:
    """Train in a process launched by `start`."""
    with process_group(settings.device, parse_duration(settings.timeout, "timeout")):
        return _train(settings, folder, Console(stderr=True), cache(open_images), began)


def _train(settings: Settings, folder: Path, console: Console, open_once: Opener, began: float) -> Outcome:
    require_equal_shares(settings.batch_size, world_size(), settings.grad_accum)
    sets = _open_on_all_ranks(settings.data, console, open_once)
    return train(sets, settings, folder, console, began)


def resolve(
    overrides: Overrides,
    recipe: str | None,
    out: str | Path | None,
    resume: Resume,
    open_once: Opener,
    duration: str | None,
    console: Console,
) -> tuple[Settings, Path]:
    """Return a run's settings and folder, creating the folder if needed. Raises SiamError."""
    named = overrides.only("data").over(Settings()).data
    default = METHOD if _is_planned(overrides, recipe) else Settings().method.name
    method = overrides.get("method.name", default)
    folder = Path(out).expanduser() if out is not None else _default_folder(method, named, bool(resume))
    if out is None and resume and not (folder / SETTINGS).exists():
        # The run may have been planned, or not, with other flags than these.
        folder = max(_runs_on(named), key=lambda run: (run / SETTINGS).stat().st_mtime, default=folder)
    if _is_resumed(folder, resume):
        return _resumed_settings(folder, overrides), folder
    _require_writable(folder)
    settings = _new_settings(overrides, recipe, open_once, duration, console)
    _make_folder(folder)
    return settings, folder


def _is_planned(overrides: Overrides, recipe: str | None) -> bool:
    """Return whether the settings are planned to fit the images, the machine and the time."""
    fixed = {"epochs", "init"} & overrides.given.keys()
    return recipe is None and not fixed and overrides.get("data", Settings().data) != Settings().data


def plan(overrides: Overrides, duration: str | None, machine: Machine | None, open_once: Opener) -> Plan:
    """Plan a run on the user's images. machine: default: this one, measured. Raises SiamError."""
    named = overrides.only("data", "device").over(Settings())
    train = open_once(named.data).to_train_on()
    require_several(train)
    machine = machine or ThisMachine(train, named.device)
    seconds = planned_seconds(duration, machine.device)
    dataset = Dataset(named.data, len(train), min(train.size_hint))
    return make_plan(dataset, machine, seconds, overrides)


def _is_resumed(folder: Path, resume: Resume) -> bool:
    """Return whether to continue the run in `folder` rather than start a new one. Raises RunError."""
    if resume:
        exists = (folder / SETTINGS).exists()
        if resume is True and not exists:
            raise RunError(
                f"there is no run to resume in {folder}: leave out --resume to start one, or use --resume "
                "auto, which resumes a run if there is one"
            )
        return exists
    require_new(folder)
    return False


def _new_settings(
    overrides: Overrides, recipe: str | None, open_once: Opener, duration: str | None, console: Console
) -> Settings:
    """Apply the user's settings to the given recipe, or to a recipe that suits the images."""
    if duration is not None and "epochs" in overrides.given:
        raise SettingsError("--for and --epochs both set the length of the run: give one of them")
    if _is_planned(overrides, recipe):
        planned = plan(overrides, duration, None, open_once)
        for line in planned.lines():
            print_line(console, line)
        return planned.settings
    named = overrides.only("data", "init").over(Settings())
    method = overrides.get("method.name", named.method.name)
    train = open_once(named.data).to_train_on()
    require_several(train)
    base = recipes.starting_point(recipe, method, named.data, min(train.size_hint), len(train))
    base = init_settings(named.init, base) if named.init else base
    require_batch(train, overrides.over(base).batch_size)
    if duration is None:
        return overrides.over(base)
    dataset = Dataset(named.data, len(train), min(train.size_hint))
    device = overrides.over(base).device
    seconds = planned_seconds(duration, find_device(device).type)
    return make_plan(dataset, ThisMachine(train, device), seconds, overrides, base).settings


def _resumed_settings(folder: Path, overrides: Overrides) -> Settings:
    """Apply the user's settings to the run's own. Raises RunError for changes outside MAY_CHANGE."""
    own = open_run(folder).settings
    settings = overrides.over(own)
    if same_place(settings.data, own.data):
        settings = replace(settings, data=own.data)
    changed = [name for name in differences(own, settings) if not name.startswith(MAY_CHANGE)]
    if changed:
        raise RunError(
            f"{folder} was started with different settings: {', '.join(changed)}; omit these options, or "
            f"{train_on(folder)}{_SCHEDULE if any(name.startswith('epochs ') for name in changed) else ''}"
        )
    return settings


def _open_on_all_ranks(data: str, console: Console, open_once: Opener) -> ImageSets:
    """Open the images in every process, but on rank 0 first, because opening them may download them.

    Raises DataError if the processes see different images.
    """
    on_rank_zero(lambda: open_once(data) and None)  # None, because the dataset itself is not broadcast
    sets = open_once(data)
    if rank() == 0:
        print_sets(console, sets)
    seen = all_gather_object((len(sets.train), sets.train.path(0), sets.train.path(len(sets.train) - 1)))
    for number, other in enumerate(seen):
        if other != seen[0]:
            raise_everywhere(
                DataError(
                    f"processes {number} and 0 see different images in {data} ({other[0]} from {other[1]} to "
                    f"{other[2]}, and {seen[0][0]} from {seen[0][1]} to {seen[0][2]}): give all processes "
                    "the same files"
                )
            )
    return sets


def _require_writable(folder: Path) -> None:
    """Raise RunError if the run folder cannot be created, before anything is measured for it."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES if above.is_dir() else errno.ENOTDIR)
        if hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY:
            reason = os.strerror(errno.EROFS)
        raise RunError(f"cannot write to {folder}: {reason}; choose another --out")


def _make_folder(folder: Path) -> None:
    """Create the run folder. Raises RunError if it is not writable."""
    with writing(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()


def _default_folder(method: str, data: str, resume: bool) -> Path:
    """Return runs/METHOD-DATA, with -2, -3, ... appended if it exists; on resume, the last existing one."""
    base = Path("runs") / f"{method}-{short_name(data)}"
    names = (base.with_name(f"{base.name}-{n}") if n > 1 else base for n in itertools.count(1))
    taken = list(itertools.takewhile(lambda folder: (folder / SETTINGS).exists(), names))
    if resume and taken:
        return taken[-1]
    return base.with_name(f"{base.name}-{len(taken) + 1}") if taken else base


def _runs_on(data: str) -> list[Path]:
    """Return the runs in runs/ that `_default_folder` named after this dataset, whatever their method."""
    named = re.compile(rf"({'|'.join(METHODS)})-{re.escape(short_name(data))}(-\d+)?")
    return [file.parent for file in Path("runs").glob(f"*/{SETTINGS}") if named.fullmatch(file.parent.name)]


def short_name(data: str) -> str:
    """Return a path's last component without its suffix, with special characters replaced by dashes."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(data).stem or "images").strip("-") or "images"
    return name[:LONGEST_NAME]
