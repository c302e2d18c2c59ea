"""Decide when to save or stop a run: save intervals, stop signals, and retries when the disk is full."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Self, TypeVar

from siam.errors import RunError, SiamError
from siam.processes.gather import rank
from siam.processes.launch import orphaned
from siam.settings.pretraining import CheckpointSettings
from siam.system.signals import DUPLICATE, handling, leave_lost_terminal

T = TypeVar("T")

RESUME_ME = 75
"""Exit status of a run that stopped on request and can be resumed: EX_TEMPFAIL in sysexits.h."""


class RunStopped(SiamError):
    """The run stopped on request after saving; it can be resumed."""

    exit_status = RESUME_ME


class GaveUpWaiting(BaseException):
    """A stop was requested, and the images that the next step needs, or a measurement, took too long."""


class StopRequest:
    """Turns stop signals into a flag: `with StopRequest() as stop: ... if stop.requested`.

    A second signal, at least two seconds after the first, kills the process. Python allows signal handlers
    only in the main thread, so other threads install none.
    """

    LIMIT = 5.0
    """Seconds that a requested stop waits for images or for a measurement."""

    def __init__(self) -> None:
        self.signaled_at: float | None = None
        self._number = 0
        self._waiting = self._give_up = False
        self._held = ExitStack()

    @property
    def requested(self) -> bool:
        """True once a signal has arrived or the parent process has exited."""
        return self.signaled_at is not None or orphaned()

    def __enter__(self) -> Self:
        self._held.enter_context(handling(self._handle))
        return self

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Raise GaveUpWaiting if the block is still running 5 s after a stop was requested.

        If it was requested before, the 5 s begin with the block.
        """
        self._waiting = True
        if self.signaled_at is not None:
            self._end_wait_later()
        try:
            yield
        finally:
            self._waiting = False

    def not_waiting_for(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches; raise GaveUpWaiting if a stop is requested and the next one does not come."""
        while True:
            with self.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _handle(self, number: int, frame: FrameType | None) -> None:
        leave_lost_terminal()
        if self._give_up:  # the signal of _end_wait
            self._give_up = False
            if self._waiting:
                raise GaveUpWaiting
        elif self.signaled_at is None:
            self.signaled_at, self._number = time.monotonic(), number
            self._end_wait_later()
        elif time.monotonic() - self.signaled_at > DUPLICATE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _end_wait_later(self) -> None:
        timer = threading.Timer(self.LIMIT, self._end_wait)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # the limit of threads: the wait ends by itself, if at all
            timer.start()

    def _end_wait(self) -> None:
        if self._waiting and hasattr(signal, "pthread_kill"):
            self._give_up = True
            signal.pthread_kill(
                threading.main_thread().ident or 0, self._number
            )  # wakes a system call that blocks

    def release(self) -> None:
        """Restore the previous signal handlers; later signals do not set `requested`."""
        self._held.close()

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


def attempt(name: str, write: Callable[[], object], warn: Callable[[str], object]) -> None:
    """Call `write`; if the disk is full or a file is corrupt, warn. name: what is written."""
    try:
        write()
    except OSError as error:
        warn(f"{name} could not be written: {error.strerror}")
    except RunError as error:
        warn(f"{name} could not be written: {error}")
