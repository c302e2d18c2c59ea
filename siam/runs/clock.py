"""Measure training time and throughput."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures a run's training time across restarts, and its throughput between calls to `rate`.

    seconds: training time before this start. step: steps completed before this start.
    """

    def __init__(self, seconds: float, step: int) -> None:
        self.started = time.monotonic() - seconds
        self.last_call = time.monotonic()
        self.step = step
        self.pauses = 0.0
        """Total length of the pauses since this start, in seconds."""
        self.last_pause = 0.0
        """Length of the latest pause, in seconds."""

    def seconds(self) -> float:
        """Return the total training time, in seconds."""
        return time.monotonic() - self.started

    def working_seconds(self) -> float:
        """Return the total training time without the pauses since this start, in seconds."""
        return self.seconds() - self.pauses

    def rate(self, step: int, batch_size: int) -> float:
        """Return the throughput since the last call, in images per second."""
        now = time.monotonic()
        rate = (step - self.step) * batch_size / max(now - self.last_call, 1e-9)
        self.last_call, self.step = now, step
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in the `with` block from the throughput."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.last_pause = time.monotonic() - start
            self.last_call += self.last_pause
            self.pauses += self.last_pause
