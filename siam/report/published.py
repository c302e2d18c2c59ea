"""Published detection results: Table 5 of SimSiam (Chen & He 2021, arXiv 2011.10566).

AP50 / AP / AP75 in % for ResNet-50-C4 detectors; backbones pretrained for 200 epochs.
"""

from typing import NamedTuple

from siam.methods import title
from siam.report.formats import percent
from siam.runs.results import PRECISIONS, TransferResult


class Triple(NamedTuple):
    """AP50, AP and AP75 in %, in the order of Table 5."""

    ap50: float
    ap: float
    ap75: float


COLUMNS = ("VOC07 det.", "VOC07+12 det.", "COCO det.", "COCO inst. seg.")


def _row(*printed: str) -> tuple[Triple, ...]:
    return tuple(Triple(*map(float, cell.split("/"))) for cell in printed)


TABLE5 = {
    "scratch": _row("35.9/16.8/13.0", "60.2/33.8/33.1", "44.0/26.4/27.8", "46.9/29.3/30.8"),
    "ImageNet supervised": _row("74.4/42.4/42.7", "81.3/53.5/58.8", "58.2/38.2/41.2", "54.7/33.3/35.2"),
    "SimCLR": _row("75.9/46.8/50.1", "81.8/55.5/61.4", "57.7/37.9/40.9", "54.6/33.3/35.3"),
    "MoCo v2": _row("77.1/48.5/52.5", "82.3/57.0/63.3", "58.8/39.2/42.5", "55.5/34.3/36.6"),
    "BYOL": _row("77.1/47.0/49.9", "81.4/55.3/61.1", "57.8/37.9/40.9", "54.3/33.2/35.0"),
    "SwAV": _row("75.5/46.5/49.6", "81.5/55.4/61.4", "57.6/37.6/40.3", "54.2/33.1/35.1"),
    "SimSiam, base": _row("75.5/47.0/50.2", "82.0/56.4/62.8", "57.5/37.9/40.9", "54.2/33.2/35.2"),
    "SimSiam, optimal": _row("77.3/48.5/52.5", "82.4/57.0/63.7", "59.3/39.2/42.1", "56.0/34.4/36.7"),
}


def row_of(method: str) -> str | None:
    """Return a method's key in TABLE5, or None if the table does not include it."""
    row = "SimSiam, base" if method == "simsiam" else title(method)
    return row if row in TABLE5 else None


def column(layout: str, years: int, masks: bool) -> int:
    """Return the index in COLUMNS for a dataset and task.

    layout: annotation format, `voc` or `coco`. years: number of VOC years in the
    training set. masks: True for instance segmentation, False for detection.
    """
    if layout == "coco":
        return 3 if masks else 2
    return 1 if years > 1 else 0


def compared(result: TransferResult) -> list[list[str]]:
    """Build the rows of the AP table, in %: measured results, then published ones."""
    measured = [
        [f"measured, {kind}", *(percent(getattr(precision, name), unit="") for name in PRECISIONS)]
        for kind, precision in result.kinds().items()
    ]
    published = []
    for kind in result.kinds():
        index = column(result.layout, result.years, kind == "masks")
        for row, triples in TABLE5.items():
            t = triples[index]
            figures = (f"{value:.1f}" for value in (t.ap, t.ap50, t.ap75))
            published.append([f"{row}, {kind}", *figures, "", "", ""])
    return measured + published
