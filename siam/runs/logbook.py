"""What a run tells: a bar and a line per epoch for people, metrics.jsonl and TensorBoard for programs."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from siam.runs.bars import Bars
from siam.runs.folder import METRICS


class Logbook:
    """Open it at `position`, the length of metrics.jsonl in bytes up to which its records count.

    A run that is resumed from an earlier checkpoint so forgets what was written after that checkpoint, and
    writes it again. A disk that is full makes records wait; they are not lost while the process lives.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, position: int, console: Console) -> None:
        file = folder / METRICS
        file.touch()
        os.truncate(file, position)
        self.file = file.open("ab", buffering=0)
        self.waiting = b""  # records that are not in the file yet
        self.board: SummaryWriter | None = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self.bars, self.total_steps = Bars(console), total_steps
        self.advance(step)

    def __enter__(self) -> Self:
        self.bars.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.progress.stop()
        self.file.close()
        if self.board is not None:
            with contextlib.suppress(OSError):
                self.board.close()

    def position(self) -> int:
        """Bytes in metrics.jsonl, safely on disk. Raises OSError where it cannot be written."""
        self._write()
        if self.waiting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file.name)
        os.fsync(self.file.fileno())
        return self.file.tell()

    def _write(self) -> None:
        while self.waiting:
            self.waiting = self.waiting[self.file.write(self.waiting) :]

    def record(self, kind: str, **values: Any) -> None:
        """Add one record: a line of metrics.jsonl, and points in TensorBoard."""
        self.waiting += json.dumps({"kind": kind, **values}).encode() + b"\n"
        with contextlib.suppress(OSError):  # saving will say so
            self._write()
        if "step" in values and self.board is not None:
            try:
                for name, value in values.items():
                    if isinstance(value, float) and math.isfinite(value):
                        self.board.add_scalar(f"{kind}/{name}", value, values["step"])
            except OSError as error:
                self.board = None
                self.say(
                    f"TensorBoard's events cannot be written ({error.strerror}): from here on there are none"
                )

    def advance(self, step: int, facts: Sequence[str] | None = None) -> None:
        """Move the bar to `step`. facts: some words each, the most telling first; None: as they were."""
        self.bars.update("", step, self.total_steps, facts)

    def say(self, line: str) -> None:
        """A line for people, above the bar."""
        self.bars.say(line, markup=True)


class NoLogbook(Logbook):
    """For the processes of a run that tell nothing, because the first one does."""

    def __init__(self) -> None:
        """Nothing is opened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""

    def position(self) -> int:
        return 0

    def record(self, kind: str, **values: Any) -> None:
        """Not here."""

    def advance(self, step: int, facts: Sequence[str] | None = None) -> None:
        """Not here."""

    def say(self, line: str) -> None:
        """Not here."""


def percent(fraction: float | None) -> str:
    """0.4213 -> '42.1 %'; '-' where there is nothing to say."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
