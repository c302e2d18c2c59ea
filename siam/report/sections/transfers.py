"""Report section: results of `siam transfer`, and the latest predictions."""

from markupsafe import Markup

from siam.report.contents import Contents
from siam.report.formats import percent
from siam.report.html import render, table
from siam.report.transfer import photographs
from siam.runs.results import PRECISIONS, RESULT

ORDER = 30


def html(run: Contents) -> Markup | str:
    """Render a table of APs, and predictions of the latest transfer run.

    Returns "" if no transfer run has finished.
    """
    if not run.transfers:
        return ""
    rows = [
        [
            folder.name,
            kind,
            *(percent(getattr(precision, name)) for name in PRECISIONS),
            f"{result.train_images:,} / {result.test_images:,}",
        ]
        for folder, result in run.transfers.items()
        for kind, precision in result.kinds().items()
    ]
    newest = max(run.transfers, key=lambda folder: (folder / RESULT).stat().st_mtime)
    shown = table(["", "", *PRECISIONS.values(), "images"], rows)
    return render("transfers.html", table=shown, photographs=photographs(newest))
