"""find the training bottleneck on this machine"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from siam.cli.flags import PretrainOverrides

if TYPE_CHECKING:
    from siam.bench.stages import Bench as Result


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time each stage of training, from file reading on, and report the bottleneck."""

    settings: PretrainOverrides


def main(options: Bench) -> "Result":
    from rich.console import Console

    from siam.bench.stages import bench

    console = Console(stderr=True)
    with console.status("measuring") as status:
        return bench(options.settings, lambda stage: status.update(f"measuring: {stage}"), console)


def render(result: "Result") -> Iterator[Any]:
    """Yield a header, a table of throughputs, and the bottleneck with a remedy."""
    from rich.table import Table

    rates, verdict = result.rates, result.verdict
    rows = {
        "read and decode, one worker": rates.decode,
        "read, decode, two crops, one worker": rates.worker,
        f"the same, workers: {rates.workers}": rates.worker and rates.worker * rates.workers,
        "transfer to the device": rates.transfer,
        "colors on the device" if rates.worker else "crops and colors on the device": rates.augment,
        f"training step, batch {result.batch_size}, {result.precision}": rates.step,
        "all together, expected": verdict.pairs_per_second,
        "all together, measured": result.end_to_end,
    }
    table = Table("", "images/s", box=None, padding=(0, 2))
    table.columns[1].justify = "right"
    for name, rate in rows.items():
        if rate is not None:
            table.add_row(name, f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}")
    yield f"{result.data}, {result.backbone}, {result.size} px; {result.machine['machine']}"
    yield table
    yield f"bottleneck: {verdict.bottleneck}; remedy: {verdict.advice}"
