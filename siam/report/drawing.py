"""Plotting helpers shared by all charts: colors, lines, panel style, inline SVG."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from siam.runs.history import Records, Series

INK, MUTED, GRID = "#1f2328", "#68707a", "#e3e6ea"
LINES = ("#2563c9", "#c2541b", "#1a7f4b", "#8a3fa8", "#a8801a", "#c2357f", "#1f8a99")
PALETTE = {"ink": INK, "muted": MUTED, "grid": GRID, **{f"line{i}": line for i, line in enumerate(LINES)}}
"""Colors of the light theme: CSS variable in report.css -> color."""

MAX_POINTS = 400

R = TypeVar("R", bound=Records)


def panel(draw: Callable[[Axes, R, str], None], records: R, title: str, height: float = 3.0) -> Figure:
    """Return a figure with one panel, 4.6 x `height` inches.

    draw: plots the data; called with the axes, the records and the line color.
    """
    figure = Figure(figsize=(4.6, height), layout="constrained")
    ax = figure.add_subplot()
    draw(ax, records, LINES[0])
    dress(ax, title, [records])
    return figure


def dress(ax: Axes, title: str, drawn: Sequence[Records]) -> None:
    """Apply the common style: title, fonts, spines, grid, and x axis.

    drawn: the plotted records, which determine the range of the x axis.
    """
    in_epochs = [records for records in drawn if records.steps_per_epoch is not None]
    ax.set_title(title, loc="left", fontsize=12, color=INK, fontweight="bold")
    ax.set_xlabel("epoch" if in_epochs else "step", fontsize=10, color=MUTED, loc="right")
    ax.set_xlim(0, max((records.end for records in in_epochs or drawn), default=0) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    ax.tick_params(labelsize=10, labelcolor=MUTED, length=0, pad=5)
    ax.tick_params(axis="x", pad=7)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)


def line(
    ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: str, label: str, faint: bool = False
) -> None:
    """Plot a line; add markers if it has at most 20 points and is not faint."""
    x, y = thinned(x, y)
    marker = "o" if len(x) <= 20 and not faint else ""
    width, alpha = (1.0, 0.35) if faint else (1.8, 1.0)
    (drawn,) = ax.plot(x, y, color=color, linewidth=width, alpha=alpha, label=label, clip_on=False)
    drawn.set(marker=marker, markersize=3.5, in_layout=False)  # an all-NaN line would have no extent


def steps_and_means(ax: Axes, records: Records, name: str, color: str, scale: float = 1.0) -> None:
    """Plot epoch means over a faint line of the logged steps.

    Before the first epoch ends, only the steps are plotted.
    """
    x, y = records.series("step", name)
    middles, means = records.series("epoch", name, before=0.5)
    line(ax, x, y * scale, color, f"{name} of steps", faint=len(means) > 0)
    line(ax, middles, means * scale, color, f"{name} of epochs")


def reference(ax: Axes, y: float, text: str, above: bool) -> None:
    """Draw a dashed horizontal line at `y`, labeled at its right end.

    Does nothing if the axes already have a reference line with this text.
    """
    if any(other.get_gid() == text for other in ax.lines):  # shared by several runs
        return
    ax.axhline(y, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), label=text).set_gid(text)
    ax.annotate(
        text, (1, y), (0, 3 if above else -3), xycoords=ax.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="bottom" if above else "top", color=MUTED, fontsize=9.5,
    )  # fmt: skip


def extent(ax: Axes) -> tuple[float, float]:
    """Return the smallest and largest finite y values in the plot; (0, 0) if none."""
    values = np.concatenate([np.zeros(0), *(np.asarray(line.get_ydata(), dtype=float) for line in ax.lines)])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def from_zero(ax: Axes, *others: float) -> None:
    """Start the y axis at zero and include all plotted values and `others`."""
    high = max(*extent(ax), *others)
    ax.set_ylim(0, 1.12 * high if high > 0 else 1)


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Series:
    """Downsample a series by averaging to at most 400 points, to keep reports small."""
    if len(x) <= MAX_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MAX_POINTS + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def inline_svg(figure: Figure, name: str) -> Markup:
    """Render a figure as an <svg> element; identical figures produce identical markup.

    Palette colors become CSS variables (--ink, --muted, --grid, --line0, ...), and text
    uses the page's font. name: the accessible label; must be unique on the page,
    because element ids are derived from it.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    start = f'<svg {view_box[0]} role="img" aria-label="{escape(name)}">'
    svg = start + svg[svg.index(">") + 1 :]
    svg = re.sub(r"font-family:[^;\"]*; ?", "", svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for variable, color in PALETTE.items():
        svg = svg.replace(color, f"var(--{variable})")
    return Markup(re.sub(r"\n\s*", "\n", svg))  # matplotlib escapes text
