"""Render the report page and the components shared by its sections.

All HTML comes from templates/; every value that is not Markup is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from siam import __version__
from siam.runs.folder import REPORT
from siam.system.files import write_atomically
from siam.system.names import shown, shown_values

_TEMPLATES = Environment(
    loader=PackageLoader("siam.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=shown_values,
)


@dataclass(frozen=True)
class Bar:
    """A labeled bar on a card."""

    label: str
    value: str
    fraction: float
    """Bar length, from 0 to 1."""
    own: bool = False
    """True if the bar shows the run itself rather than a baseline."""


@dataclass(frozen=True)
class Card:
    """A key number with its label and, optionally, bars that compare it with baselines."""

    value: str
    label: str
    bars: Sequence[Bar] = ()


def render(template: str, **values: object) -> Markup:
    """Render a template from templates/ with the given values.

    Raises UndefinedError if the template uses a value that is not given.
    """
    return Markup(_TEMPLATES.get_template(template).render(**values))  # autoescaped


def write_page(folder: Path, sections: Iterable[Markup | str]) -> Path:
    """Write a self-contained report.html to `folder` and return its path.

    sections: HTML in page order; empty sections are skipped, and plain strings are
    escaped. Raises OSError if writing fails.
    """
    style = (files("siam.report") / "report.css").read_text(encoding="utf-8")
    page = render(
        "page.html",
        name=folder.resolve().name,
        style=Markup(style),
        sections=[section for section in sections if section],
        version=__version__,
    )
    text = "\n".join(map(shown, page.split("\n")))
    file = folder / REPORT
    write_atomically(file, lambda out: out.write(text.encode()))
    return file


def header(
    name: str,
    pill: str,
    facts: Mapping[str, str],
    cards: Sequence[Card],
    style: str = "",
    meaning: str = "",
    advice: str = "",
) -> Markup:
    """Render the page header: name, verdict or task, facts, and cards with key numbers.

    pill: the verdict of a pretraining run, or the task of a transfer run. facts:
    terms and their descriptions. style: CSS class of the verdict (healthy, risk or
    collapsed). meaning: an explanation of the verdict. advice: how to fix the run.
    """
    return render(
        "header.html",
        name=name, pill=pill, facts=facts, cards=cards, style=style, meaning=meaning, advice=advice,
    )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: int = 0) -> Markup:
    """Render a table in a scrollable box. marked: number of leading rows to highlight."""
    return render("table.html", head=head, rows=rows, marked=marked)


def settings_table(settings: Mapping[str, Any]) -> Markup:
    """Render all settings, nested as in settings.yaml, as a collapsible table."""
    groups = {"": {name: value for name, value in settings.items() if not isinstance(value, dict)}}
    groups |= {name: group for name, group in settings.items() if isinstance(group, dict)}
    shown = {name: {key: _setting(value) for key, value in group.items()} for name, group in groups.items()}
    return render("settings.html", groups=shown)


def _setting(value: Any) -> str:
    """Format a setting; two ascending numbers become a range: [0.4, 1.0] -> '0.4 to 1'.

    Other lists are joined by commas.
    """
    if not isinstance(value, list):
        return str(value)
    between = " to " if len(value) == 2 and value[0] < value[1] else ", "
    return between.join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
