"""The records of a run's metrics.jsonl, as series."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.settings.pretraining import Settings

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class History:
    """The records of a metrics.jsonl, and what is needed to draw them."""

    records: list[dict[str, Any]]
    settings: Settings

    @property
    def steps_per_epoch(self) -> float | None:
        """None before the first epoch has ended."""
        epochs = [r for r in self.records if r["kind"] == "epoch"]
        return epochs[-1]["step"] / (epochs[-1]["epoch"] + 1) if epochs else None

    @property
    def end(self) -> float:
        """x of the last record."""
        last = max((r["step"] for r in self.records if "step" in r), default=0)
        return float(last / (self.steps_per_epoch or 1))

    def latest(self) -> dict[str, Any]:
        """The last known value of everything that was recorded."""
        return {name: value for r in self.records for name, value in r.items() if value is not None}

    def series(self, kind: str, name: str, before: float = 0.0) -> Series:
        """x, in epochs (in steps before the first has ended), and the values; what is not finite is NaN.

        before: epochs by which x lies before the record, 0.5 for the mean of an epoch.
        """
        found = [(r["step"], r[name]) for r in self.records if r["kind"] == kind and r.get(name) is not None]
        steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return steps / (self.steps_per_epoch or 1.0) - before, np.where(np.isfinite(values), values, np.nan)

    def has(self, name: str) -> bool:
        return any(r["kind"] in ("step", "epoch") and r.get(name) is not None for r in self.records)
