"""Report section: training curves, starting with those in Figure 2 of SimSiam."""

from markupsafe import Markup

from siam.report.contents import Contents
from siam.report.curves import panels
from siam.report.drawing import inline_svg, panel
from siam.report.html import render
from siam.runs.history import History

ORDER = 10


def html(run: Contents) -> Markup:
    """Render a chart for each logged quantity.

    The first three charts (loss, std, and kNN or rank) are larger.
    """
    history = run.history
    logged = [shown for shown in panels(history) if history.has(shown.name)]
    figures = []
    for i, shown in enumerate(logged):
        figure = panel(shown.draw, history, shown.title, height=3.0 if i < 3 else 1.9)
        figures.append((inline_svg(figure, shown.name), shown.caption))
    note = _without_knn(history) if logged else "Nothing has been logged yet."
    return render("curves.html", figures=figures, note=note)


def _without_knn(history: History) -> str:
    """Return a sentence that explains why there is no kNN curve.

    Returns "" if there is one, or if no epoch has finished yet.
    """
    if history.has("knn") or history.steps_per_epoch is None:
        return ""
    off = history.settings.monitor.knn_every == 0
    reason = "monitor.knn_every is 0" if off else "the images have no labels"
    return f"There is no kNN curve: {reason}."
