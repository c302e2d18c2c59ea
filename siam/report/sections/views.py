"""Report section: pairs of augmented views from training."""

from markupsafe import Markup

from siam.report.contents import Contents
from siam.report.html import render
from siam.report.pictures import box_for, image_source

ORDER = 40

MAX_PAIRS = 24


def html(run: Contents) -> Markup | str:
    """Render pairs of augmented views; return "" if there are none."""
    if run.pictures is None or not len(run.pictures.pairs):
        return ""
    shown = run.pictures.pairs[:MAX_PAIRS]
    pairs = [(image_source(one), image_source(other)) for one, other in shown]
    return render("views.html", pairs=pairs, box=box_for(shown))
