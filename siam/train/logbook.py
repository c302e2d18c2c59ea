"""What a run tells: a bar and a line per epoch for people, metrics.jsonl and TensorBoard for programs."""

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

from siam.runs import METRICS


class Logbook:
    """Open it at `position`, the length of metrics.jsonl in bytes up to which its records count.

    A run that is resumed from an earlier checkpoint so forgets what was written after that checkpoint, and
    writes it again.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, position: int, console: Console) -> None:
        file = folder / METRICS
        file.touch()
        os.truncate(file, position)
        self.file = file.open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.progress.add_task("pretrain", total=total_steps, completed=step, state="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.file.close()
        self.board.close()

    def position(self) -> int:
        """Bytes in metrics.jsonl, safely on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def record(self, kind: str, **values: Any) -> None:
        """Add one record: a line of metrics.jsonl, and points in TensorBoard."""
        self.file.write(json.dumps({"kind": kind, **values}) + "\n")
        self.file.flush()
        if "step" in values:
            for name, value in values.items():
                if isinstance(value, float) and math.isfinite(value):
                    self.board.add_scalar(f"{kind}/{name}", value, values["step"])

    def advance(self, step: int, loss: float, std: float, knn: float | None, rate: float) -> None:
        """Move the bar to `step`."""
        state = f"loss {loss:.3f}  std {std:.2f}  kNN {percent(knn)}  {rate:.0f} pairs/s"
        self.progress.update(self.task, completed=step, state=state)

    def say(self, line: str) -> None:
        """A line for people, above the bar."""
        self.console.print(line, highlight=False)


def percent(fraction: float | None) -> str:
    """0.4213 -> '42.1 %'; '-' where there is nothing to say."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
