"""show the settings that fit the images, this machine and a time"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from siam.cli.flags import PretrainOverrides

if TYPE_CHECKING:
    from siam.plan.plan import Plan as Result


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show what `siam pretrain DATA --for TIME` would do, without training.

    Measuring the machine takes some seconds.
    """

    for_: Annotated[str | None, arg(name="for")] = None
    """Time to plan for (`20m`, `2h`, `1d`); default: 30m on a CPU, 2h on a GPU."""
    machine: str | None = None
    """JSON file that describes another machine: device, gflops and images_per_second."""
    settings: PretrainOverrides


def main(options: Plan) -> dict[str, Any]:
    from rich.console import Console

    from siam.data.images import ImageSets
    from siam.data.sources import open_images
    from siam.plan.machine import read_machine
    from siam.runs.bars import print_sets
    from siam.train.start import plan

    def opened(data: str) -> ImageSets:
        sets = open_images(data)
        print_sets(Console(stderr=True), sets)
        return sets

    machine = read_machine(options.machine) if options.machine else None
    planned: Result = plan(options.settings, options.for_, machine, opened)
    return {**planned.flat(), "lines": list(planned.lines())}


def render(plan: dict[str, Any]) -> Iterator[str]:
    yield from plan["lines"]
