"""Finished runs, which have nothing left to resume."""

from dataclasses import fields
from pathlib import Path

from rich.console import Console

from siam.runs.bars import print_line
from siam.runs.folder import CHECKPOINT, read_records
from siam.runs.job import train_on
from siam.train.pretrain import Outcome


def finished(folder: Path, console: Console) -> Outcome | None:
    """Return the outcome of a finished run, and print that it is complete; None if it is not finished."""
    records = read_records(folder)
    if not records or records[-1]["kind"] != "end" or not (folder / CHECKPOINT).exists():
        return None
    values = {name: value for name, value in records[-1].items() if name != "kind"}
    known = {f.name: values.pop(f.name) for f in fields(Outcome) if f.name in values}
    outcome = Outcome(run=str(folder), metrics=values, **known)
    print_line(
        console,
        f"{folder} is complete: {outcome.epochs} epochs, {outcome.steps:,} steps; to train further, "
        f"{train_on(folder)}",
    )
    return outcome
