"""Implement `siam reproduce`: run a table's experiments and write the results."""

import io
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console

from siam import recipes
from siam.data.fingerprint import fingerprint
from siam.data.sources import open_images
from siam.errors import Diverged, RunError, SettingsError
from siam.metrics import all_metrics, label
from siam.paper.cells import Mean, markdown_row, mean_of, require_table, run_folder, save, save_table
from siam.paper.tables import Row, Table, table
from siam.report.curves import figure2
from siam.report.formats import plus_minus
from siam.runs.bars import print_line
from siam.runs.folder import METRICS, open_run
from siam.runs.history import History
from siam.runs.job import MAY_CHANGE, require_images_of
from siam.runs.saving import RunStopped
from siam.settings.overrides import Overrides
from siam.settings.plain import differences, from_dict, to_dict
from siam.settings.pretraining import Settings
from siam.system.environment import environment
from siam.system.names import shown
from siam.train.finished import Opener
from siam.train.start import start

Scale = Literal["demo", "cifar", "imagenette", "imagenet"]

_SCALES: dict[str, tuple[str, str | None]] = {
    "demo": ("demo", "demo"),
    "cifar": ("cifar10", "cifar10"),
    "imagenette": ("imagenette", None),
    "imagenet": ("imagenet", None),
}
"""Scale -> (recipe, default dataset); None: no default, so DATA is required."""


@dataclass(frozen=True)
class Study:
    """A table row with its settings and measured results."""

    row: Row
    outcomes: list[dict[str, Any]]
    """Results of the finished runs, by seed, as printed by `siam pretrain --json`."""
    settings: dict[str, Any]

    def mean(self, name: str) -> Mean | None:
        """Return the mean and standard deviation of a result over the seeds."""
        return mean_of(outcome.get(name) for outcome in self.outcomes)


