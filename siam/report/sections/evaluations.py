"""Report section: results of `siam evaluate`, and the latest confusion matrix."""

from markupsafe import Markup

from siam.report.contents import Contents
from siam.report.formats import percent
from siam.report.html import render, table
from siam.runs.results import SavedEvaluation

ORDER = 20

HEAD = ("protocol", "data", "labels", "encoder", "top-1", "95 %", "top-5", "images", "", "when")
MAX_CLASSES = 20
"""Confusion matrices with more classes are too large to show."""


def html(run: Contents) -> Markup | str:
    """Render a table of all evaluations and the confusion matrix of the latest one.

    Returns "" if there are no evaluations.
    """
    if not run.evaluations:
        return ""
    newest = run.evaluations[-1]
    return render(
        "evaluations.html",
        table=table(HEAD, [_row(evaluation) for evaluation in run.evaluations]),
        protocol=newest.protocol,
        classes=list(newest.per_class),
        confusion=_confusion(newest),
    )


def _row(evaluation: SavedEvaluation) -> list[str]:
    low, high = evaluation.interval
    return [
        evaluation.protocol,
        evaluation.data,
        f"{100 * evaluation.labels:g} %",
        evaluation.encoder,
        percent(evaluation.top1),
        f"{percent(low, unit='')} to {percent(high)}",
        "" if evaluation.top5 is None else percent(evaluation.top5),
        f"{evaluation.train_images:,} / {evaluation.val_images:,}",
        evaluation.detail,
        evaluation.date[:16].replace("T", " "),
    ]


def _confusion(evaluation: SavedEvaluation) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return the rows of the confusion matrix; [] if it is missing or too large.

    Each row is (true class, [(count, fraction of the class), ...]).
    """
    matrix, classes = evaluation.confusion, list(evaluation.per_class)
    if matrix is None or not len(classes) == len(matrix) <= MAX_CLASSES:
        return []
    return [
        (name, [(count, count / max(1, sum(counts))) for count in counts])
        for name, counts in zip(classes, matrix, strict=True)
    ]
