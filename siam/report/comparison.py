"""Say in words which encoder to use, and write the page of `siam compare`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from siam.errors import RunError
from siam.metrics import all_metrics, format_value, label
from siam.report.formats import percent
from siam.report.html import Bar, Card, header, render, table, write_page
from siam.runs.folder import REPORT
from siam.runs.results import PIXELS, UNTRAINED, Compared
from siam.system.files import ELSEWHERE, regular, writing

_WORDS = {PIXELS: "raw pixels", UNTRAINED: "the untrained network"}
_INTERVAL = 1.96  # standard deviations in a 95 % interval
_FOOTER = "<footer>Written by siam"


def conclusion(rows: Sequence[Compared]) -> str:
    """Return in words which encoder classifies the images best, and what follows from that."""
    ranked = sorted((row for row in rows if _knn(row) is not None), key=lambda row: -(_knn(row) or 0))
    if not ranked:
        return (
            "without labels, nothing here says which encoder tells your classes apart: the other measures "
            "describe how the features are spread"
        )
    best, accuracy = ranked[0], _knn(ranked[0]) or 0.0
    words = f"best by kNN accuracy: {_name(best)}, {percent(accuracy)} of {best.queries:,} images"
    chance = _chance(accuracy, best.queries)
    close = [row for row in ranked[1:] if accuracy - (_knn(row) or 0) <= chance]
    if close:
        words += f"; within chance ({100 * chance:.1f} points): {', '.join(map(_name, close))}"
    elif len(ranked) > 1:
        points = 100 * (accuracy - (_knn(ranked[1]) or 0))
        words += f", {points:.1f} points above {_name(ranked[1])}"
    return words + _advice(rows, [best, *close])


def _chance(accuracy: float, queries: int) -> float:
    """Return the largest difference between two accuracies that chance explains, at the level of 95 %.

    One success and one failure are added, so that an accuracy of 1 is not certain either.
    """
    p = (accuracy * queries + 1) / (queries + 2)
    return _INTERVAL * (2 * p * (1 - p) / queries) ** 0.5


def _advice(rows: Sequence[Compared], best: Sequence[Compared]) -> str:
    """Return the end of the conclusion. best: the most accurate encoder, and those as accurate."""
    if not any(row.kind in ("run", "pretrained") for row in rows):
        return ": this is what an encoder has to exceed"
    if baselines := [_name(row) for row in best if row.kind in _WORDS]:
        return (
            f": no encoder is clearly better than {' or '.join(baselines)}; train longer, or start from "
            "weights that exist (--init timm:NAME)"
        )
    name = next((row.encoder for row in best if row.kind == "pretrained"), None)
    if name is None:
        return ""
    return f": use {name} as it is (siam embed), or train on from it (siam pretrain --init {name})"


def cells(rows: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of all encoders, as text, without measures that none has."""
    shown = {name: module for name, module in _metrics(rows).items() if label(name, module)}
    labeled = any(row.probe is not None for row in rows)
    head = ["encoder", "network", "px", "D", "parameters", "images/s"]
    head += [label(name, module) for name, module in shown.items()] + ["probe"] * labeled
    body = []
    for row in rows:
        parameters = f"{row.parameters / 1e6:.1f} M" if row.parameters else "-"
        speed = "-" if row.images_per_second is None else f"{row.images_per_second:,.0f}"
        values = [format_value(module, row.metrics.get(name)) for name, module in shown.items()]
        facts = [row.encoder, row.network or "-", str(row.image_size), f"{row.features:,}", parameters, speed]
        body.append([*facts, *values, *[percent(row.probe)] * labeled])
    return head, body


def write_comparison(folder: Path, data: str, rows: Sequence[Compared]) -> Path:
    """Write report.html, a self-contained page on a comparison, to `folder` and return its path.

    An earlier page is replaced. Raises RunError if the folder holds anything else or cannot be written.
    """
    _require_own(folder)
    queries = rows[0].queries
    facts = {
        "Data": data,
        "Labels": f"{queries:,} labeled images were classified" if queries else "none",
        "Encoders": ", ".join(row.encoder for row in rows),
    }
    cards = [*_cards(rows, "kNN accuracy", _knn), *_cards(rows, "linear probe", _probe)]
    notes = {"px": "side of the images that the encoder takes", "D": "features per image"}
    notes |= {"images/s": "the network alone, on this machine"}
    notes |= {
        label(name, module): f"{module.TITLE}. {getattr(module, 'CAPTION', '')}".strip()
        for name, module in _metrics(rows).items()
        if label(name, module)
    }
    notes |= {"probe": "accuracy of a logistic regression on the features"} if queries else {}
    head, body = cells(rows)
    sections = [
        header(f"Encoders on {data}", "comparison", facts, cards, meaning=conclusion(rows)),
        render("comparison.html", table=table(head, body), notes=notes),
    ]
    with writing(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        return write_page(folder, sections)


def _require_own(folder: Path) -> None:
    """Raise RunError unless `folder` is new, empty, or holds nothing but an earlier page."""
    if not folder.exists():
        return
    with writing(folder, ELSEWHERE):
        others = sorted(file.name for file in folder.iterdir() if file.name != REPORT)
        page = folder / REPORT
        own = not page.exists() or _FOOTER in regular(page).read_text(encoding="utf-8", errors="replace")
    if others or not own:
        name = others[0] if others else REPORT
        raise RunError(f"{folder} already contains {name}, which is no comparison: choose another --out")


def _cards(rows: Sequence[Compared], title: str, value: Callable[[Compared], float | None]) -> list[Card]:
    """Return a card with the best value and a bar for each encoder; none if no encoder has a value."""
    known = [(row, number) for row in rows if (number := value(row)) is not None]
    bars = [Bar(row.encoder, percent(number), number, row.kind not in _WORDS) for row, number in known]
    return [Card(percent(max(number for _, number in known)), title, bars)] if known else []


def _metrics(rows: Sequence[Compared]) -> dict[str, ModuleType]:
    """Return the metrics that at least one encoder has, by name."""
    return {
        name: module
        for name, module in all_metrics().items()
        if any(row.metrics.get(name) is not None for row in rows)
    }


def _knn(row: Compared) -> float | None:
    return row.metrics.get("knn")


def _probe(row: Compared) -> float | None:
    return row.probe


def _name(row: Compared) -> str:
    return _WORDS.get(row.kind, row.encoder)
