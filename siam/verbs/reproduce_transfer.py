"""reproduce Table 5: detectors trained from scratch and from pretrained runs"""

import sys
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siam.cli.flags import TransferOverrides, require_extra
from siam.cli.output import markdown_file
from siam.system.names import shown


@dataclass(frozen=True, kw_only=True)
class ReproduceTransfer:
    """Train detectors from scratch and from runs, with several seeds (Table 5)."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Dataset folder in Pascal VOC or COCO format."""
    runs: tuple[str, ...] = ()
    """Runs to compare; the from-scratch baseline has the first run's architecture."""
    seeds: int = 3
    """Number of detectors to train per initialization, with seeds 0, 1, ..."""
    recipe: str | None = None
    """Recipe: voc07, voc0712, coco-1x or small; if omitted, based on the data."""
    out: str | None = None
    """Output folder for detectors and table; resumes an unfinished table."""
    settings: TransferOverrides


def main(options: ReproduceTransfer) -> dict[str, Any]:
    require_extra("faster_coco_eval", "transfer")
    from siam.paper.cells import load_table
    from siam.paper.transfer import reproduce_transfer

    folder = reproduce_transfer(
        options.data, options.runs, options.settings, options.recipe, options.seeds, options.out
    )
    return {"out": str(folder), **load_table(folder)}


def render(result: dict[str, Any]) -> list[Any]:
    return [markdown_file(f"{result['out']}/table.md")]


def after(options: ReproduceTransfer, result: dict[str, Any]) -> None:
    print(f"see {shown(result['out'])}/table.md", file=sys.stderr)
