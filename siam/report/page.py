"""report.html: a run on one self-contained page, as a function of the run folder.

The page consists of the modules in sections/, sorted by their ORDER.
"""

from pathlib import Path

from siam import plugins
from siam.report.contents import open_contents
from siam.report.html import write_page
from siam.system.files import in_turn


def write_report(folder: str | Path) -> Path:
    """Write report.html of a run, finished or not, and return its path.

    Processes that write the same page take turns, so that the last writer sees everything the others saved.
    Raises RunError if there is no run or a file in it is damaged, OSError if writing fails.
    """
    run = open_contents(folder)
    sections = plugins.modules("siam.report.sections")
    with in_turn(run.folder):
        return write_page(run.folder, [section.html(run) for section in sections])
