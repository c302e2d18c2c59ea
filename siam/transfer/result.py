"""What a transfer came to, the files that it leaves, and how it is told beside the published figures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from siam.system.files import write_atomically
from siam.transfer.measure import Precision
from siam.transfer.published import COLUMNS, TABLE5, column

RESULT, TRUTH = "result.json", "truth.json"
BOXES, MASKS = "predictions-boxes.json", "predictions-masks.json"
DRAWN = "drawn"

NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "small": "small", "medium": "medium", "large": "large"}
"""Fields of a Precision, and what they are called."""


@dataclass(frozen=True)
class Outcome:
    """A measurement; average precisions are fractions in [0, 1]."""

    out: str
    data: str
    layout: str
    years: int
    train_images: int
    test_images: int
    boxes: Precision
    masks: Precision | None
    """None for detection."""
    iterations: int
    seconds: float
    skipped: dict[str, int]
    """What in the annotations could not be used, and how often."""

    def kinds(self) -> dict[str, Precision]:
        """boxes, and masks where there are any."""
        return {"boxes": self.boxes} | ({} if self.masks is None else {"masks": self.masks})

    def flat(self) -> dict[str, float | None]:
        """The figures by one name each, as a line of metrics.jsonl has them."""
        return {
            f"{kind}_{name}": getattr(precision, name)
            for kind, precision in self.kinds().items()
            for name in NAMES
        } | {"seconds": self.seconds}


def save_outcome(folder: Path, outcome: Outcome) -> None:
    """Write result.json."""
    text = json.dumps(asdict(outcome), indent=1)
    write_atomically(folder / RESULT, lambda file: file.write(text.encode()))


def load_outcome(folder: Path) -> Outcome | None:
    """None where the transfer has not ended."""
    if not (folder / RESULT).exists():
        return None
    plain: dict[str, Any] = json.loads((folder / RESULT).read_text())
    for kind in ("boxes", "masks"):
        if plain[kind] is not None:
            plain[kind] = Precision(**plain[kind])
    return Outcome(**plain)


def rows(outcome: Outcome) -> list[list[str]]:
    """Measured, by kind and size; then Table 5's rows for such data. In %, as text."""
    found = [
        [f"measured, {kind}", *(_percent(getattr(precision, name)) for name in NAMES)]
        for kind, precision in outcome.kinds().items()
    ]
    for kind in outcome.kinds():
        place = column(outcome.layout, outcome.years, kind == "masks")
        for row, triples in TABLE5.items():
            t = triples[place]
            figures = (f"{value:.1f}" for value in (t.ap, t.ap50, t.ap75))
            found.append([f"{row}, {kind}", *figures, "", "", ""])
    return found


def table(outcome: Outcome) -> Table:
    """For the terminal."""
    shown = Table("%", *NAMES.values(), box=None, padding=(0, 2))
    measured = len(outcome.kinds())
    for i, row in enumerate(rows(outcome)):
        shown.add_row(*row, style="bold" if i < measured else "dim", end_section=i == measured - 1)
    columns = " and ".join(
        COLUMNS[column(outcome.layout, outcome.years, kind == "masks")] for kind in outcome.kinds()
    )
    shown.caption = f"dim: published (SimSiam, Table 5: {columns}), ResNet-50, 200 epochs on ImageNet"
    return shown


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
