"""Decisions that depend on the clock: logged when they take effect, and repeated by a resumed run."""

from collections.abc import Iterable
from typing import Any

KINDS = ("schedule", "threads")


class Decisions:
    """The decisions in the log that a resumed run must repeat, because it repeats their steps.

    records: the records of metrics.jsonl. step: steps completed at the last checkpoint.
    """

    def __init__(self, records: Iterable[dict[str, Any]], step: int) -> None:
        self.later = [r for r in records if r.get("kind") in KINDS and r.get("step", 0) > step]

    def repeating(self, kind: str, step: int) -> bool:
        """Return True up to the step of the last decision of this kind."""
        return any(r["kind"] == kind and r["step"] >= step for r in self.later)

    def made(self, kind: str, step: int) -> dict[str, Any] | None:
        """Return the decision of this kind that was made after `step` steps, if any."""
        return next((r for r in self.later if r["kind"] == kind and r["step"] == step), None)
