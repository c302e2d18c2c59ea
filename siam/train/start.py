"""From what a user asks for to a run: which images, which settings, which folder."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from siam import recipes
from siam.data.images import open_images
from siam.data.views import Broken, read_or_replace
from siam.errors import RunError
from siam.runs import SETTINGS, open_run
from siam.settings import Settings, differences
from siam.train.pretrain import Outcome, train

_MAY_CHANGE = ("device", "loader.", "checkpoint.")
"""Settings that a resumed run may be given anew: they do not change what is learnt."""


def start(
    asked: Settings,
    change: Callable[[Settings], Settings],
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Train, or go on training.

    asked: where data and method are taken from. change: applies the user's own settings to a starting point.
    Raises SiamError.
    """
    console = console or Console(stderr=True)
    folder = Path(out) if out is not None else _default_folder(asked, resume)
    going_on = resume and (folder / SETTINGS).exists()
    if not going_on and (folder / SETTINGS).exists():
        raise RunError(f"{folder} already holds a run: continue it with --resume, or choose another --out")

    if going_on:
        before = open_run(folder).settings
        settings = change(before)
        changed = [name for name in differences(before, settings) if not name.startswith(_MAY_CHANGE)]
        if changed:
            raise RunError(
                f"{folder} was started with other settings: {', '.join(changed)}; leave them out, or choose "
                "another --out"
            )
        sets = open_images(settings.data)
    else:
        sets = open_images(asked.data)
        image, _ = read_or_replace(sets.train, 0, Broken())
        side = min(image.shape[1:])
        base = recipes.starting_point(recipe, asked.method, asked.data, side, len(sets.train))
        settings = change(_beginning_with(asked.init, base) if asked.init else base)
        _make(folder)

    return train(sets, settings, folder, resume, console)


def _beginning_with(init: str, base: Settings) -> Settings:
    """`base` with the backbone of the run `init`, and with its heads where the method is the same."""
    run = open_run(init).settings
    network = run.network if run.method == base.method else base.network
    return replace(
        base, init=init, backbone=run.backbone, width=run.width, stem=run.stem, network=network,
        views=replace(base.views, size=run.views.size),
    )  # fmt: skip


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".lock"
        probe.touch()
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None


def _default_folder(asked: Settings, resume: bool) -> Path:
    """runs/METHOD-DATA, -2, -3 ...: the first that is free; to resume, the last that is not."""
    base = Path("runs") / f"{asked.method}-{_short(asked.data)}"
    names = (base.with_name(f"{base.name}-{n}") if n > 1 else base for n in itertools.count(1))
    taken = list(itertools.takewhile(lambda folder: (folder / SETTINGS).exists(), names))
    if resume and taken:
        return taken[-1]
    return base.with_name(f"{base.name}-{len(taken) + 1}") if taken else base


def _short(data: str) -> str:
    """The last part of a path, without its ending, in plain letters."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(data).stem or "images").strip("-") or "images"
