"""How every benchmark here measures: candidates take turns, several rounds, medians; and where it ran."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from siam.machine import machine


def alternating(candidates: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Median rate of each candidate, in units a second; each call returns how many units it did.

    One uncounted round first. All candidates run in every round, so that a slow minute of the machine
    falls on all of them.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            units = run()
            if turn > 0:
                rates[name].append(units / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def report(
    title: str, unit: str, rates: dict[str, float], baseline: str, out: Path | None, **facts: Any
) -> None:
    """Print rates and their ratio to `baseline`; write the same as JSON to `out`."""
    table = Table(title=title)
    for column in ("", unit, f"ratio to {baseline}"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / rates[baseline]:.2f}")
    Console().print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        ratios = {name: rate / rates[baseline] for name, rate in rates.items()}
        result = {"title": title, "unit": unit, "rates": rates, "ratios": ratios, "baseline": baseline}
        out.write_text(json.dumps({**result, **facts, **machine()}, indent=1) + "\n")
