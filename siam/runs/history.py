"""Records of metrics.jsonl as series to plot."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.settings.pretraining import Settings

Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y, both (n,)"""


@dataclass(frozen=True)
class Records:
    """The records of a metrics.jsonl, in order."""

    records: list[dict[str, Any]]

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps per epoch; None before the first epoch has ended, or in training without epochs."""
        epochs = [r for r in self.records if r["kind"] == "epoch"]
        return epochs[-1]["step"] / (epochs[-1]["epoch"] + 1) if epochs else None

    @property
    def end(self) -> float:
        """x of the last record, in the unit of `series`."""
        last = max((r["step"] for r in self.records if "step" in r), default=0)
        return float(last / (self.steps_per_epoch or 1))

    def latest(self) -> dict[str, Any]:
        """Return the last known value of every name."""
        return {name: value for r in self.records for name, value in r.items() if value is not None}

    def series(self, kind: str, name: str, before: float = 0.0) -> Series:
        """Return x and the values under `name`; values that are not finite become NaN.

        x is in epochs, or in steps if no epoch has ended. before: epochs to subtract from x, such as 0.5 for
        the mean over an epoch.
        """
        found = [(r["step"], r[name]) for r in self.records if r["kind"] == kind and r.get(name) is not None]
        steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return steps / (self.steps_per_epoch or 1.0) - before, np.where(np.isfinite(values), values, np.nan)

    def has(self, name: str) -> bool:
        """Return True if a value under `name` was logged during training."""
        return any(r["kind"] in ("step", "epoch") and r.get(name) is not None for r in self.records)


@dataclass(frozen=True)
class History(Records):
    """The records of a pretraining run, and its settings."""

    settings: Settings
