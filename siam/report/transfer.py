"""report.html of a transfer: average precision beside the published one, what was found, the losses."""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from siam.report.curves import GRID, INK, LINES, MUTED, inline_svg, thinned
from siam.report.page import save_page, settings_html
from siam.runs.folder import METRICS
from siam.settings.plain import from_dict
from siam.transfer.result import DRAWN, NAMES, RESULT, Outcome, load_outcome, rows
from siam.transfer.settings import TransferSettings

_MOST_CLASSES = 80


def write_page(folder: Path) -> None:
    """Write report.html of a transfer that has ended."""
    outcome = load_outcome(folder)
    assert outcome is not None
    plain = yaml.safe_load((folder / "transfer.yaml").read_text())
    run, data = plain.pop("run"), plain.pop("data")
    settings = from_dict(plain, TransferSettings())
    name = escape(folder.resolve().name)
    sections = [results_html(folder, outcome), _curves(folder), settings_html(settings)]
    save_page(folder, name, _header(name, run, data, settings, outcome), sections)


def transfers_html(folder: Path) -> str:
    """A line for each transfer below RUN/transfer/, and what the newest found."""
    ended = {child: load_outcome(child) for child in sorted(folder.iterdir())}
    outcomes = {child: outcome for child, outcome in ended.items() if outcome is not None}
    if not outcomes:
        return ""
    lines = [
        f"<tr><td>{escape(child.name)}</td><td>{kind}</td>"
        + "".join(f"<td>{_percent(getattr(precision, name))}</td>" for name in NAMES)
        + f"<td>{outcome.train_images:,} / {outcome.test_images:,}</td></tr>"
        for child, outcome in outcomes.items()
        for kind, precision in outcome.kinds().items()
    ]
    head = "".join(f"<th>{name}</th>" for name in ("", "", *NAMES.values(), "images"))
    newest = max(outcomes, key=lambda child: (child / RESULT).stat().st_mtime)
    return (
        f'<h2>Transfer</h2>\n<div class="evaluation"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>\n" + drawn_html(newest)
    )


def results_html(folder: Path, outcome: Outcome) -> str:
    """The table, the classes, and photographs with what was found in them."""
    measured = len(outcome.kinds())
    head = "".join(f"<th>{name}</th>" for name in ("%", *NAMES.values()))
    lines = [
        f"<tr{' class=changed' if i < measured else ''}>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>"
        for i, row in enumerate(rows(outcome))
    ]
    classes = sorted(outcome.boxes.per_class.items(), key=lambda item: -item[1])[:_MOST_CLASSES]
    per_class = ", ".join(f"{escape(name)} {100 * value:.1f}" for name, value in classes)
    return (
        "<h2>Average precision</h2>\n"
        '<p class="note">Of this run, then what was published (SimSiam, Table 5) for a ResNet-50-C4 that was '
        "pretrained on ImageNet and fine-tuned and tested on the whole sets: to be set beside, not to be "
        "equalled by, another network on other data.</p>\n"
        f'<div class="evaluation"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        f"</table></div>\n<p><b>AP of boxes by class</b>: {per_class or 'none'}</p>\n" + drawn_html(folder)
    )


def drawn_html(folder: Path) -> str:
    """Photographs with true and predicted boxes."""
    files = sorted((folder / DRAWN).glob("*.jpg"))
    if not files:
        return ""
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}" '
        f'alt="test photograph {int(file.stem)} with predictions" style="max-width:100%">'
        for file in files
    )
    return (
        f"<h2>What {escape(folder.name)} found</h2>\n"
        '<p class="note">Test photographs. White: true boxes. In color: predictions of score 0.5 or more, '
        "or else the best one.</p>\n"
        f'<div style="display:flex;flex-wrap:wrap;gap:.8rem;align-items:flex-start">{images}</div>'
    )


def _header(name: str, run: str, data: str, settings: TransferSettings, outcome: Outcome) -> str:
    facts = {
        "Backbone": f"{settings.init or run}{' (random weights)' if settings.init == 'random' else ''}",
        "Data": f"{data}: {outcome.train_images:,} photographs, {outcome.test_images:,} to test",
        "Training": f"{settings.detector}, {settings.iterations:,} steps of {settings.batch_size} at "
        f"{settings.lr:g} × batch / 16, seed {settings.seed}; {outcome.seconds / 60:.1f} minutes",
        "Left out": "; ".join(f"{count} × {reason}" for reason, count in outcome.skipped.items())
        or "nothing",
    }
    terms = "".join(f"<dt>{term}</dt><dd>{escape(fact)}</dd>" for term, fact in facts.items())
    cards = "".join(
        f'<div class="card"><b>{_percent(getattr(precision, field))}</b><span>{title} of {kind}</span></div>'
        for kind, precision in outcome.kinds().items()
        for field, title in list(NAMES.items())[:3]
    )
    return (
        f'<header><div class="title"><h1>{name}</h1> <span class="pill">{settings.task}</span></div>\n'
        f'<dl>{terms}</dl>\n<div class="cards">{cards}</div></header>'
    )


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _curves(folder: Path) -> str:
    """The losses and the learning rate over the steps."""
    lines = (folder / METRICS).read_text().split("\n")[:-1]
    records = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    if not records:
        return ""
    names = [name for name in records[0] if name.startswith("loss")]
    panels = [_panel(records, names, "losses"), _panel(records, ["lr"], "learning rate")]
    return f'<h2>Curves</h2>\n<div class="curves">{"".join(panels)}</div>'


def _panel(records: list[dict[str, Any]], names: list[str], title: str) -> str:
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    ax = figure.add_subplot()
    ax.set_title(title, loc="left", fontsize=12, color=INK, fontweight="bold")
    steps = np.array([record["step"] for record in records], dtype=np.float64)
    for color, name in zip(LINES, names, strict=False):
        values = np.array([record[name] for record in records], dtype=np.float64)
        ax.plot(*thinned(steps, values), color=color, label=name.removeprefix("loss_").replace("_", " "))
    ax.set_ylim(0)
    ax.set_xlabel("step", fontsize=10, color=MUTED, loc="right")
    ax.tick_params(labelsize=10, labelcolor=MUTED, length=0, pad=5)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    if len(names) > 1:
        ax.legend(frameon=False, labelcolor=MUTED)
    return f"<figure>{inline_svg(figure, title.replace(' ', '-'))}</figure>"
