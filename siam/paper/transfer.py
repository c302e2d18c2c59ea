"""`siam reproduce transfer`: detectors from scratch and from runs, several seeds, beside Table 5."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from siam.errors import SettingsError
from siam.runs.folder import METRICS, open_run
from siam.system.environment import environment
from siam.system.files import write_atomically
from siam.transfer.published import COLUMNS, TABLE5, column, row_of
from siam.transfer.result import Outcome
from siam.transfer.settings import TransferSettings
from siam.transfer.start import transfer

_FIELDS = ("ap50", "ap", "ap75")
"""As Table 5 orders them."""


@dataclass(frozen=True)
class Line:
    """What was measured from one beginning."""

    name: str
    published: str | None
    """Its row in Table 5."""
    init: str
    outcomes: list[Outcome]
    """One for each seed; fewer while the study goes on."""

    def mean(self, kind: str, name: str) -> tuple[float, float] | None:
        """Mean and standard deviation (0 for one seed) of a figure of boxes or masks."""
        found = [getattr(outcome.kinds()[kind], name) for outcome in self.outcomes]
        values = [value for value in found if value is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def reproduce_transfer(
    data: str,
    runs: Sequence[str],
    task: str,
    change: Callable[[TransferSettings], TransferSettings],
    recipe: str | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Path:
    """Transfer from scratch, in the shape of the first run, and from every run; write table.md, table.json.

    change: applies the user's own settings to the recipe. What has ended is not run again, and what was
    interrupted goes on. Returns the folder. Raises SiamError.
    """
    console = console or Console(stderr=True)
    if not runs:
        raise SettingsError(
            "transfer needs runs to compare: siam reproduce transfer DATA --runs RUN [RUN ...]"
        )
    if seeds < 1:
        raise SettingsError(f"seeds must be at least 1, got {seeds}")
    folder = Path(out) if out is not None else Path("runs") / "reproduce" / f"transfer-{task}"
    lines = [Line("none (scratch)", "scratch", "random", [])]
    lines += [Line(Path(run).resolve().name, _published(run), run, []) for run in runs]
    todo = [(seed, line) for seed in range(seeds) for line in lines]
    for at, (seed, line) in enumerate(todo, start=1):
        console.print(f"[bold]{at} of {len(todo)}[/]  {task}: {line.name}, seed {seed}", highlight=False)
        run = line.init if line.init != "random" else runs[0]
        init = line.init if line.init == "random" else ""

        def with_seed(base: TransferSettings, seed: int = seed, init: str = init) -> TransferSettings:
            return replace(change(base), seed=seed, init=init)

        where = folder / f"{_file_name(line.name)}-seed{seed}"
        line.outcomes.append(
            transfer(run, data, task, with_seed, recipe, where, resume=True, console=console)
        )
        _write(folder, data, task, lines)
    return folder


def _published(run: str) -> str | None:
    """The row of Table 5 for a run's method; for weights trained with labels, the supervised one."""
    opened = open_run(run)
    first = opened.metrics()[:1] if (opened.folder / METRICS).exists() else []
    if first and first[0].get("layout") == "torchvision or timm":
        return "ImageNet supervised"
    return row_of(opened.settings.method.name)


def _file_name(row: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in row.lower()).strip("-")


def _write(folder: Path, data: str, task: str, lines: list[Line]) -> None:
    """The table as far as it goes, as Markdown and JSON."""
    where = environment()
    plain = {
        "table": "transfer",
        "source": "SimSiam (Chen & He 2021, arXiv 2011.10566), Table 5",
        "data": data,
        "task": task,
        **where,
        "rows": [
            {"name": line.name, "published": line.published, "seeds": [asdict(o) for o in line.outcomes]}
            for line in lines
        ],
    }
    for name, text in (
        ("table.json", json.dumps(plain, indent=1) + "\n"),
        ("table.md", markdown(data, lines, where)),
    ):
        write_atomically(folder / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def markdown(data: str, lines: list[Line], where: dict[str, Any]) -> str:
    """AP50 / AP / AP75 in %, measured beside published."""
    first = next(line.outcomes[0] for line in lines if line.outcomes)
    page = ["# Transfer (Table 5)", ""]
    for kind in first.kinds():
        place = column(first.layout, first.years, kind == "masks")
        page += [
            f"| {kind} | AP50 | AP | AP75 | published: {COLUMNS[place]}, AP50 / AP / AP75 |",
            "| --- | --- | --- | --- | --- |",
        ]
        for line in lines:
            triple = None if line.published is None else TABLE5[line.published][place]
            printed = "-" if triple is None else " / ".join(f"{value:.1f}" for value in triple)
            cells = [line.name, *(_plus_minus(line.mean(kind, name)) for name in _FIELDS), printed]
            page.append("| " + " | ".join(cells) + " |")
        page.append("")
    seeds = max(len(line.outcomes) for line in lines)
    return "\n".join(
        [
            *page,
            f"Measured: {data}, {first.train_images:,} photographs to train on, "
            f"{first.test_images:,} to test, {first.iterations:,} steps, seeds: {seeds} "
            f"(mean ± standard deviation); {where['machine']}, "
            f"{where['date']}, torch {where['torch']}.",
            "Published: SimSiam (Chen & He 2021, arXiv 2011.10566), ResNet-50-C4, 200 epochs on ImageNet, "
            "whole sets: compare the order of the rows, not the figures.",
            "",
        ]
    )


def _plus_minus(value: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    mean, deviation = value
    return f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if deviation > 0 else "")
