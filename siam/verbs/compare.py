"""compare encoders on the same images, in one table"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siam.system.names import shown


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare encoders on the same images: is training worth the time?

    Measures each encoder without labels and, where there are labels, by kNN and a linear probe.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Images; with one folder per class, their labels are used too."""
    encoders: Annotated[Positional[tuple[str, ...]], arg(metavar="ENCODER...")]
    """Run folders, weights that exist (timm:NAME, hf-hub:OWNER/NAME, a folder or file of timm's),
    `untrained` and `pixels`."""
    out: str | None = None
    """Folder for the page, report.html; if omitted, runs/compare-DATA."""
    images: int = 5000
    """Maximum number of training images and of validation images to use, evenly spaced."""
    k: int = 20
    """Number of nearest neighbors for kNN; never more than the smallest class has images."""
    seed: int = 0
    """Seed of the probe, and of `untrained` without a run."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Data-loading workers; -1: based on the number of cores."""


def main(options: Compare) -> dict[str, Any]:
    from siam.protocols.compare import compare
    from siam.report.comparison import conclusion
    from siam.system.device import find_device, tune_process

    tune_process(find_device(options.device))
    how = {name: getattr(options, name) for name in ("images", "k", "seed", "device", "workers")}
    rows = compare(options.data, *options.encoders, **how)
    return {
        "data": options.data,
        "encoders": [asdict(row) for row in rows],
        "conclusion": conclusion(rows),
        "page": str(_folder(options) / "report.html"),
    }


def keep(options: Compare, result: dict[str, Any]) -> None:
    """Write the page."""
    from siam.report.comparison import write_comparison

    write_comparison(_folder(options), options.data, _rows(result))


def render(result: dict[str, Any]) -> Iterator[Any]:
    from rich.table import Table
    from rich.text import Text

    from siam.report.comparison import cells

    head, body = cells(_rows(result))
    kept = [i for i, name in enumerate(head) if name not in ("network", "D")]  # these are on the page
    table = Table(box=None, padding=(0, 2, 0, 0))
    for i in kept:
        table.add_column(head[i], overflow="fold", justify="right" if i else "left", no_wrap=i > 0)
    for row in body:
        table.add_row(*(Text(shown(row[i])) for i in kept))
    yield table
    yield result["conclusion"]


def after(options: Compare, result: dict[str, Any]) -> None:
    print(f"see {shown(result['page'])}", file=sys.stderr)


def _rows(result: dict[str, Any]) -> list[Any]:
    from siam.runs.results import Compared

    return [Compared(**row) for row in result["encoders"]]


def _folder(options: Compare) -> Path:
    from siam.train.start import short_name

    default = Path("runs") / f"compare-{short_name(options.data)}"
    return default if options.out is None else Path(options.out).expanduser()
