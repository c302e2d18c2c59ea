"""report.html: one self-contained page per run, built from the run folder alone.

Each module in sections/ renders one section; sections appear in the order of their ORDER values.
"""

from pathlib import Path

from siam import plugins
from siam.report.contents import open_contents
from siam.report.html import write_page
from siam.system.files import in_turn


def write_report(folder: str | Path) -> Path:
    """Write report.html for a run, finished or not, and return its path.

    Processes that write the same page take turns, so the page written last includes everything that
    the others saved. Raises RunError if the folder holds no run or a corrupt file, OSError if writing fails.
    """
    run = open_contents(folder)
    sections = plugins.modules("siam.report.sections")
    with in_turn(run.folder):
        return write_page(run.folder, [section.html(run) for section in sections])
