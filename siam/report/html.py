"""The page frame and the components that sections share: header, cards, tables.

All HTML comes from templates/, and every value except Markup is escaped.
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

_TEMPLATES = Environment(
    loader=PackageLoader("siam.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Bar:
    """One labeled bar on a card."""

    label: str
    value: str
    fraction: float
    """Bar length, from 0 to 1."""
    own: bool = False
    """True if the bar shows the run itself, False if it shows a baseline."""


@dataclass(frozen=True)
class Card:
    """A key number with its label and, optionally, bars that compare it with baselines."""

    value: str
    label: str
    bars: Sequence[Bar] = ()


def render(template: str, **values: object) -> Markup:
    """Render a template from templates/. Raises UndefinedError if a value it uses is missing."""
    return Markup(_TEMPLATES.get_template(template).render(**values))  # autoescaped


def write_page(folder: Path, sections: Iterable[Markup | str]) -> Path:
    """Write a self-contained report.html to `folder` and return its path. Raises OSError.

    sections: HTML in page order; empty sections are skipped, and plain strings are escaped.
    """
    style = (files("siam.report") / "report.css").read_text(encoding="utf-8")
    page = render(
        "page.html",
        name=folder.resolve().name,
        style=Markup(style),
        sections=[section for section in sections if section],
        version=__version__,
    )
    # File names may contain control characters, lone surrogates, and bidirectional marks.
    text = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in page)
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
    """Render the top of a page: name, verdict or task, description list, and cards with key numbers.

    pill: a run's verdict or a transfer's task. facts: description list, as term -> description. style: CSS
    class of the verdict (healthy, risk or collapsed). meaning, advice: what the verdict means and what to do.
    """
    return render(
        "header.html",
        name=name, pill=pill, facts=facts, cards=cards, style=style, meaning=meaning, advice=advice,
    )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: int = 0) -> Markup:
    """Render a table in a scrollable box. marked: number of leading rows to highlight."""
    return render("table.html", head=head, rows=rows, marked=marked)


def settings_table(settings: Mapping[str, Any]) -> Markup:
    """Render a collapsible table of all settings. settings: nested as in settings.yaml."""
    groups = {"": {name: value for name, value in settings.items() if not isinstance(value, dict)}}
    groups |= {name: group for name, group in settings.items() if isinstance(group, dict)}
    shown = {name: {key: _setting(value) for key, value in group.items()} for name, group in groups.items()}
    return render("settings.html", groups=shown)


def _setting(value: Any) -> str:
    """Format a value: ascending pairs as ranges ([0.4, 1.0] -> '0.4 to 1'), other lists with commas."""
    if not isinstance(value, list):
        return str(value)
    between = " to " if len(value) == 2 and value[0] < value[1] else ", "
    return between.join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
