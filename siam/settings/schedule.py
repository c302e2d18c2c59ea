"""A run's length in steps, and how far each step is along the learning-rate and momentum schedules."""

from dataclasses import dataclass, field


@dataclass
class Schedule:
    """Maps steps to epochs of the schedule, from 0 at the first step to `epochs` at the last.

    The schedule follows the passes over the images unless the run's length changes. From that step on, the
    rest of the schedule is stretched or compressed over the steps that remain.
    """

    steps_per_epoch: int
    epochs: float
    """Planned length, in passes over the images."""
    changes: list[tuple[int, float, int]] = field(default_factory=list)
    """Changes of the length: (step, scheduled epoch at that step, new number of steps)."""

    @property
    def total_steps(self) -> int:
        """Number of steps in the run."""
        return self.changes[-1][2] if self.changes else self._planned_steps

    @property
    def _planned_steps(self) -> int:
        return max(1, round(self.epochs * self.steps_per_epoch))

    @property
    def passes(self) -> float:
        """Number of passes over the images in the whole run."""
        return self.total_steps / self.steps_per_epoch

    def epoch(self, step: int) -> float:
        """Return the scheduled epoch, fractional, after `step` steps."""
        if not self.changes:
            return step / self.steps_per_epoch
        start, epoch, total = self.changes[-1]
        return epoch + (self.epochs - epoch) * (step - start) / max(total - start, 1)

    def progress(self, step: int) -> float:
        """Return the fraction of the schedule completed after `step` steps, from 0 to 1."""
        return self.epoch(step) / self.epochs if self.changes else step / self._planned_steps

    def end_at(self, step: int, total_steps: int) -> None:
        """Change the run's length after `step` steps; `total_steps` is above `step`."""
        self.changes.append((step, self.epoch(step), total_steps))
