"""Report header: the verdict with advice, a summary of the run, and key numbers."""

import math
from typing import Any

from markupsafe import Markup

from siam import objectives
from siam.measure.collapse import ADVICE
from siam.measure.usefulness import usefulness
from siam.methods import METHODS, Method, title
from siam.report.contents import Contents
from siam.report.curves import Panel, panels
from siam.report.formats import duration, number
from siam.report.html import Bar, Card, header, render
from siam.runs.folder import UNREADABLE
from siam.runs.history import History
from siam.settings.pretraining import Settings

ORDER = 0

FIGURE3 = {
    "predictor": {
        "learned": "learned predictor",
        "fixed": "predictor fixed at initialization",
        "none": "no predictor",
    },
    "target": {
        "stop_gradient": "stop-gradient on the target branch",
        "momentum": "momentum encoder as the target branch",
        "gradient": "gradient through both branches",
    },
    "symmetry": {
        "symmetric": "symmetric loss",
        "asymmetric": "asymmetric loss",
        "asymmetric_2x": "asymmetric loss on two pairs per image",
    },
}
"""Descriptions of the design choices compared in SimSiam, Figure 3: Method field -> value -> text.

Each module in siam/objectives describes its own objective.
"""


def html(run: Contents) -> Markup:
    """Render the page header."""
    settings, latest = run.settings, run.history.latest()
    optimizer = settings.optimizer
    pill, style, meaning, advice = _verdict(run.history, latest)
    facts = {
        "Method": _method(settings.method),
        "Data": _data(settings.data, latest, run.unreadable),
        "Backbone": _backbone(settings, latest),
        "Training": f"{settings.epochs:g} epochs in batches of {settings.batch_size}, {optimizer.name} at "
        f"{optimizer.lr:g} × batch / 256, seed {settings.seed}",
    }
    cards = _cards(run.history, latest)
    return header(run.folder.resolve().name, pill, facts, cards, style, meaning, advice)


def _verdict(history: History, latest: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the verdict, its CSS class, its meaning, and advice ("" if none).

    The verdict is read from the records; `siam.measure.collapse` determined it during
    training.
    """
    if not all(math.isfinite(latest.get(name, 0.0)) for name in ("loss", "std")):
        meaning = "The loss is no longer finite, so training cannot continue."
        return "diverged", "collapsed", meaning, "Lower optimizer.lr, or set precision to float32."
    if "verdict" not in latest or "std" not in latest:
        return "no verdict yet", "", "The verdict appears at the end of the first epoch.", ""
    verdict, so_far = latest["verdict"], "" if history.records[-1]["kind"] == "end" else " so far"
    meaning = f"std × √d is {latest['std']:.3f}, where 1 means evenly spread directions and 0 means collapse."
    if verdict in ADVICE:
        advice = ADVICE[verdict]
        style = "risk" if verdict == "at risk" else "collapsed"
        return verdict + so_far, style, meaning, advice[0].upper() + advice[1:]
    compared, advice = usefulness(latest)
    meaning = f"The images have distinct representations: {meaning} {compared[:1].upper()}{compared[1:]}"
    return verdict + so_far, "healthy", meaning.strip(), advice


def _method(method: Method) -> Markup:
    """Render the method, marking its differences from the published method."""
    published = METHODS.get(method.name, method)
    choices = []
    for field in ("predictor", "target", "objective", "symmetry"):
        value = getattr(method, field)
        words = objectives.words(value) if field == "objective" else FIGURE3[field][value]
        choices.append((words, value != getattr(published, field)))
    return render("method.html", title=title(method.name), choices=choices)


def _data(data: str, latest: dict[str, Any], unreadable: int) -> str:
    words = "the built-in demo dataset" if data == "demo" else data
    if "images" in latest:
        words += f", {latest['images']:,} images"
    if latest.get("val_images"):
        words += f" and {latest['val_images']:,} for validation"
    return words + (f"; {unreadable:,} unreadable, listed in {UNREADABLE}" if unreadable else "")


def _backbone(settings: Settings, latest: dict[str, Any]) -> str:
    words = settings.backbone + (f" × {settings.width:g}" if settings.width != 1 else "")
    if "parameters" in latest:
        words += f", {latest['parameters'] / 1e6:.1f} million parameters"
    return f"{words}, views of {settings.views.size} × {settings.views.size} pixels"


def _cards(history: History, latest: dict[str, Any]) -> list[Card]:
    """Return cards for the key numbers logged so far; cards with bars come first."""
    cards = []
    for shown in panels(history):
        if shown.label and shown.name in latest:
            value = number(latest[shown.name], shown.format)
            cards.append(Card(value, shown.label, _bars(shown, latest)))
    if "step" in latest or "steps" in latest:
        steps = latest.get("steps", latest.get("step"))
        epochs = sum(record["kind"] == "epoch" for record in history.records)
        took = duration(latest["seconds"]) if "seconds" in latest else "running"
        cards.append(Card(took, f"{epochs} of {history.settings.epochs:g} epochs, {steps:,} steps"))
    return sorted(cards, key=lambda card: not card.bars)


def _bars(shown: Panel, latest: dict[str, Any]) -> list[Bar]:
    """Return bars that compare the run with its baselines.

    A full bar is 100 % for percentages, otherwise the largest value.
    """
    compared = {shown.name: "this run", **shown.baselines} if shown.baselines else {}
    known = {name: latest[name] for name in compared if name in latest}
    full = 1.0 if shown.format.endswith("%") else max(known.values(), default=1.0)
    return [
        Bar(
            compared[name],
            number(value, shown.format),
            max(0.0, value / full) if full > 0 else 0.0,
            name == shown.name,
        )
        for name, value in known.items()
    ]
