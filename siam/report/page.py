"""Write report.html, a self-contained page that summarizes a run.

Each module in sections/ renders one section; sections are sorted by ORDER.
"""

from pathlib import Path

from siam import plugins
from siam.report.contents import open_contents
from siam.report.html import write_page
from siam.system.files import in_turn


def write_report(folder: str | Path) -> Path:
    """Write report.html for a finished or unfinished run and return its path.

    Processes that write the same report take turns, so the last report includes
    everything that the other processes saved. Raises RunError if `folder` is not a run
    folder or contains a corrupt file, OSError if writing fails.
    """
    run = open_contents(folder)
    sections = plugins.modules("siam.report.sections")
    with in_turn(run.folder):
        return write_page(run.folder, [section.html(run) for section in sections])
