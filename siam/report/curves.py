"""The curves of SimSiam's Figure 2 (Chen & He 2021): loss, std of z/|z|, kNN, and what else a run logged.

A panel is a function that draws one of them on given axes; `panel` and `figure2` put panels on figures.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from siam.runs.history import History, Series

INK, MUTED, GRID = "#1f2328", "#68707a", "#e3e6ea"
LINES = ("#2563c9", "#c2541b", "#1a7f4b", "#8a3fa8", "#a8801a", "#c2357f", "#1f8a99")
PALETTE = {"ink": INK, "muted": MUTED, "grid": GRID, **{f"line{i}": line for i, line in enumerate(LINES)}}

MOST_POINTS = 400


Draw = Callable[[Axes, History, str], None]
"""axes, what to draw, the color of the line"""


def loss(ax: Axes, history: History, color: str) -> None:
    """The loss; of the cosine objective down to its floor of -1, where a run without stop-gradient ends."""
    ax.set_title("loss")
    _steps_and_means(ax, history, "loss", color)
    if history.settings.method.objective == "cosine":
        _reference(ax, -1.0, "floor of the cosine −1", above=False)
    if any(line.get_gid() for line in ax.lines):  # also where a run before this one had the floor
        low, high = -1.0, max(-0.9, *_drawn(ax))
        ax.set_ylim(low - 0.14 * (high - low), high + 0.05 * (high - low))


def std(ax: Axes, history: History, color: str) -> None:
    """The std of z/|z| as in the paper, hence what was recorded without its factor sqrt(d), and 1/sqrt(d)."""
    even = 1 / math.sqrt(history.settings.method.dim)
    ax.set_title("std of z/|z|")
    _steps_and_means(ax, history, "std", color, scale=even)
    ax.set_ylim(0, 1.2 * max(even, *_drawn(ax)))
    _reference(ax, even, f"1/√d = {even:.3g}", above=True)


def knn(ax: Axes, history: History, color: str) -> None:
    """kNN accuracy; it starts where random initialisation stands."""
    ax.set_title("kNN accuracy")
    x, y = history.series("epoch", "knn")
    facts = history.latest()
    raw, random = facts.get("pixel_knn"), facts.get("untrained_knn")
    if random is not None:
        x, y = np.r_[0.0, x], np.r_[random, y]
    _line(ax, x, y, color, "knn")
    high = max(0.1, *_drawn(ax), raw or 0.0)
    ax.set_ylim(0, min(1.0, 1.15 * high))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    if raw is not None:
        _reference(ax, raw, f"raw pixels {100 * raw:.1f} %", above=random is None or raw >= random)
    if random is not None:
        _reference(ax, random, f"random init {100 * random:.1f} %", above=raw is not None and random > raw)


def rank(ax: Axes, history: History, color: str) -> None:
    """Effective rank of the backbone's features."""
    ax.set_title("effective rank of the features")
    _line(ax, *history.series("epoch", "rank"), color, "rank")
    _from_zero(ax)


def learning_rate(ax: Axes, history: History, color: str) -> None:
    """Learning rate of all but the predictor, which may stay constant."""
    ax.set_title("learning rate")
    _line(ax, *history.series("step", "lr"), color, "lr")
    _from_zero(ax)


def rate(ax: Axes, history: History, color: str) -> None:
    """Pairs per second, so that a stalling loader is seen."""
    ax.set_title("pairs per second")
    _line(ax, *history.series("step", "pairs_per_second"), color, "pairs_per_second")
    _from_zero(ax)


def panel(draw: Draw, history: History, height: float = 3.0) -> Figure:
    """One panel, 4.6 inches wide."""
    figure = Figure(figsize=(4.6, height), layout="constrained")
    ax = figure.add_subplot()
    draw(ax, history, LINES[0])
    _dress(ax, [history])
    return figure


