"""fine-tune a detector from a run's encoder, and measure its box and mask AP"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from siam.cli.flags import RunFolder, Switch, TransferOverrides, require_extra
from siam.system.names import shown
from siam.transfer.settings import RECIPES

if TYPE_CHECKING:
    from siam.runs.results import TransferResult


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Fine-tune Faster R-CNN or Mask R-CNN from a run's ResNet, and measure AP."""

    run: RunFolder
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Dataset folder in Pascal VOC or COCO format."""
    recipe: str | None = None
    """Recipe; if omitted, based on the data."""
    out: str | None = None
    """Output folder; if omitted, RUN/transfer/DATA-TASK-DETECTOR."""
    resume: Switch = False
    """Resume an unfinished transfer run from its last checkpoint."""
    settings: TransferOverrides


Transfer.__doc__ = f"{Transfer.__doc__}\n\nRecipes: {', '.join(RECIPES)}."


def main(options: Transfer) -> "TransferResult":
    require_extra("faster_coco_eval", "transfer")
    from siam.transfer.start import transfer

    return transfer(options.run, options.data, options.settings, options.recipe, options.out, options.resume)


def render(outcome: "TransferResult") -> list[Any]:
    from siam.transfer.result import table

    return [table(outcome)]


def after(options: Transfer, outcome: "TransferResult") -> None:
    print(f"see {shown(outcome.out)}/report.html", file=sys.stderr)
