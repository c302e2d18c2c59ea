"""Log a run to the console (progress bar and messages), metrics.jsonl and TensorBoard."""

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

from siam.runs.bars import Bars
from siam.runs.folder import BOARD, METRICS
from siam.system.files import writing


class Logger:
    """Logs a run to the console, metrics.jsonl and TensorBoard.

    step: steps completed at the last checkpoint. position: size of metrics.jsonl at that time, in bytes.
    Records written after the checkpoint are discarded, because a resumed run repeats those steps.
    While the disk is full, records are buffered in memory and are lost only if the process ends.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, position: int, console: Console) -> None:
        file = folder / METRICS
        self.bars, self.total_steps = Bars(console), total_steps
        with writing(folder / METRICS, "; free some space, or choose another --out"):
            if not _cut(file, position):
                self.print(f"{file} has lost records: the curves show those that are left")
            self.file = file.open("ab", buffering=0)
        self.waiting = b""  # records not yet written to the file
        self.board = None
        try:
            self.board = _tensorboard(folder, step)
        except (OSError, RuntimeError) as error:  # RuntimeError: the limit of threads, of which it needs one
            self._without_board(error)
        self.progress(step)

    def __enter__(self) -> Self:
        self.bars.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.progress.stop()
        with contextlib.suppress(OSError):
            self._write()
        if self.waiting:
            lost = self.waiting.count(b"\n")
            self.print(f"the last {lost} records could not be written to {self.file.name}: the disk is full")
        self.file.close()
        if self.board is not None:
            with contextlib.suppress(OSError):
                self.board.close()

    def position(self) -> int:
        """Flush metrics.jsonl to disk and return its size in bytes. Raises OSError."""
        self._write()
        if self.waiting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file.name)
        os.fsync(self.file.fileno())
        return self.file.tell()

    def _write(self) -> None:
        while self.waiting:
            self.waiting = self.waiting[self.file.write(self.waiting) :]

    def log(self, kind: str, **values: Any) -> None:
        """Append a record to metrics.jsonl and, if it has a step, add its finite floats to TensorBoard."""
        self.waiting += json.dumps({"kind": kind, **values}).encode() + b"\n"
        with contextlib.suppress(OSError):  # the next save reports the error
            self._write()
        if "step" in values and self.board is not None:
            try:
                for name, value in values.items():
                    if isinstance(value, float) and math.isfinite(value):
                        self.board.add_scalar(f"{kind}/{name}", value, values["step"])
            except OSError as error:
                self._without_board(error)

    def _without_board(self, error: OSError | RuntimeError) -> None:
        self.board = None
        reason = error.strerror if isinstance(error, OSError) else error
        self.print(f"cannot write TensorBoard events ({reason}): continuing without them")

    def progress(self, step: int, facts: Sequence[str] | None = None) -> None:
        """Advance the bar to `step`. facts: texts to show after the bar; None keeps the current texts."""
        self.bars.update("", step, self.total_steps, facts)

    def print(self, line: str, markup: bool = False) -> None:
        """Print a line above the bar. markup: interpret rich markup; keep False for text with paths."""
        self.bars.print(line, markup)


class NullLogger(Logger):
    """No-op logger for ranks other than 0."""

    def __init__(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def position(self) -> int:
        return 0

    def log(self, kind: str, **values: Any) -> None:
        """Do nothing."""

    def progress(self, step: int, facts: Sequence[str] | None = None) -> None:
        """Do nothing."""

    def print(self, line: str, markup: bool = False) -> None:
        """Do nothing."""


def _cut(file: Path, position: int) -> bool:
    """Cut metrics.jsonl at `position`, and an incomplete line off its end; return False if it was shorter."""
    file.touch()
    with file.open("r+b") as opened:
        contents = opened.read(position)
        opened.truncate(len(contents) if contents.endswith(b"\n") else contents.rfind(b"\n") + 1)
    return len(contents) == position


def _tensorboard(folder: Path, step: int) -> Any:
    """Return a SummaryWriter that purges events from `step` on, or None if tensorboard cannot be used."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder / BOARD), purge_step=step)
    except UnicodeEncodeError:  # it cannot open files in folders whose names are not UTF-8
        return None
