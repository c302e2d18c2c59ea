"""`siam reproduce`: every row of a table as a run, one after another, and the table itself."""

import io
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from siam.data.sources import open_images
from siam.data.views import Unreadable, read_or_replace
from siam.errors import Diverged, RunError, SettingsError
from siam.paper.tables import Row, Table, table
from siam.report.curves import figure2
from siam.runs.folder import METRICS, open_run
from siam.runs.history import History
from siam.runs.saving import RunStopped
from siam.settings import recipes
from siam.settings.plain import differences, from_dict, to_dict
from siam.settings.pretraining import Settings
from siam.system.environment import environment
from siam.system.files import write_atomically
from siam.train.start import MAY_CHANGE, start

Scale = Literal["demo", "cifar", "imagenette", "imagenet"]

_SCALES: dict[str, tuple[str, str | None]] = {
    "demo": ("demo", "demo"),
    "cifar": ("cifar10", "cifar10"),
    "imagenette": ("imagenette", None),
    "imagenet": ("imagenet", None),
}
"""Recipe, and the data where DATA is left out."""


@dataclass(frozen=True)
class Study:
    """What was measured for one row."""

    row: Row
    outcomes: list[dict[str, Any]]
    """Of each seed, as `siam pretrain --json` prints it; fewer while the study goes on."""
    settings: dict[str, Any]

    def mean(self, name: str) -> tuple[float, float | None] | None:
        """Mean and standard deviation (None for one seed) over the seeds; None where nothing is known."""
        values = [o[name] for o in self.outcomes if o.get(name) is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def reproduce(
    name: str,
    data: str | None,
    change: Callable[[Settings], Settings],
    scale: Scale = "demo",
    seeds: int = 1,
    out: str | Path | None = None,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Run every row of table `name` with seeds 0 ... seeds - 1; write table.md, table.json and the figure.

    change: applies the user's own settings to the scale's. command: what was typed, for the table. Rows
    that are finished are not run again, and one that was interrupted goes on; a table that is complete keeps
    its date, machine and command. Returns the folder. Raises SiamError, and before anything is trained if a
    row cannot be built.
    """
    console = console or Console(stderr=True)
    chosen = table(name)
    if seeds < 1:
        raise SettingsError(f"seeds must be at least 1, got {seeds}")
    base = _base(data, change, scale, "simsiam")
    if base.method.name != "simsiam":
        raise SettingsError("each row of a table names its own method: leave out --method.name")
    if base.seed:
        raise SettingsError("a table runs seeds 0, 1, ...: leave out --seed, and say how many with --seeds")
    size = len(open_images(base.data).train)
    rows = chosen.rows(base, size // base.batch_size)
    if not rows:
        raise SettingsError(
            f"no row of '{name}' fits the {size} images of {base.data} in batches of {base.batch_size}: "
            "lower --batch-size"
        )
    folder = Path(out) if out is not None else Path("runs") / "reproduce" / f"{name}-{scale}"
    wanted = {}
    for row in rows:
        of_method = _base(data, change, scale, row.change.get("method", {}).get("name", "simsiam"))
        wanted[row.name] = from_dict(row.change, of_method)

    found = {row.name: Study(row, [], to_dict(wanted[row.name])) for row in rows}
    todo = [(seed, row.name) for seed in range(seeds) for row in rows]
    facts = _facts(folder)
    for at, (seed, row_name) in enumerate(todo, start=1):
        settings = replace(wanted[row_name], seed=seed)
        console.print(f"[bold]{at} of {len(todo)}[/]  {name}: {row_name}, seed {seed}", highlight=False)
        run = folder / f"{_file_name(row_name)}-seed{seed}"
        outcome = _finished(run, settings)
        if outcome is None:
            outcome, facts = _train(run, settings, console), None
        found[row_name].outcomes.append(outcome)
        _write(
            folder, name, chosen, list(found.values()), scale, facts or {**environment(), "command": command}
        )
    return folder


def _facts(folder: Path) -> dict[str, Any] | None:
    """Where and when the table in this folder was measured, and by which command."""
    try:
        before = json.loads((folder / "table.json").read_text())
        return {name: before[name] for name in (*environment(), "command")}
    except (OSError, ValueError, KeyError):
        return None


def _base(data: str | None, change: Callable[[Settings], Settings], scale: Scale, method: str) -> Settings:
    recipe, standard = _SCALES[scale]
    source = data or standard
    if source is None:
        raise SettingsError(f"--scale {scale} needs DATA: the folder of its images")
    train = open_images(source).train
    image, _ = read_or_replace(train, 0, Unreadable())
    return change(recipes.starting_point(recipe, method, source, min(image.shape[1:]), len(train)))


def _finished(run: Path, settings: Settings) -> dict[str, Any] | None:
    """What a run that has ended came to. Raises RunError when its settings were others."""
    if not (run / METRICS).exists():
        return None
    opened = open_run(run)
    changed = [d for d in differences(opened.settings, settings) if not d.startswith(MAY_CHANGE)]
    if changed:
        raise RunError(f"{run} was made with other settings: {', '.join(changed)}; choose another --out")
    ends = [record for record in opened.metrics() if record["kind"] in ("end", "diverged")]
    if not ends:
        return None
    return {
        "run": str(run),
        **{name: value for name, value in ends[-1].items() if name not in ("kind", "step")},
    }


def _train(run: Path, settings: Settings, console: Console) -> dict[str, Any]:
    """Train, or go on. A loss that is not finite is a result here: some rows are known to end so."""
    try:
        name = settings.method.name
        return start(settings, name, lambda _: settings, None, run, resume="auto", console=console).flat()
    except RunStopped:
        raise RunStopped(f"stopped as asked, and saved in {run}: the same command goes on") from None
    except Diverged as error:
        console.print(str(error), highlight=False)
        return {"run": str(run), "verdict": "diverged"}


def _file_name(row: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in row.lower()).strip("-")


def _write(
    folder: Path, name: str, chosen: Table, found: list[Study], scale: Scale, facts: dict[str, Any]
) -> None:
    """The table as far as it goes, as Markdown and JSON, and the curves of the first seed."""
    plain = {
        "table": name,
        "title": chosen.title,
        "source": f"SimSiam (Chen & He 2021, arXiv 2011.10566), {chosen.source}",
        "published": "linear top-1 on ImageNet, ResNet-50, 100 epochs",
        "scale": scale,
        **facts,
        "rows": [
            {"name": s.row.name, "published": s.row.published, "note": s.row.note,
             "mean and deviation": {name: s.mean(name) for name in ("knn", "std", "rank")},
             "change": s.row.change, "seeds": s.outcomes, "settings": s.settings}
            for s in found
        ],
    }  # fmt: skip
    text = json.dumps(plain, indent=1) + "\n"
    _put(folder / "table.json", text.encode())
    _put(folder / "table.md", markdown(chosen, found, facts).encode())

    done = {s.row.name: folder / f"{_file_name(s.row.name)}-seed0" for s in found if s.outcomes}
    histories = {}
    for row, run in done.items():
        opened = open_run(run)
        histories[row] = History(opened.metrics(), opened.settings)
    figure = figure2(histories)
    for kind in ("svg", "png"):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=150)
        _put(folder / f"figure.{kind}", drawn.getvalue())


def _put(path: Path, contents: bytes) -> None:
    write_atomically(path, lambda file: file.write(contents))


def markdown(chosen: Table, found: list[Study], facts: dict[str, Any]) -> str:
    """Measured beside published. facts: of the machine, and the command."""
    seeds = max(len(s.outcomes) for s in found)
    settings = found[0].settings
    beside = next((s for s in found if s.mean("untrained_knn")), found[0])
    lines = [
        f"# {chosen.title} ({chosen.source})",
        "",
        "| | kNN, measured (%) | std × √d | rank | verdict | published: linear, ImageNet (%) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for s in found:
        verdicts = ", ".join(sorted({o["verdict"] for o in s.outcomes})) or "not yet run"
        published = s.row.note if s.row.published is None else f"{s.row.published:.1f}"
        if s.row.published is not None and s.row.note:
            published += f" ({s.row.note})"
        cells = [
            s.row.name,
            _plus_minus(s.mean("knn"), 100, 1),
            _plus_minus(s.mean("std"), 1, 2),
            _plus_minus(s.mean("rank"), 1, 1),
            verdicts,
            published,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"kNN on raw pixels: {_plus_minus(beside.mean('pixel_knn'), 100, 1)} %; of the untrained "
        f"network: {_plus_minus(beside.mean('untrained_knn'), 100, 1)} %.",
        f"Measured: {settings['data']}, {settings['backbone']} x {settings['width']:g}, "
        f"{settings['epochs']} epochs, k = {settings['monitor']['knn_k']}, seeds: {seeds}; "
        f"{facts['machine']}, {facts['date']}, torch {facts['torch']}"
        + (f"; `{facts['command']}`." if facts["command"] else "."),
        "Published: SimSiam (Chen & He 2021, arXiv 2011.10566); another set, network and protocol: compare "
        "the order of the rows, not the figures.",
        "",
        "![curves](figure.svg)" + (" (seed 0)" if seeds > 1 else ""),
        "",
    ]
    return "\n".join(lines)


def _plus_minus(value: tuple[float, float | None] | None, factor: float, digits: int) -> str:
    if value is None:
        return "-"
    mean, deviation = value
    spread = f" ± {factor * deviation:.{digits}f}" if deviation is not None else ""
    return f"{factor * mean:.{digits}f}{spread}"
