"""Extract series to plot from the records in metrics.jsonl."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.settings.pretraining import Settings

Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y values, each (n,)."""


@dataclass(frozen=True)
class Records:
    """The records in one metrics.jsonl file, in order."""

    records: list[dict[str, Any]]

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps per epoch; None until the first epoch ends, or if training has no epochs."""
        epochs = [r for r in self.records if r["kind"] == "epoch"]
        return epochs[-1]["step"] / (epochs[-1]["epoch"] + 1) if epochs else None

    @property
    def end(self) -> float:
        """The largest x coordinate of any record, in epochs, or in steps if no epoch has ended."""
        last = max((r["step"] for r in self.records if "step" in r), default=0)
        return float(last / (self.steps_per_epoch or 1))

    def latest(self) -> dict[str, Any]:
        """Return the last value, other than None, logged under each name."""
        return {name: value for r in self.records for name, value in r.items() if value is not None}

    def series(self, kind: str, name: str, before: float = 0.0) -> Series:
        """Return the x coordinates and values logged under `name`; non-finite values become NaN.

        x is in epochs, or in steps if no epoch has ended. kind: `step` or `epoch`. before: offset to subtract
        from x; 0.5 places an epoch's mean at the middle of the epoch.
        """
        found = [(r["step"], r[name]) for r in self.records if r["kind"] == kind and r.get(name) is not None]
        steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return steps / (self.steps_per_epoch or 1.0) - before, np.where(np.isfinite(values), values, np.nan)

    def has(self, name: str) -> bool:
        """Return whether any value was logged under `name` during training."""
        return any(r["kind"] in ("step", "epoch") and r.get(name) is not None for r in self.records)


@dataclass(frozen=True)
class History(Records):
    """A pretraining run's records and settings."""

    settings: Settings
