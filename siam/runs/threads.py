"""Choose the number of CPU threads while training: the fastest, by trial.

Threads that share a layer wait for each other by spinning. Small layers gain nothing from a second thread,
and beside another busy process a thread that is not running holds up all others: a demo epoch on two cores
took 9.9 s with two threads and 9.7 s with one; beside one busy process, 20.2 s and 8.5 s (26 November 2026).
"""

from typing import Self

import torch

from siam.runs.clock import Clock
from siam.runs.decisions import Decisions
from siam.runs.logger import Logger

_STEPS, _SECONDS = 3, 1.0  # of a trial, at least
_FELL, _ROSE = 0.8, 1.25  # ratio to the rate at the last trial that calls for another trial
_AGAIN = 120.0  # seconds after which to try again, in case the machine has become idle


class Threads:
    """`with Threads(...) as threads:` tries the possible numbers in turn, and keeps the fastest.

    When the rate changes, it tries again. given: the user's number; 0 for trials. before: number in use at
    the last checkpoint; 0 if there is none. The previous number is restored at the end.
    """

    def __init__(self, given: int, before: int, clock: Clock, log: Logger, decisions: Decisions) -> None:
        self.given, self.before = given, before
        self.clock, self.log, self.decisions = clock, log, decisions
        self.most = torch.get_num_threads()
        self.choices = [self.most >> shift for shift in range(self.most.bit_length())]
        self.trials: dict[int, float] = {}
        """Seconds per step by number of threads, in the current round."""
        self.settled_at: float | None = None
        """Training time at which the last round ended; None during a round."""

    def __enter__(self) -> Self:
        torch.set_num_threads(self.given or self.before or self.most)
        self._start_window(0, warm=False)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.most)

    def after_step(self, step: int) -> int:
        """Measure the step, and change the number of threads if that may be faster. Return the number.

        step: steps completed.
        """
        if not self.given and self.most > 1:
            self._consider(step)
        return torch.get_num_threads()

    def _consider(self, step: int) -> None:
        if self.decisions.repeating("threads", step):
            if made := self.decisions.made("threads", step):
                self._set(made["threads"], step)
            return
        if not self.warm:  # the first step with a number of threads prepares its kernels
            self._start_window(step, warm=True)
            return
        now = self.clock.working_seconds()
        if step - self.since < _STEPS or now - self.then < _SECONDS:
            return
        seconds_per_step = (now - self.then) / (step - self.since)
        if self.settled_at is None:
            self._try_next(seconds_per_step, step, now)
            return
        ratio = self.trials[torch.get_num_threads()] / seconds_per_step
        if not _FELL < ratio < _ROSE or now - self.settled_at > _AGAIN:
            self.trials, self.settled_at = {}, None
            self._try_next(seconds_per_step, step, now)
        else:
            self._start_window(step, warm=True)

    def _try_next(self, seconds_per_step: float, step: int, now: float) -> None:
        """Record the trial that has ended, and start the next one or settle on the fastest."""
        self.trials[torch.get_num_threads()] = seconds_per_step
        left = [threads for threads in self.choices if threads not in self.trials]
        if not left:
            self.settled_at = now
        self._set(left[0] if left else min(self.trials, key=lambda n: self.trials[n]), step)

    def _set(self, threads: int, step: int) -> None:
        changed = threads != torch.get_num_threads()
        if changed:
            torch.set_num_threads(threads)
            self.log.log("threads", step=step, threads=threads)
        self._start_window(step, warm=not changed)

    def _start_window(self, step: int, warm: bool) -> None:
        self.since, self.then, self.warm = step, self.clock.working_seconds(), warm
