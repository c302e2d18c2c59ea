"""From what a user asks for to a run: which images, which settings, which folder."""

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from rich.console import Console

from siam.data.decode import BrokenImage
from siam.data.images import ImageSets
from siam.data.loader import require_several
from siam.data.sources import open_images
from siam.data.views import Unreadable, read_or_replace
from siam.errors import DataError, RunError
from siam.processes.agree import all_gather_object, on_rank_zero, raise_everywhere
from siam.processes.gather import rank, world_size
from siam.processes.launch import how_many, launch, require_equal_shares
from siam.processes.rendezvous import is_distributed, process_group, was_restarted
from siam.runs.folder import CHECKPOINT, ENCODER, NETWORK, SETTINGS, open_run
from siam.settings import recipes
from siam.settings.checks import parse_duration
from siam.settings.plain import differences
from siam.settings.pretraining import Settings
from siam.train.pretrain import Outcome, train

MAY_CHANGE = ("device", "devices", "timeout", "loader.", "checkpoint.")
"""Settings that a resumed run may be given anew: they do not change what is learnt."""

Resume = bool | Literal["auto"]
Opener = Callable[[str], ImageSets]
"""`open_images` that remembers: to list a million files takes seconds, which are spent once."""


def start(
    asked: Settings,
    method: str,
    change: Callable[[Settings], Settings],
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: Resume = False,
    console: Console | None = None,
) -> Outcome:
    """Train, or go on training, in this process or in several.

    asked: where data, init and devices are taken from. method: its name. change: applies the user's own
    settings to a starting point.
    resume: go on with the run that is there; "auto" begins one where there is none. Raises SiamError.
    """
    console = console or Console(stderr=True)
    resume = "auto" if was_restarted() else resume
    with process_group(asked.device, parse_duration(asked.timeout, "timeout")):
        open_once = cache(open_images)
        settings, folder = on_rank_zero(
            lambda: _settle(asked, method, change, recipe, out, resume, open_once)
        )
        if not is_distributed():
            processes = how_many(settings.devices, settings.device, settings.batch_size, settings.grad_accum)
            if processes > 1:
                open_once.cache_clear()  # each of them opens its own
                return launch(processes, _train_together, settings, folder)
        return _train(settings, folder, console, open_once)


def _train_together(settings: Settings, folder: Path) -> Outcome:
    """What each of the processes does that are started here."""
    with process_group(settings.device, parse_duration(settings.timeout, "timeout")):
        return _train(settings, folder, Console(stderr=True), cache(open_images))


def _train(settings: Settings, folder: Path, console: Console, open_once: Opener) -> Outcome:
    require_equal_shares(settings.batch_size, world_size(), settings.grad_accum)
    sets = _the_same_everywhere(settings.data, console, open_once)
    return train(sets, settings, folder, console)


def _settle(
    asked: Settings,
    method: str,
    change: Callable[[Settings], Settings],
    recipe: str | None,
    out: str | Path | None,
    resume: Resume,
    open_once: Opener,
) -> tuple[Settings, Path]:
    """Which settings, and in which folder, which exists from here on."""
    folder = Path(out) if out is not None else _default_folder(method, asked.data, bool(resume))
    holds_weights = any((folder / name).exists() for name in (CHECKPOINT, ENCODER, NETWORK))  # or imported
    exists = (folder / SETTINGS).exists() if resume else holds_weights
    if exists and not resume:  # a run that never saved anything is begun anew
        raise RunError(f"{folder} already holds a run: continue it with --resume, or choose another --out")
    if resume is True and not exists:
        raise RunError(
            f"there is no run in {folder} to go on with: leave out --resume to begin one, or give --resume "
            "auto, which does either"
        )
    if not exists:
        train = open_once(asked.data).train
        require_several(train)
        try:
            image, _ = read_or_replace(train, 0, Unreadable())
        except BrokenImage as error:
            raise DataError(f"the images of {train.name} cannot be read: {error.reason}") from None
        side = min(image.shape[1:])
        base = recipes.starting_point(recipe, method, asked.data, side, len(train))
        settings = change(_init_settings(asked.init, base) if asked.init else base)
        _make(folder)
        return settings, folder

    before = open_run(folder).settings
    settings = change(before)
    if os.path.realpath(settings.data) == os.path.realpath(before.data):  # photos, photos/, ./photos
        settings = replace(settings, data=before.data)
    changed = [name for name in differences(before, settings) if not name.startswith(MAY_CHANGE)]
    if changed:
        raise RunError(
            f"{folder} was started with other settings: {', '.join(changed)}; leave them out, or choose "
            "another --out"
        )
    return settings, folder


def _the_same_everywhere(data: str, console: Console, open_once: Opener) -> ImageSets:
    """The images, in every process; in the first one first, which may have to download them.

    Raises DataError where a machine has others than the first.
    """
    on_rank_zero(lambda: open_once(data) and None)
    sets = open_once(data)
    if rank() == 0:
        for file, reason in sets.lost.items():
            console.print(f"{file}: {reason}", highlight=False, soft_wrap=True)
    seen = all_gather_object((len(sets.train), sets.train.path(0), sets.train.path(len(sets.train) - 1)))
    for number, other in enumerate(seen):
        if other != seen[0]:
            raise raise_everywhere(
                DataError(
                    f"process {number} sees other images in {data} than the first one: {other[0]} from "
                    f"{other[1]} to {other[2]}, not {seen[0][0]} from {seen[0][1]} to {seen[0][2]}"
                )
            )
    return sets


def _init_settings(init: str, base: Settings) -> Settings:
    """`base` with the backbone of the run `init`, and with its heads where the method is the same."""
    run = open_run(init).settings
    method = run.method if run.method.name == base.method.name else base.method
    return replace(
        base, init=init, backbone=run.backbone, width=run.width, stem=run.stem, method=method,
        views=replace(base.views, size=run.views.size),
    )  # fmt: skip


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".lock"
        probe.touch()
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None


def _default_folder(method: str, data: str, resume: bool) -> Path:
    """runs/METHOD-DATA, -2, -3 ...: the first that is free; to resume, the last that is not."""
    base = Path("runs") / f"{method}-{_short(data)}"
    names = (base.with_name(f"{base.name}-{n}") if n > 1 else base for n in itertools.count(1))
    taken = list(itertools.takewhile(lambda folder: (folder / SETTINGS).exists(), names))
    if resume and taken:
        return taken[-1]
    return base.with_name(f"{base.name}-{len(taken) + 1}") if taken else base


def _short(data: str) -> str:
    """The last part of a path, without its ending, in plain letters."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(data).stem or "images").strip("-") or "images"
