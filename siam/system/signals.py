"""Signals that ask a process to stop: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal is gone)."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

DUPLICATE = 2.0
"""Seconds after a signal during which another counts as its duplicate.

Job managers signal the whole process tree, and each parent forwards the signal to its children."""

_STUCK = 10.0  # seconds that C code may run after a signal before the process is ended

Handler = Any


class Stopped(KeyboardInterrupt):
    """A signal arrived; not an Exception, so that nothing takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_status = 128 + number


def stop_signals() -> list[signal.Signals]:
    """Return the signals to handle: all that exist here, except SIGHUP if nohup ignores it."""
    found = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Install a handler of the stop signals for the duration of the block.

    A no-op outside the main thread, where Python does not allow signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Keep stop signals until the end of the block, which must be short."""
    arrived: list[int] = []
    with handling(lambda number, frame: arrived.append(number)):
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise Stopped when a stop signal arrives in this block, so that half-written files are removed.

    A second signal ends the process at once, as does the first if C code does not return within 10 s.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in stop_signals():
            signal.signal(each, signal.SIG_DFL)
        leave_lost_terminal()
        raise Stopped(number)

    with handling(stop), _ending_if_stuck(stop):
        yield


@contextmanager
def _ending_if_stuck(handler: Handler) -> Iterator[None]:
    """End the process if `handler` is due, but the main thread does not return from C code to call it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            done.wait(_STUCK)
            if not done.is_set() and signal.getsignal(number[0]) is handler:
                os._exit(128 + number[0])
        os.close(reader)

    done = threading.Event()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    with contextlib.suppress(RuntimeError):  # the limit of threads: the process ends with its C code
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(previous)
        os.close(writer)


def leave_lost_terminal() -> None:
    """Discard output to a terminal that is gone: printing would fail, and end a run before it is saved."""
    try:
        import termios
    except ImportError:  # Windows
        return
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == 5:  # EIO; a file or a pipe is ENOTTY
                with contextlib.suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        except OSError:
            continue
