"""find what learns most in a few minutes: methods, networks and rates at equal time"""

import sys
from dataclasses import dataclass
from typing import Any

from siam.cli.flags import CandidateOverrides
from siam.cli.output import markdown_file
from siam.system.names import shown


@dataclass(frozen=True, kw_only=True)
class ReproduceBudget:
    """Train many candidates for a short budget, and the best third of them for the next (successive halving).

    Candidates are ranked by kNN accuracy if the images have labels, otherwise by view retrieval. Budgets
    count the CPU time of a single thread. The table shows what to change in the rules of `siam plan`.
    """

    budgets: tuple[str, ...] = ("3m", "10m", "30m")
    """CPU time of each run, for each round."""
    seeds: int = 1
    """Number of runs per candidate, with seeds 0, 1, ..."""
    out: str | None = None
    """Output folder; if omitted, runs/reproduce/budget-DATA. Resumes if unfinished."""
    settings: CandidateOverrides


def main(options: ReproduceBudget) -> dict[str, Any]:
    from siam.paper.budget import reproduce_budget
    from siam.paper.cells import load_table

    folder = reproduce_budget(options.settings, options.budgets, options.seeds, options.out)
    return {"out": str(folder), **load_table(folder)}


def render(result: dict[str, Any]) -> list[Any]:
    return [markdown_file(f"{result['out']}/table.md")]


def after(options: ReproduceBudget, result: dict[str, Any]) -> None:
    print(f"see {shown(result['out'])}/table.md", file=sys.stderr)
