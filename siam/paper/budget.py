"""Implement `siam reproduce budget`: find what learns most in a few minutes, by successive halving.

Every candidate is one change to the settings that a plan would take. All candidates train for the shortest
budget; the best third of them trains again, from scratch, for the next one (Jamieson & Talwalkar 2016). A
budget is CPU time of a single thread, so that a busy machine, or several studies at once, do not change the
results much.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from siam.data.images import Images
from siam.data.sources import open_images
from siam.errors import SettingsError
from siam.paper.cells import Mean, markdown_row, mean_of, require_table, run_folder, save_table
from siam.paper.reproduce import finished_result, train_or_resume
from siam.paper.tables import Change
from siam.plan.rules import METHOD, rows_for, settings_for
from siam.report.formats import plus_minus
from siam.runs.bars import print_line
from siam.runs.folder import SETTINGS, open_run
from siam.settings.checks import parse_duration
from siam.settings.overrides import Overrides
from siam.settings.plain import from_dict
from siam.settings.pretraining import Settings
from siam.system.environment import environment
from siam.system.names import shown
from siam.train.speed import cpu_seconds_per_step

SURVIVORS = 3
"""One in so many candidates trains for the next budget."""
MEASUREMENTS = 5
"""Number of times that a run is measured, so that its curve shows when it stops improving."""


def _network(backbone: str, width: float, size: int, stem: str) -> Change:
    return {"backbone": backbone, "width": width, "stem": stem, "views": {"size": size}}


def _lr(factor: float) -> Change:
    return {"optimizer": {"lr": 1.2 * factor}}


CANDIDATES: dict[str, Change] = {
    "simclr": {"method": {"name": "simclr"}},
    "simsiam": {"method": {"name": "simsiam"}, **_lr(1 / 3)},
    "byol": {"method": {"name": "byol"}, **_lr(1 / 3)},
    "swav": {"method": {"name": "swav"}, **_lr(1 / 3)},
    "moco_v2": {"method": {"name": "moco_v2"}},
    "simclr, lr / 2": _lr(1 / 2),
    "simclr, lr x 2": _lr(2),
    "simsiam, lr x 3": {"method": {"name": "simsiam"}},
    "simsiam, default batch norm": {"method": {"name": "simsiam", "batch_norm": "default"}, **_lr(1 / 3)},
    "simclr, batch 128": {"batch_size": 128},
    "simclr, resnet10t x 0.5, strided stem": _network("resnet10t", 0.5, 48, "standard"),
    "simclr, resnet10t x 0.5, 64 px": _network("resnet10t", 0.5, 64, "standard"),
    "simclr, resnet10t, 64 px": _network("resnet10t", 1.0, 64, "standard"),
    "simclr, resnet18 x 0.5, 64 px": _network("resnet18", 0.5, 64, "standard"),
    "simclr, crops from 0.08": {"views": {"scale": (0.08, 1.0)}},
    "simclr, crops from 0.5": {"views": {"scale": (0.5, 1.0)}},
}
"""The plan's settings with one change each; the learning rates are for batches of 256."""


