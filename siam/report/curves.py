"""The curves of SimSiam's Figure 2 (Chen & He 2021): loss, std of z/|z|, kNN; and what else a run logs.

`panels` lists all of them, each with its chart and its card.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from siam.report.drawing import LINES, dress, extent, from_zero, line, reference, steps_and_means
from siam.report.formats import percent
from siam.runs.history import History

Draw = Callable[[Axes, History, str], None]
"""axes, the run's history, color of its line"""

BASELINES = {"pixel_knn": "raw pixels", "untrained_knn": "random init"}
"""Recorded accuracies that kNN is compared with, and their labels."""


@dataclass(frozen=True)
class Panel:
    """A recorded quantity on the page: a chart among the curves and, with a label, a card in the header."""

    name: str
    """Its key in metrics.jsonl."""
    title: str
    draw: Draw
    caption: str = ""
    format: str = ".3f"
    """Format specification of the card's number."""
    label: str = ""
    """Below that number; no card without one."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Records that the card shows as bars to compare with: key -> label."""


def panels(history: History) -> list[Panel]:
    """List the quantities that a run may log, in the order of the page."""
    method, optimizer, latest = history.settings.method, history.settings.optimizer, history.latest()
    constant = optimizer.predictor_lr == "constant" and method.predictor == "learned"
    return [
        Panel(
            "loss", "loss", loss,
            caption="Low is not good in itself: a collapsed run reaches the floor.",
            label="loss, between −1 and 1" if method.objective == "cosine" else "loss",
        ),
        Panel(
            "std", "std of z/|z|", std,
            caption="At 1/√d the directions of z are spread evenly; at 0 all images share one.",
            label="std of z/|z|, × √d",
        ),
        Panel(
            "knn", "kNN accuracy", knn,
            caption="Validation images classified by their nearest training images.",
            format=".1%", label=f"kNN accuracy, k = {history.settings.monitor.knn_k}", baselines=BASELINES,
        ),
        Panel(
            "rank", "effective rank of the features", partial(epochs_from_zero, "rank"),
            caption="How many dimensions carry the features; needs no labels.",
            format=".1f", label=_rank_label(latest),
        ),
        Panel(
            "lr", "learning rate", partial(steps_from_zero, "lr"),
            caption="The predictor's own learning rate is constant." if constant else "",
        ),
        Panel(
            "pairs_per_second", "pairs per second", partial(steps_from_zero, "pairs_per_second"),
            format=",.0f" if latest.get("pairs_per_second", 0) >= 10 else ".2g", label=_rate_label(latest),
        ),
    ]  # fmt: skip


def _rank_label(latest: dict[str, Any]) -> str:
    most = f", at most {latest['features']}" if "features" in latest else ""
    of_z = f"; of z {latest['rank_z']:.1f}" if "rank_z" in latest else ""
    return f"effective rank of the features{most}{of_z}"


def _rate_label(latest: dict[str, Any]) -> str:
    where = ", ".join(latest[name] for name in ("device", "precision") if name in latest)
    return f"pairs per second on {where}" if where else "pairs per second"


def loss(ax: Axes, history: History, color: str) -> None:
    """Draw the loss; the cosine objective down to its floor of -1, where a run without stop-gradient ends."""
    steps_and_means(ax, history, "loss", color)
    if history.settings.method.objective == "cosine":
        reference(ax, -1.0, "floor of the cosine −1", above=False)
    if any(drawn.get_gid() for drawn in ax.lines):  # also if an earlier run drew the floor
        low, high = -1.0, max(-0.9, *extent(ax))
        ax.set_ylim(low - 0.14 * (high - low), high + 0.05 * (high - low))


def std(ax: Axes, history: History, color: str) -> None:
    """Draw the std of z/|z| as in the paper, without the factor sqrt(d) of the records, and 1/sqrt(d)."""
    even = 1 / math.sqrt(history.settings.method.dim)
    steps_and_means(ax, history, "std", color, scale=even)
    ax.set_ylim(0, 1.2 * max(even, *extent(ax)))
    reference(ax, even, f"1/√d = {even:.3g}", above=True)


def knn(ax: Axes, history: History, color: str) -> None:
    """Draw kNN accuracy, from that of the random initialization on, with both baselines."""
    x, y = history.series("epoch", "knn")
    latest = history.latest()
    pixels, untrained = (latest.get(name) for name in BASELINES)
    if untrained is not None:
        x, y = np.r_[0.0, x], np.r_[untrained, y]
    line(ax, x, y, color, "knn")
    ax.set_ylim(0, min(1.0, 1.15 * max(0.1, *extent(ax), pixels or 0.0)))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    if pixels is not None:
        above = untrained is None or pixels >= untrained
        reference(ax, pixels, f"{BASELINES['pixel_knn']} {percent(pixels)}", above)
    if untrained is not None:
        above = pixels is not None and untrained > pixels
        reference(ax, untrained, f"{BASELINES['untrained_knn']} {percent(untrained)}", above)


def epochs_from_zero(name: str, ax: Axes, history: History, color: str) -> None:
    """Draw a quantity of the epochs on an axis from zero."""
    line(ax, *history.series("epoch", name), color, name)
    from_zero(ax)


def steps_from_zero(name: str, ax: Axes, history: History, color: str) -> None:
    """Draw a quantity of the steps on an axis from zero."""
    line(ax, *history.series("step", name), color, name)
    from_zero(ax)


def figure2(histories: Mapping[str, History]) -> Figure:
    """Draw Figure 2: loss, std and kNN side by side, one line for each named run."""
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
