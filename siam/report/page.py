"""Write report.html, a self-contained page that summarizes a run.

Each module in sections/ renders one section; sections are sorted by ORDER.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from markupsafe import Markup

from siam import plugins
from siam.errors import RunError
from siam.report.contents import Contents, open_contents
from siam.report.html import write_page
from siam.system.files import in_turn


def write_report(folder: str | Path, warn: Callable[[str], object] = lambda line: None) -> Path:
    """Write report.html for a finished or unfinished run and return its path.

    Processes that write the same report take turns, so the last report includes
    everything that the other processes saved. A section whose file is corrupt is left
    out; the page says so, and `warn` is called with the message. Raises RunError if
    `folder` is not a run folder, OSError if writing fails.
    """
    run = open_contents(folder)
    with in_turn(run.folder):
        sections = [_section(module, run) for module in plugins.modules("siam.report.sections")]
        damaged = list(dict.fromkeys(run.damaged))
        for message in damaged:
            warn(f"left out of the report: {message}")
        notes = [Markup("<p>Left out: {}</p>").format(message) for message in damaged]
        return write_page(run.folder, [*notes, *sections])


def _section(module: ModuleType, run: Contents) -> Markup | str:
    try:
        section: Markup | str = module.html(run)
    except RunError as error:
        run.damaged.append(str(error))
        return ""
    return section
