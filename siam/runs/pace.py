"""Keep a run's promise to end on time: adapt the number of steps to their measured speed."""

from collections import deque

from siam.processes.agree import on_rank_zero
from siam.runs.clock import Clock
from siam.runs.decisions import Decisions
from siam.runs.logger import Logger
from siam.settings.schedule import Schedule

_WINDOW = 0.1  # of the promised time: how far back the speed is measured
_MIN_WINDOW = 5.0  # seconds
_MIN_CHANGE = 0.02  # of the remaining steps
_SHORTER = 0.9  # of the steps planned so far: a run that has to be shorter than this says so
_REPORT = 2.0  # seconds to write the report at the end


class Pace:
    """Adapts a schedule so that the run ends after `seconds` of training time.

    A step costs the training time of the recent steps, plus its share of the pauses (measurements and saves)
    so far. One more measurement and the report follow the last step.
    """

    def __init__(
        self, seconds: float, schedule: Schedule, clock: Clock, decisions: Decisions, step: int
    ) -> None:
        self.seconds, self.schedule, self.clock, self.first_step = seconds, schedule, clock, step
        self.decisions, self.began = decisions, clock.seconds()
        self.samples = deque([(step, self.clock.working_seconds())])
        self.told = schedule.total_steps

    def keep(self, step: int, log: Logger) -> None:
        """Change the schedule's length if the run would not end on time, and log the change.

        step: steps completed, fewer than the schedule's total. All ranks must call this.
        """
        total_steps = on_rank_zero(lambda: self.steps_in_time(step))
        planned = self.schedule.total_steps
        if abs(total_steps - planned) <= max(1, _MIN_CHANGE * (planned - step)):
            return
        self.schedule.end_at(step, total_steps)
        log.total_steps = total_steps
        log.log("schedule", step=step, total_steps=total_steps)
        if total_steps < _SHORTER * self.told:
            log.print(
                f"steps are slower than planned: {total_steps:,} instead of {self.told:,}, to end on time"
            )
            self.told = total_steps

    def steps_in_time(self, step: int) -> int:
        """Return how many steps, in total, the run can complete on time."""
        if self.decisions.repeating("schedule", step):
            made = self.decisions.made("schedule", step)
            return int(made["total_steps"]) if made else self.schedule.total_steps
        now = self.clock.working_seconds()
        self.samples.append((step, now))
        window = max(_MIN_WINDOW, _WINDOW * self.seconds)
        while len(self.samples) > 2 and now - self.samples[1][1] > window:
            self.samples.popleft()
        since, then = self.samples[0]
        if self.clock.seconds() - self.began < min(_MIN_WINDOW, _WINDOW * self.seconds):
            return self.schedule.total_steps  # too early to tell
        step_seconds = (now - then) / (step - since)
        pause_seconds = self.clock.pauses / (step - self.first_step)
        left = self.seconds - self.clock.seconds() - self.clock.last_pause - _REPORT
        return step + max(1, int(left / (step_seconds + pause_seconds)))
