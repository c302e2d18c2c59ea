"""When a run is saved, what asks it to stop, and what happens when the disk refuses."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from siam.errors import RunError, SiamError
from siam.processes.gather import rank
from siam.processes.launch import orphaned
from siam.settings.pretraining import CheckpointSettings

RESUME_ME = 75
"""Exit status of a run that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunStopped(SiamError):
    """A run that was asked to stop, has saved, and can go on."""

    exit_status = RESUME_ME


class StopRequest:
    """`with StopRequest() as stop`: SIGTERM and SIGINT set `stop.asked`; a second one ends the process.

    Job managers signal a whole tree of processes, in which each parent passes the signal on: what comes
    within two seconds of the first is its echo. Python allows handlers in the main thread alone; elsewhere
    signals do what they did before.
    """

    ECHO = 2.0

    def __init__(self) -> None:
        self.by: str | None = None
        self.since = 0.0
        self.before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Also when the process that started this one is gone."""
        if self.by is None and orphaned():
            self.by = "the end of its parent"
        return self.by is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.by is None:
            self.by, self.since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self.since > self.ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Saver:
    """Saves when steps or time say so; a disk that is full is tried again, and ends the run in the end.

    tell: takes a line for the user.
    """

    ATTEMPTS = 5
    """Failures in a row that end a run."""
    WAIT = 60.0
    """Seconds until a failed save is tried again, where none is due before."""

    def __init__(self, settings: CheckpointSettings, step: int, tell: Callable[[str], None]) -> None:
        self.settings, self.tell = settings, tell
        self.last_step: int | None = step if step else None
        self.failures = 0
        self.due_at = time.monotonic() + settings.seconds

    def by_step(self, step: int) -> bool:
        """Whether a save is due at this step, in every process alike."""
        return self.settings.steps > 0 and step % self.settings.steps == 0

    def by_time(self) -> bool:
        """Whether one is due by the clock of the first process."""
        return rank() == 0 and time.monotonic() >= self.due_at

    def save(self, step: int, write: Callable[[], None], last_chance: bool = False) -> None:
        """Call `write`; when it raises OSError, say so and let the run go on.

        last_chance: there is no later save, so it is tried again here. Raises RunError in the end.
        """
        while True:
            try:
                write()
            except OSError as error:
                self.failures += 1
                reason = error.strerror or str(error)
                where = f" ({error.filename})" if error.filename else ""
                if self.failures >= self.ATTEMPTS:
                    raise RunError(
                        f"step {step} cannot be saved: {reason}{where}, after {self.failures} attempts; "
                        f"{self._kept()}; make room and go on with --resume"
                    ) from None
                self.tell(f"step {step} cannot be saved: {reason}{where}; {self._kept()}; it is tried again")
                self.due_at = time.monotonic() + min(self.WAIT, self.settings.seconds)
                if not last_chance:
                    return
                time.sleep(1)
            else:
                self.failures, self.last_step = 0, step
                self.due_at = time.monotonic() + self.settings.seconds
                return

    def _kept(self) -> str:
        return "nothing was saved yet" if self.last_step is None else f"step {self.last_step} is kept"
