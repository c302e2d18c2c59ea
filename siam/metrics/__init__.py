"""Metrics measured between epochs; each module in this package is one metric.

In metrics.jsonl, --json and tables, a metric has the name of its module. The module defines

    TITLE                       title in the report
    FORMAT                      "percent", or a format spec such as ".1f"
    measure(look)               returns a float, or None if the metric cannot be measured

and optionally

    CAPTION                     caption of the curve in the report
    LABEL                       short name in the terminal and tables (default: module name); "" to hide
    ORDER                       sort key among the metrics (default: 0)
    due(settings, epoch, last)  returns False to skip an epoch (default: every monitor.every epochs)
    LIVE                        True to show the latest value next to the progress bar
    QUERIES                     True if the metric needs features of the validation images
    PAIRS                       True if the metric needs features of pairs of augmented views
    BASELINES                   True to also measure raw pixels and the untrained network (pixel_NAME,
                                untrained_NAME)
    draw(axes, history, color)  draws the report panel (default: a curve over the epochs)
    note(settings, latest)      returns a note for the report card; latest: last logged values by name
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from siam import plugins
from siam.settings.pretraining import MonitorSettings, Settings

Values = dict[str, float | None]
"""Metric values by name; None if not measured."""


@dataclass(frozen=True)
class Look:
    """Input to the metrics: features from a forward pass over the sampled images, on the CPU.

    Each rank has its own `queries` and `query_labels`; everything else is the same on all ranks.
    """

    settings: MonitorSettings
    features: Tensor
    """Backbone features of the bank, (N, D)."""
    sample: Tensor
    """Features of up to 2,048 evenly spaced bank images, (n, D)."""
    z: Tensor | None = None
    """Projections of the sample, (n, d); None for raw pixels."""
    labels: Tensor | None = None
    """Class of each bank image, (N,), UNLABELED for those without; None without labels."""
    classes: int = 0
    """Number of classes."""
    queries: Tensor | None = None
    """Features of the queries (validation images), (M, D); None without labels."""
    query_labels: Tensor | None = None
    """Class of each query, (M,), UNLABELED for those without; None without labels."""
    pairs: Tensor | None = None
    """Features of two augmented views of each of n training images, (n, 2, D); None if not needed."""


def all_metrics() -> dict[str, ModuleType]:
    """Return the metric modules by name, sorted by ORDER."""
    return {module.__name__.rpartition(".")[2]: module for module in plugins.modules(__name__)}


def due_metrics(settings: Settings, epoch: int, last: bool) -> dict[str, ModuleType]:
    """Return the metrics to measure at the end of `epoch`, by name. last: True for the run's last epoch."""
    due = (settings, epoch, last)
    return {name: m for name, m in all_metrics().items() if not hasattr(m, "due") or m.due(*due)}


def baseline_metrics() -> dict[str, ModuleType]:
    """Return the metrics that are also measured on raw pixels and on the untrained network, by name."""
    return {name: module for name, module in all_metrics().items() if getattr(module, "BASELINES", False)}


def live_metrics() -> list[str]:
    """Return the names of the metrics that are shown next to the progress bar."""
    return [name for name, module in all_metrics().items() if getattr(module, "LIVE", False)]


def label(name: str, module: ModuleType) -> str:
    """Return a metric's short name, or "" if it is hidden in the terminal and in tables."""
    return str(getattr(module, "LABEL", name))


def format_value(module: ModuleType, value: float | None) -> str:
    """Format a value by its metric's FORMAT; None becomes "-"."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if module.FORMAT == "percent" else f"{value:{module.FORMAT}}"


def in_words(values: dict[str, Any]) -> Iterator[str]:
    """Yield the text for each metric that has a label, such as 'rank 12.3' or 'kNN 45.6 %'."""
    for name, module in all_metrics().items():
        if label(name, module) and name in values:
            yield f"{label(name, module)} {format_value(module, values[name])}"
