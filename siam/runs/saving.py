"""Decide when to save or stop a run: save intervals, stop signals, and retries when the disk is full."""

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
"""Exit status of a run that stopped on request and can be resumed: EX_TEMPFAIL in sysexits.h."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunStopped(SiamError):
    """The run stopped on request after saving; it can be resumed."""

    exit_status = RESUME_ME


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag: `with StopRequest() as stop: ... if stop.requested`.

    A second signal kills the process. Job managers signal the whole process tree, and each parent forwards
    the signal to its children, so a signal within two seconds of the first is ignored as a duplicate. Python
    allows signal handlers only in the main thread, so other threads install none.
    """

    DUPLICATE = 2.0
    """Seconds after the first signal during which another signal counts as a duplicate."""

    def __init__(self) -> None:
        self.signaled_at: float | None = None
        self.previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """True once a signal has arrived or the parent process has exited."""
        return self.signaled_at is not None or orphaned()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signaled_at is None:
            self.signaled_at = time.monotonic()
        elif time.monotonic() - self.signaled_at > self.DUPLICATE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def release(self) -> None:
        """Restore the previous signal handlers; later signals do not set `requested`."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Saver:
    """Schedules saves by step count and time, and retries failed saves, up to ATTEMPTS attempts in a row.

    warn: called with each warning message.
    """

    ATTEMPTS = 5
    """Number of consecutive failed saves after which the run fails."""
    WAIT = 60.0
    """Seconds until a failed save is retried, unless another save is due sooner."""

    def __init__(self, settings: CheckpointSettings, step: int, warn: Callable[[str], None]) -> None:
        self.settings, self.warn = settings, warn
        self.last_step: int | None = step if step else None
        self.failures = 0
        self.due_at = time.monotonic() + settings.seconds

    def is_due(self, step: int) -> bool:
        """Return whether `checkpoint.every` schedules a save at this step; the same on all ranks."""
        return self.settings.steps > 0 and step % self.settings.steps == 0

    def time_is_up(self) -> bool:
        """Return whether the time-based save interval has elapsed; always False on ranks other than 0."""
        return rank() == 0 and time.monotonic() >= self.due_at

    def save(self, step: int, write: Callable[[], None], last_chance: bool = False) -> None:
        """Call `write`; if it raises OSError, warn and let the run continue.

        last_chance: True if this is the final save, so a failed save is retried immediately. Raises RunError
        after the last attempt.
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
                        f"step {step} could not be saved in {self.failures} attempts: {reason}{where}; "
                        f"{self._kept()}; free some space and continue with --resume"
                    ) from None
                self.warn(f"step {step} could not be saved: {reason}{where}; {self._kept()}; retrying")
                self.due_at = time.monotonic() + min(self.WAIT, self.settings.seconds)
                if not last_chance:
                    return
                time.sleep(1)
            else:
                self.failures, self.last_step = 0, step
                self.due_at = time.monotonic() + self.settings.seconds
                return

    def _kept(self) -> str:
        if self.last_step is None:
            return "nothing has been saved yet"
        return f"the checkpoint of step {self.last_step} is kept"