def reproduce(
    name: str,
    overrides: Overrides,
    scale: Scale = "demo",
    seeds: int = 1,
    out: str | Path | None = None,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Run a table's experiments with seeds 0 to `seeds` - 1 and write the results.

    overrides: user settings, which take precedence over the scale's recipe. command:
    the command line to record in the table. Finished runs are skipped and interrupted
    runs are resumed. If all runs have finished, the recorded date, machine and command
    are kept. Returns the output folder. Raises SiamError; invalid settings are detected
    before training starts.
    """
    console = console or Console(stderr=True)
    chosen = table(name)
    if seeds < 1:
        raise SettingsError(f"seeds must be at least 1, got {seeds}")
    open_once = cache(open_images)
    settings = _settings_of_rows(name, chosen, overrides, scale, open_once)
    folder = Path(out) if out is not None else Path("runs") / "reproduce" / f"{name}-{scale}"
    studies = {row.name: Study(row, [], to_dict(base)) for row, base in settings}
    todo = [(seed, row, base) for seed in range(seeds) for row, base in settings]
    facts = _facts(require_table(folder, name))
    for at, (seed, row, base) in enumerate(todo, start=1):
        print_line(console, f"{at} of {len(todo)}  {name}: {row.name}, seed {seed}")
        run, seeded = run_folder(folder, row.name, seed), replace(base, seed=seed)
        outcome = finished_result(run, seeded, open_once)
        if outcome is None:
            outcome, facts = train_or_resume(run, seeded, console, open_once), None
        studies[row.name].outcomes.append(outcome)
        facts = facts or {**environment(), "command": command}
        _write(folder, name, chosen, list(studies.values()), scale, facts)
    return folder


def _settings_of_rows(
    name: str, chosen: Table, overrides: Overrides, scale: Scale, open_once: Opener
) -> list[tuple[Row, Settings]]:
    """Return the rows that can be run on the dataset, with their settings.

    Raises SettingsError if there are none, or if DATA is required but missing.
    """
    recipe, standard = _SCALES[scale]
    data = overrides.get("data", standard)
    if data is None:
        raise SettingsError(f"--scale {scale} requires DATA: specify the image folder")
    train = open_once(data).to_train_on()
    side, size = min(train.size_hint), len(train)

    def base(method: str) -> Settings:
        return overrides.over(recipes.starting_point(recipe, method, data, side, size))

    simsiam = base("simsiam")
    rows = chosen.rows(simsiam, size // simsiam.batch_size)
    if not rows:
        raise SettingsError(
            f"table '{name}' needs more than the {size} images in {data} at batch size {simsiam.batch_size}: "
            "lower --batch-size"
        )
    methods = [row.change.get("method", {}).get("name", "simsiam") for row in rows]
    return [(row, from_dict(row.change, base(method))) for row, method in zip(rows, methods, strict=True)]


def _facts(before: dict[str, Any]) -> dict[str, Any] | None:
    """Return the environment and command recorded in table.json; None if they are missing."""
    names = (*environment(), "command")
    return {name: before[name] for name in names} if all(name in before for name in names) else None


def finished_result(run: Path, settings: Settings, open_once: Opener) -> dict[str, Any] | None:
    """Return the result of a run, or None if the run has not finished.

    Raises RunError if the run has different settings or images.
    """
    if not (run / METRICS).exists():
        return None
    opened = open_run(run)
    changed = [d for d in differences(opened.settings, settings) if not d.startswith(MAY_CHANGE)]
    if changed:
        raise RunError(f"{run} has different settings: {', '.join(changed)}; choose another --out")
    ends = [record for record in opened.metrics() if record["kind"] in ("end", "diverged")]
    if not ends:
        return None
    require_images_of(run, lambda: fingerprint(open_once(settings.data)), "choose another --out")
    outcome = {name: value for name, value in ends[-1].items() if name not in ("kind", "step")}
    return {"run": str(run), **outcome}


def train_or_resume(run: Path, settings: Settings, console: Console, open_once: Opener) -> dict[str, Any]:
    """Train or resume a run and return its result.

    Divergence is a result, not an error, because some rows are expected to diverge.
    """
    try:
        complete = Overrides(to_dict(settings))
        outcome = start(complete, None, run, resume="auto", console=console, open_once=open_once)
    except RunStopped:
        raise RunStopped(f"stopped on request, saved in {run}: repeat the command to resume") from None
    except Diverged as error:
        print_line(console, str(error))
        return {"run": str(run), "verdict": "diverged"}
    return outcome.flat()


def _write(
    folder: Path, name: str, chosen: Table, found: list[Study], scale: Scale, facts: dict[str, Any]
) -> None:
    """Write table.md, table.json, and a figure with the curves of seed 0."""
    columns = _columns()
    plain = {
        "table": name,
        "title": chosen.title,
        "source": f"SimSiam (Chen & He 2021, arXiv 2011.10566), {chosen.source}",
        "published": "linear top-1 on ImageNet, ResNet-50, 100 epochs",
        "scale": scale,
        **facts,
        "rows": [
            {"name": s.row.name, "published": s.row.published, "note": s.row.note,
             "mean and deviation": {column.name: s.mean(column.name) for column in columns},
             "change": s.row.change, "seeds": s.outcomes, "settings": s.settings}
            for s in found
        ],
    }  # fmt: skip
    save_table(folder, plain, markdown(chosen, found, facts))
    histories = {}
    for study in found:
        if study.outcomes:
            run = open_run(run_folder(folder, study.row.name, 0))
            histories[study.row.name] = History(run.metrics(), run.settings)
    save_figure(folder, figure2(histories), name)


def save_figure(folder: Path, figure: Figure, name: str) -> None:
    """Write figure.svg and figure.png; the same figure gives the same bytes."""
    for kind, undated in (("svg", {"Date": None}), ("png", {})):
        drawn = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": name}):
            figure.savefig(drawn, format=kind, dpi=150, metadata=undated)
        save(folder / f"figure.{kind}", drawn.getvalue())


def markdown(chosen: Table, found: list[Study], facts: dict[str, Any]) -> str:
    """Return the contents of table.md: measured and published results.

    facts: environment and command.
    """
    seeds = max(len(s.outcomes) for s in found)
    settings = found[0].settings
    baselines = next((s for s in found if s.mean("untrained_knn")), found[0])
    columns = _columns()
    command = f"; `{shown(facts['command'])}`." if facts["command"] else "."
    lines = [
        f"# {chosen.title} ({chosen.source})",
        "",
        markdown_row(
            ["", *(column.title for column in columns), "verdict", "published: linear, ImageNet (%)"]
        ),
        markdown_row(["---"] * (len(columns) + 3)),
        *(_row(study, columns) for study in found),
        "",
        f"kNN on raw pixels: {plus_minus(baselines.mean('pixel_knn'), '.1f', 100)} %; on features of the "
        f"untrained network: {plus_minus(baselines.mean('untrained_knn'), '.1f', 100)} %.",
        f"Measured: {shown(settings['data'])}, {settings['backbone']} x {settings['width']:g}, "
        f"{settings['epochs']} epochs, k = {settings['monitor']['knn_k']}, seeds: {seeds}; "
        f"{facts['machine']}, {facts['date']}, torch {facts['torch']}{command}",
        "Published: SimSiam (Chen & He 2021, arXiv 2011.10566); the dataset, network and protocol "
        "differ, so compare the order of the rows, not the numbers.",
        "",
        "![curves](figure.svg)" + (" (seed 0)" if seeds > 1 else ""),
        "",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Column:
    """A column of measured values, multiplied by `factor` and formatted with `spec`."""

    name: str
    title: str
    spec: str
    factor: float = 1.0


def _columns() -> list[_Column]:
    """Return the columns of measured values: std, then every metric that has a label."""
    columns = [_Column("std", "std × √d", ".2f")]
    for name, metric in all_metrics().items():
        title = label(name, metric)
        if title and metric.FORMAT == "percent":
            columns.append(_Column(name, f"{title} (%)", ".1f", 100))
        elif title:
            columns.append(_Column(name, title, metric.FORMAT))
    return columns


def _row(study: Study, columns: list[_Column]) -> str:
    row = study.row
    note = f" ({row.note})" if row.note else ""
    return markdown_row(
        [
            row.name,
            *(plus_minus(study.mean(column.name), column.spec, column.factor) for column in columns),
            ", ".join(sorted({outcome["verdict"] for outcome in study.outcomes})) or "not yet run",
            row.note if row.published is None else f"{row.published:.1f}{note}",
        ]
    )