def figure2(histories: Mapping[str, History]) -> Figure:
    """Figure 2: the three curves side by side, one line for each named run."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for ax, draw in zip(figure.subplots(1, 3), (loss, std, knn), strict=True):
        for i, (name, history) in enumerate(histories.items()):
            color = LINES[i % len(LINES)]
            draw(ax, history, color)
            ax.plot([], [], color=color, label=name)  # for the legend
        _dress(ax, list(histories.values()))
    if len(histories) > 1:
        handles = [line for line in figure.axes[0].lines if line.get_label() in histories]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def inline_svg(figure: Figure, name: str) -> str:
    """An <svg> element to stand in a page; the same figure gives the same text.

    The palette's colors become CSS variables (--ink, --muted, --grid, --line0, ...); the font is the page's.
    name: unique in the page, since ids within the drawing derive from it.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg) .*?(viewBox="[^"]*").*?>', rf'\1 \2 role="img" aria-label="{name}">', svg, count=1)
    svg = re.sub(r"font-family:[^;\"]*; ?", "", svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for variable, color in PALETTE.items():
        svg = svg.replace(color, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", svg)


def _steps_and_means(ax: Axes, history: History, name: str, color: str, scale: float = 1.0) -> None:
    """Logged steps as a faint line, means of epochs over it; the steps alone before there are any."""
    x, y = history.series("step", name)
    middles, means = history.series("epoch", name, before=0.5)
    _line(ax, x, y * scale, color, f"{name} of steps", faint=len(means) > 0)
    _line(ax, middles, means * scale, color, f"{name} of epochs")


def _line(
    ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: str, label: str, faint: bool = False
) -> None:
    x, y = thinned(x, y)
    marker = "o" if len(x) <= 20 and not faint else ""
    width, alpha = (1.0, 0.35) if faint else (1.8, 1.0)
    (line,) = ax.plot(x, y, color=color, linewidth=width, alpha=alpha, label=label, clip_on=False)
    line.set(marker=marker, markersize=3.5, in_layout=False)  # nowhere, where all of it is NaN


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Series:
    """At most 400 points, each the mean of its span: a run of weeks still makes a small page."""
    if len(x) <= MOST_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MOST_POINTS + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def _drawn(ax: Axes) -> list[float]:
    """Smallest and largest finite value drawn so far, or nothing but zeros."""
    values = np.concatenate([np.zeros(0), *(np.asarray(line.get_ydata(), dtype=float) for line in ax.lines)])
    values = values[np.isfinite(values)]
    return [float(values.min()), float(values.max())] if len(values) else [0.0, 0.0]


def _from_zero(ax: Axes) -> None:
    high = max(_drawn(ax))
    ax.set_ylim(0, 1.12 * high if high > 0 else 1)


def _reference(ax: Axes, y: float, text: str, above: bool) -> None:
    """A dashed line at y, named at its right end."""
    if any(line.get_gid() == text for line in ax.lines):  # the same for several runs
        return
    ax.axhline(y, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), label=text).set_gid(text)
    ax.annotate(
        text, (1, y), (0, 3 if above else -3), xycoords=ax.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="bottom" if above else "top", color=MUTED, fontsize=9.5,
    )  # fmt: skip


def _dress(ax: Axes, histories: Sequence[History]) -> None:
    """Type, spines, grid and the x axis, the same on every panel."""
    in_epochs = [h for h in histories if h.steps_per_epoch is not None]
    ax.set_title(ax.get_title(), loc="left", fontsize=12, color=INK, fontweight="bold")
    ax.set_title("", loc="center")
    ax.set_xlabel("epoch" if in_epochs else "step", fontsize=10, color=MUTED, loc="right")
    ax.set_xlim(0, max((h.end for h in in_epochs or histories), default=0) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    ax.tick_params(labelsize=10, labelcolor=MUTED, length=0, pad=5)
    ax.tick_params(axis="x", pad=7)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
