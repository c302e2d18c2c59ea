"""Finished runs, which have nothing left to resume."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from siam.data.fingerprint import fingerprint
from siam.data.images import ImageSets
from siam.errors import RunError
from siam.runs.bars import print_line
from siam.runs.folder import CHECKPOINT, open_run, read_records
from siam.runs.job import require_images_of, train_on
from siam.runs.tensors import load_checkpoint
from siam.system.files import same_place
from siam.train.pretrain import Outcome

Opener = Callable[[str], ImageSets]
"""A cached `open_images`, because listing a million files takes seconds."""


def finished(folder: Path, data: str, open_images: Opener, console: Console) -> Outcome | None:
    """Return the outcome of a finished run, and print that it is complete; None if it is not finished.

    data: the images given now, which are opened only if they are at another place. Raises RunError if they
    are other images.
    """
    records = read_records(folder)
    if not records or records[-1]["kind"] != "end" or not (folder / CHECKPOINT).exists():
        return None
    try:
        load_checkpoint(folder / CHECKPOINT)
    except RunError:  # training resumes from the previous checkpoint, if there is one, and replaces this one
        return None
    if not same_place(data, open_run(folder).settings.data):
        require_images_of(folder, lambda: fingerprint(open_images(data)), train_on(folder))
    values = {name: value for name, value in records[-1].items() if name != "kind"}
    known = {f.name: values.pop(f.name) for f in fields(Outcome) if f.name in values}
    outcome = Outcome(run=str(folder), metrics=values, **known)
    print_line(
        console,
        f"{folder} is complete: {outcome.epochs:g} epoch{'' if outcome.epochs == 1 else 's'}, "
        f"{outcome.steps:,} steps; to train further, "
        f"{train_on(folder)}",
    )
    return outcome
