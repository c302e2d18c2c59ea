"""Training time and speed."""

import time


class Clock:
    """Seconds of training, over all processes that worked on a run, and the rate since it was last asked."""

    def __init__(self, before: float, step: int) -> None:
        self.started = time.monotonic() - before
        self.asked = time.monotonic()
        self.step = step

    def seconds(self) -> float:
        """Return the seconds of training so far."""
        return time.monotonic() - self.started

    def rate(self, step: int, batch_size: int) -> float:
        """Return images per second since the last call."""
        now = time.monotonic()
        rate = (step - self.step) * batch_size / max(now - self.asked, 1e-9)
        self.asked, self.step = now, step
        return rate

    def skip(self) -> None:
        """Leave the time since the last call out of the rate."""
        self.asked = time.monotonic()