@dataclass
class Rung:
    """The runs of one budget."""

    budget: str
    outcomes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Candidate -> results by seed."""

    def score(self, candidate: str) -> Mean | None:
        """Return the kNN accuracy; for images without labels, that of view retrieval."""
        outcomes = self.outcomes[candidate]
        return mean_of(o.get("knn") for o in outcomes) or mean_of(o.get("retrieval") for o in outcomes)

    def ranked(self) -> list[str]:
        """Return the candidates, best first."""
        return sorted(self.outcomes, key=lambda name: -(self.score(name) or (-1.0, None))[0])


def reproduce_budget(
    overrides: Overrides,
    budgets: tuple[str, ...] = ("3m", "10m", "30m"),
    seeds: int = 1,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Path:
    """Train the candidates for each budget in turn, the best third of them for the next; write the table.

    overrides: user settings, which take precedence over the candidates'. budgets: CPU time of each run, in
    ascending order. Finished runs are skipped and interrupted ones are resumed. Returns the output folder.
    Raises SiamError.
    """
    console = console or Console(stderr=True)
    seconds = [parse_duration(budget, "--budgets") for budget in budgets]
    if not seconds or seconds != sorted(seconds):
        raise SettingsError(f"--budgets must ascend, as 3m 10m 30m does, got {' '.join(budgets) or 'none'}")
    if seeds < 1:
        raise SettingsError(f"seeds must be at least 1, got {seeds}")
    open_once = cache(open_images)
    data = overrides.only("data").over(Settings()).data
    images = open_once(data).to_train_on()
    folder = Path(out) if out is not None else Path("runs") / "reproduce" / f"budget-{Path(data).name}"
    require_table(folder, "budget")
    settings = {name: _settings(change, data, images, overrides) for name, change in CANDIDATES.items()}
    rungs: list[Rung] = []
    for budget, limit in zip(budgets, seconds, strict=True):
        names = (
            list(settings) if not rungs else rungs[-1].ranked()[: -(-len(rungs[-1].outcomes) // SURVIVORS)]
        )
        rungs.append(Rung(budget, {name: [] for name in names}))
        for seed, name in ((seed, name) for seed in range(seeds) for name in names):
            print_line(console, f"{budget}: {name}, seed {seed}")
            run, seeded = run_folder(folder / budget, name, seed), replace(settings[name], seed=seed)
            seeded = _with_length(run, seeded, images, limit)
            outcome = finished_result(run, seeded, open_once)
            if outcome is None:
                outcome = train_or_resume(run, seeded, console, open_once)
            rungs[-1].outcomes[name].append(outcome)
            _write(folder, data, rungs)
    return folder


def _settings(change: Change, data: str, images: Images, overrides: Overrides) -> Settings:
    """Return the plan's settings for its smallest network, with a candidate's change."""
    row = rows_for(min(images.size_hint))[0]
    base = settings_for(row, data, len(images), change.get("method", {}).get("name", METHOD))
    own = {"threads": 1, "device": "cpu", "precision": "float32", "checkpoint": {"keep": MEASUREMENTS}}
    return overrides.over(from_dict(change, from_dict(own, base)))


def _with_length(run: Path, settings: Settings, images: Images, seconds: float) -> Settings:
    """Give a run as many epochs as `seconds` of CPU time allow; those that it began with, if it has begun."""
    if (run / SETTINGS).exists():
        own = open_run(run).settings
        return replace(settings, epochs=own.epochs, monitor=own.monitor)
    steps = max(1, int(seconds / cpu_seconds_per_step(images, settings)))
    epochs = round(steps / (len(images) // settings.batch_size), 4)
    every = max(1, round(epochs / MEASUREMENTS))
    return replace(settings, epochs=epochs, monitor=replace(settings.monitor, every=every, knn_every=every))


def _write(folder: Path, data: str, rungs: list[Rung]) -> None:
    """Write table.md and table.json."""
    where = environment()
    plain = {
        "table": "budget",
        "data": data,
        **where,
        "budgets": [
            {"budget": rung.budget, "candidates": {name: rung.outcomes[name] for name in rung.ranked()}}
            for rung in rungs
        ],
    }
    save_table(folder, plain, markdown(data, rungs, where))


def markdown(data: str, rungs: list[Rung], where: dict[str, Any]) -> str:
    """Return the contents of table.md: each candidate's accuracy at each budget, best first."""
    seeds = max(len(outcomes) for rung in rungs for outcomes in rung.outcomes.values())
    first = next(o for rung in rungs for outcomes in rung.outcomes.values() for o in outcomes)

    def cell(rung: Rung, name: str) -> str:
        return plus_minus(rung.score(name), ".1f", 100) if name in rung.outcomes else "-"

    page = [
        "# What learns most in little time",
        "",
        markdown_row(["kNN (%)", *(rung.budget for rung in rungs), "epochs"]),
        markdown_row(["---"] * (len(rungs) + 2)),
    ]
    for name in sorted(rungs[0].outcomes, key=_best_first(rungs)):
        epochs = [f"{r.outcomes[name][0].get('epochs', 0):.3g}" for r in rungs if r.outcomes.get(name)]
        page.append(markdown_row([name, *(cell(rung, name) for rung in rungs), " / ".join(epochs) or "-"]))
    page += [
        "",
        f"kNN on raw pixels: {_percent(first.get('pixel_knn'))}; on the untrained network: "
        f"{_percent(first.get('untrained_knn'))}.",
        f"Measured: {shown(data)}, seeds: {seeds}, budgets in CPU time of one thread; "
        f"{where['machine']}, {where['date']}, torch {where['torch']}.",
        "",
    ]
    return "\n".join(page)


def _best_first(rungs: list[Rung]) -> Callable[[str], list[float]]:
    """Return a sort key: candidates that reached longer budgets first, then by accuracy."""

    def key(name: str) -> list[float]:
        scores = [rung.score(name) if name in rung.outcomes else None for rung in reversed(rungs)]
        return [-(score or (-1.0, None))[0] for score in scores]

    return key


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
