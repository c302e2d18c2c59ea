"""Implement `siam reproduce transfer`, which reproduces Table 5 (object detection)."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from siam.errors import SettingsError
from siam.paper.cells import Mean, markdown_row, mean_of, require_table, run_folder, save_table
from siam.report.formats import plus_minus
from siam.report.published import COLUMNS, TABLE5, column, row_of
from siam.runs.bars import print_line
from siam.runs.folder import METRICS, open_run
from siam.runs.results import TransferResult
from siam.settings.overrides import Overrides
from siam.system.environment import environment
from siam.system.names import shown
from siam.transfer.settings import TransferSettings
from siam.transfer.start import transfer

_FIELDS = ("ap50", "ap", "ap75")
"""Names of the AP fields, in the order of Table 5."""


@dataclass(frozen=True)
class Line:
    """A table row: one backbone initialization and its measured results."""

    name: str
    published: str | None
    """Key of the corresponding row in TABLE5, if any."""
    run: str
    """Run that provides the backbone; only its architecture if `init` is `random`."""
    init: str
    """`random` for random weights; empty for the run's weights."""
    outcomes: list[TransferResult]
    """Results of the finished transfer runs, by seed."""

    def mean(self, kind: str, name: str) -> Mean | None:
        """Return the mean and standard deviation of an AP over the seeds.

        kind: boxes or masks. name: ap50, ap or ap75.
        """
        return mean_of(getattr(outcome.kinds()[kind], name) for outcome in self.outcomes)


def reproduce_transfer(
    data: str,
    runs: Sequence[str],
    overrides: Overrides,
    recipe: str | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Path:
    """Train detectors from scratch and from each run with each seed; write the table.

    Detectors trained from scratch have the first run's backbone architecture.
    overrides: user settings, which take precedence over the recipe. Finished transfer
    runs are skipped and interrupted ones are resumed. Returns the output folder. Raises
    SiamError.
    """
    console = console or Console(stderr=True)
    if not runs:
        raise SettingsError("no runs given: use siam reproduce transfer DATA --runs RUN [RUN ...]")
    if seeds < 1:
        raise SettingsError(f"seeds must be at least 1, got {seeds}")
    task = overrides.only("task").over(TransferSettings()).task
    folder = Path(out) if out is not None else Path("runs") / "reproduce" / f"transfer-{task}"
    require_table(folder, "transfer")
    lines = [Line("none (scratch)", "scratch", runs[0], "random", [])]
    names = _distinct([Path(run).resolve().name for run in runs])
    lines += [Line(name, _published(run), run, "", []) for name, run in zip(names, runs, strict=True)]
    todo = [(seed, line) for seed in range(seeds) for line in lines]
    for at, (seed, line) in enumerate(todo, start=1):
        print_line(console, f"{at} of {len(todo)}  {task}: {line.name}, seed {seed}")
        seeded = overrides.but(seed=seed, init=line.init)
        where = run_folder(folder, line.name, seed)
        line.outcomes.append(transfer(line.run, data, seeded, recipe, where, resume=True, console=console))
        _write(folder, data, task, lines)
    return folder


def _published(run: str) -> str | None:
    """Return the TABLE5 key for a run, or None if the table has no such row."""
    opened = open_run(run)
    first = opened.metrics()[:1] if (opened.folder / METRICS).exists() else []
    if first and first[0].get("layout") == "torchvision or timm":
        return "ImageNet supervised"
    return row_of(opened.settings.method.name)


def _distinct(names: list[str]) -> list[str]:
    """Append -2, -3, ... to names whose run folders would be the same as those of earlier names."""
    taken = {run_folder(Path(), "none (scratch)", 0)}
    distinct = []
    for name in names:
        numbered = (f"{name}-{n}" if n > 1 else name for n in itertools.count(1))
        distinct.append(next(one for one in numbered if run_folder(Path(), one, 0) not in taken))
        taken.add(run_folder(Path(), distinct[-1], 0))
    return distinct


def _write(folder: Path, data: str, task: str, lines: list[Line]) -> None:
    """Write table.md and table.json."""
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
    save_table(folder, plain, markdown(data, lines, where))


def markdown(data: str, lines: list[Line], where: dict[str, Any]) -> str:
    """Return the contents of table.md: measured and published AP50 / AP / AP75 in %.

    where: the environment.
    """
    first = next(line.outcomes[0] for line in lines if line.outcomes)
    seeds = max(len(line.outcomes) for line in lines)
    page = ["# Transfer (Table 5)", ""]
    for kind in first.kinds():
        published = column(first.layout, first.years, kind == "masks")
        page += [
            f"| {kind} | AP50 | AP | AP75 | published: {COLUMNS[published]}, AP50 / AP / AP75 |",
            "| --- | --- | --- | --- | --- |",
        ]
        for line in lines:
            triple = None if line.published is None else TABLE5[line.published][published]
            printed = "-" if triple is None else " / ".join(f"{value:.1f}" for value in triple)
            figures = (plus_minus(line.mean(kind, name), ".1f", 100) for name in _FIELDS)
            page.append(markdown_row([line.name, *figures, printed]))
        page.append("")
    page += [
        f"Measured: {shown(data)}, {first.train_images:,} training images, "
        f"{first.test_images:,} test images, {first.iterations:,} steps, seeds: {seeds} "
        f"(mean ± standard deviation); {where['machine']}, {where['date']}, torch {where['torch']}.",
        "Published: SimSiam (Chen & He 2021, arXiv 2011.10566), ResNet-50-C4, 200 epochs on ImageNet, "
        "full datasets; compare the order of the rows, not the numbers.",
        "",
    ]
    return "\n".join(page)
