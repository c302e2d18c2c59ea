"""Training curves: those in Figure 2 of SimSiam (Chen & He 2021) come first.

`panels` lists every logged quantity with its chart and its card in the page header.
Each module in siam/metrics adds a panel.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from siam import metrics
from siam.report.drawing import LINES, dress, extent, from_zero, line, reference, steps_and_means
from siam.report.formats import number
from siam.runs.history import History
from siam.settings.pretraining import Settings

Draw = Callable[[Axes, History, str], None]
"""A function that draws a chart: draw(axes, history, line color)."""


@dataclass(frozen=True)
class Panel:
    """A logged quantity: its chart and, if `label` is set, its card in the header."""

    name: str
    """The quantity's key in metrics.jsonl."""
    title: str
    draw: Draw
    caption: str = ""
    format: str = ".3f"
    """Format spec for the value on the card."""
    label: str = ""
    """Text below the value on the card; if empty, there is no card."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Baselines to show as bars on the card: key in metrics.jsonl -> label."""


def panels(history: History) -> list[Panel]:
    """Return a panel for each quantity that a run can log, in page order."""
    settings = history.settings
    return [
        Panel(
            "loss",
            "loss",
            loss,
            caption="A low loss alone is not enough: collapsed runs also reach the minimum.",
            label="loss, between −1 and 1" if settings.method.objective == "cosine" else "loss",
        ),
        Panel(
            "std",
            "std of z/|z|",
            std,
            caption="1/√d: the directions of z are evenly spread; 0: all z have the same direction.",
            label="std of z/|z|, × √d",
        ),
        *(_metric(name, module, history) for name, module in _metrics().items()),
        Panel("lr", "learning rate", partial(steps_from_zero, "lr"), caption=_lr_caption(settings)),
        Panel(
            "pairs_per_second",
            "pairs per second",
            partial(steps_from_zero, "pairs_per_second"),
            format=",.0f" if history.latest().get("pairs_per_second", 0) >= 10 else ".2g",
            label=_rate_label(history.latest()),
        ),
    ]


def _metrics() -> dict[str, ModuleType]:
    """Return all metric modules by name; those with baselines come first.

    This makes kNN the third panel, as in Figure 2.
    """
    found = metrics.all_metrics().items()
    return dict(sorted(found, key=lambda item: not getattr(item[1], "BASELINES", False)))


def _metric(name: str, module: ModuleType, history: History) -> Panel:
    """Build the panel for a metric module; if its LABEL is empty, there is no card."""
    spec = ".1%" if module.FORMAT == "percent" else module.FORMAT
    compared = {f"pixel_{name}": "raw pixels", f"untrained_{name}": "random init"}
    baselines = compared if getattr(module, "BASELINES", False) else {}
    note = module.note(history.settings, history.latest()) if hasattr(module, "note") else ""
    label = f"{module.TITLE}, {note}" if note else module.TITLE
    return Panel(
        name,
        module.TITLE,
        getattr(module, "draw", partial(metric, name, spec, baselines)),
        caption=getattr(module, "CAPTION", ""),
        format=spec,
        label=label if metrics.label(name, module) else "",
        baselines=baselines,
    )


def _lr_caption(settings: Settings) -> str:
    constant = settings.optimizer.predictor_lr == "constant" and settings.method.predictor == "learned"
    return "The predictor's own learning rate is constant." if constant else ""


def _rate_label(latest: dict[str, Any]) -> str:
    where = ", ".join(latest[name] for name in ("device", "precision") if name in latest)
    return f"pairs per second on {where}" if where else "pairs per second"


def loss(ax: Axes, history: History, color: str) -> None:
    """Plot the loss and, for the cosine loss, a line at its minimum of -1."""
    steps_and_means(ax, history, "loss", color)
    if history.settings.method.objective == "cosine":
        reference(ax, -1.0, "minimum −1", above=False)
    if any(drawn.get_gid() for drawn in ax.lines):  # true if any run drew the minimum
        low, high = -1.0, max(-0.9, *extent(ax))
        ax.set_ylim(low - 0.14 * (high - low), high + 0.05 * (high - low))


def std(ax: Axes, history: History, color: str) -> None:
    """Plot the std of z/|z| and a reference line at 1/sqrt(d).

    The records contain the std times sqrt(d); the plot undoes this scaling.
    """
    even = 1 / math.sqrt(history.settings.method.dim)
    steps_and_means(ax, history, "std", color, scale=even)
    ax.set_ylim(0, 1.2 * max(even, *extent(ax)))
    reference(ax, even, f"1/√d = {even:.3g}", above=True)


def metric(
    name: str, spec: str, baselines: Mapping[str, str], ax: Axes, history: History, color: str
) -> None:
    """Plot a metric by epoch; the untrained network's value, if known, is at epoch 0.

    The y axis starts at zero. spec: format spec for the labels. baselines: reference
    lines to draw, as key in metrics.jsonl -> label.
    """
    x, y = history.series("epoch", name)
    latest = history.latest()
    known = {key: latest[key] for key in baselines if key in latest}
    if f"untrained_{name}" in known:
        x, y = np.r_[0.0, x], np.r_[known[f"untrained_{name}"], y]
    line(ax, x, y, color, name)
    from_zero(ax, *known.values())
    if spec.endswith("%"):
        low, high = ax.get_ylim()
        ax.set_ylim(low, min(1.0, max(0.1, high)))
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    highest = max(known, key=lambda key: known[key], default=None)
    for key, value in known.items():
        reference(ax, value, f"{baselines[key]} {number(value, spec)}", above=key == highest)


def steps_from_zero(name: str, ax: Axes, history: History, color: str) -> None:
    """Plot a quantity that is logged per step; the y axis starts at zero."""
    line(ax, *history.series("step", name), color, name)
    from_zero(ax)


def figure2(histories: Mapping[str, History]) -> Figure:
    """Plot loss, std and kNN side by side, one line per run, as in Figure 2.

    histories: run name -> history.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    first = next(iter(histories.values()))
    three = [panel for panel in panels(first) if panel.name in ("loss", "std", "knn")]
    for ax, panel in zip(figure.subplots(1, 3), three, strict=True):
        for i, (name, history) in enumerate(histories.items()):
            color = LINES[i % len(LINES)]
            panel.draw(ax, history, color)
            ax.plot([], [], color=color, label=name)  # for the legend
        dress(ax, panel.title, list(histories.values()))
    if len(histories) > 1:
        handles = [drawn for drawn in figure.axes[0].lines if drawn.get_label() in histories]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
