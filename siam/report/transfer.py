"""Write report.html for a transfer run: APs, predictions and curves."""

from pathlib import Path
from types import UnionType
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from siam.errors import RunError
from siam.report.drawing import LINES, MUTED, from_zero, inline_svg, line, panel
from siam.report.formats import percent
from siam.report.html import Card, header, render, settings_table, table, write_page
from siam.report.pictures import data_uri
from siam.report.published import compared
from siam.runs.folder import read_records, read_yaml
from siam.runs.history import Records
from siam.runs.results import DRAWN, PRECISIONS, TRANSFER, TransferResult, load_transfer

MAX_CLASSES = 80

_USED: dict[str, type | UnionType] = {
    "run": str, "data": str, "task": str, "init": str, "detector": str, "iterations": int, "batch_size": int,
    "lr": int | float, "seed": int,
}  # fmt: skip
"""The settings in transfer.yaml that the page describes."""


def write_transfer_report(folder: Path) -> Path:
    """Write report.html for a finished transfer run and return its path.

    Raises RunError if the run has not finished or its result file is corrupt, OSError
    if writing fails.
    """
    result = load_transfer(folder)
    if result is None:
        raise RunError(f"transfer run {folder} has not finished: resume it with siam transfer --resume")
    settings = read_yaml(folder / TRANSFER)
    for setting, kind in _USED.items():
        if not isinstance(settings.get(setting), kind):
            raise RunError(f"{folder / TRANSFER} cannot be read: {setting} is missing or of another type")
    run, data = settings.pop("run"), settings.pop("data")
    name = folder.resolve().name
    sections = [
        header(name, settings["task"], _facts(run, data, settings, result), _cards(result)),
        _precision(result),
        photographs(folder),
        _curves(folder),
        settings_table(settings),
    ]
    return write_page(folder, sections)


def photographs(folder: Path) -> Markup | str:
    """Render test images with predictions; return "" if there are none."""
    files = sorted(file for file in (folder / DRAWN).glob("*.jpg") if file.stem.isdecimal())
    if not files:
        return ""
    drawn = [(int(file.stem), data_uri("image/jpeg", file.read_bytes())) for file in files]
    return render("photographs.html", name=folder.name, photographs=drawn)


def _facts(run: str, data: str, settings: dict[str, Any], result: TransferResult) -> dict[str, str]:
    skipped = "; ".join(f"{count} × {reason}" for reason, count in result.skipped.items())
    return {
        "Backbone": f"{settings['init'] or run}{' (random weights)' if settings['init'] == 'random' else ''}",
        "Data": f"{data}: {result.train_images:,} training images, {result.test_images:,} test images",
        "Training": f"{settings['detector']}, {settings['iterations']:,} steps of {settings['batch_size']} "
        f"at {settings['lr']:g} × batch / 16, seed {settings['seed']}; {result.seconds / 60:.1f} minutes",
        "Skipped": skipped or "none",
    }


def _cards(result: TransferResult) -> list[Card]:
    return [
        Card(percent(getattr(precision, name)), f"{PRECISIONS[name]} of {kind}")
        for kind, precision in result.kinds().items()
        for name in ("ap", "ap50", "ap75")
    ]


def _precision(result: TransferResult) -> Markup:
    """Render measured and published APs, and the AP of each class, highest first."""
    classes = sorted(result.boxes.per_class.items(), key=lambda item: -item[1])[:MAX_CLASSES]
    return render(
        "precision.html",
        table=table(["%", *PRECISIONS.values()], compared(result), marked=len(result.kinds())),
        per_class=", ".join(f"{name} {percent(value, unit='')}" for name, value in classes),
    )


def _curves(folder: Path) -> Markup | str:
    """Render charts of losses and learning rate; return "" if nothing was logged."""
    records = Records(read_records(folder))
    if not records.has("loss"):
        return ""
    figures = [inline_svg(panel(draw, records, title), name) for name, title, draw in PANELS]
    return render("curves.html", figures=[(figure, "") for figure in figures], note="")


def _losses(ax: Axes, records: Records, _: str) -> None:
    """Plot the total loss and its terms."""
    names = [name for name in records.latest() if name.startswith("loss")]
    for color, name in zip(LINES, names, strict=False):
        line(ax, *records.series("step", name), color, name.removeprefix("loss_").replace("_", " "))
    from_zero(ax)
    if len(names) > 1:
        ax.figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=MUTED)


def _learning_rate(ax: Axes, records: Records, color: str) -> None:
    line(ax, *records.series("step", "lr"), color, "lr")
    from_zero(ax)


PANELS = (("losses", "losses", _losses), ("lr", "learning rate", _learning_rate))
"""Charts on the page: (name, title, draw function)."""
