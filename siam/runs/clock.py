"""Training time and throughput."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """A run's training time across restarts, and its throughput since the last call to `rate`."""

    def __init__(self, seconds: float, step: int) -> None:
        """seconds, step: training time and steps so far."""
        self.started = time.monotonic() - seconds
        self.last_call = time.monotonic()
        self.step = step

    def seconds(self) -> float:
        """Return the training time so far, in seconds."""
        return time.monotonic() - self.started

    def rate(self, step: int, batch_size: int) -> float:
        """Return images per second since the last call."""
        now = time.monotonic()
        rate = (step - self.step) * batch_size / max(now - self.last_call, 1e-9)
        self.last_call, self.step = now, step
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in the `with` block from the rate."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.last_call += time.monotonic() - start
