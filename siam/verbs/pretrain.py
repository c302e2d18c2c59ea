"""pretrain an encoder on unlabeled images"""

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import arg

from siam.cli.flags import PretrainOverrides
from siam.cli.output import facts_table


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Pretrain an encoder on unlabeled images.

    Unspecified settings are chosen to fit the images; the defaults below are for
    ImageNet.
    """

    out: str | None = None
    """Run folder; if omitted, runs/METHOD-DATA."""
    recipe: str | None = None
    """Recipe: imagenet, cifar10, imagenette or demo; if omitted, based on the images."""
    for_: Annotated[str | None, arg(name="for")] = None
    """Time to plan the run for (`20m`, `2h`, `1d`); default: 30m on a CPU, 2h on a GPU, unless --epochs,
    --recipe or --init is given."""
    resume: Literal["no", "yes", "auto"] = "no"
    """Resume the run in --out; `auto`: start a new run if there is none."""
    settings: PretrainOverrides


def main(options: Pretrain) -> dict[str, Any]:
    from siam.api import pretrain

    resume: bool | Literal["auto"] = "auto" if options.resume == "auto" else options.resume == "yes"
    run = {"out": options.out, "recipe": options.recipe, "resume": resume, "duration": options.for_}
    return pretrain(**{**options.settings.given, **run}).flat()


def render(outcome: dict[str, Any]) -> list[Any]:
    from siam.metrics import all_metrics, format_value

    metrics = all_metrics()
    known = {name: value for name, value in outcome.items() if value is not None}
    words = {}
    for name, value in known.items():
        metric = name.removeprefix("pixel_").removeprefix("untrained_")
        if metric in metrics:
            words[name] = format_value(metrics[metric], value)
    first = {name: outcome[name] for name in ("run", "verdict")}
    return [facts_table({**first, **known, **words})]


def after(options: Pretrain, outcome: dict[str, Any]) -> None:
    print(f"see {outcome['run']}/report.html", file=sys.stderr)
