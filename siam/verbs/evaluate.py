"""measure an encoder on labeled images"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from siam.cli.flags import RunFolder
from siam.cli.output import classes_table, facts_table
from siam.protocols.settings import EvaluateSettings

if TYPE_CHECKING:
    from siam.protocols.result import Result


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a run's encoder on labeled images (one folder per class)."""

    run: RunFolder
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Labeled images; if it holds train/ and val/ (or test/), both are used."""
    settings: Annotated[EvaluateSettings, arg(name=""), FlagCreatePairsOff]


def main(options: Evaluate) -> "Result":
    from siam.api import evaluate

    return evaluate(options.run, options.data, **vars(options.settings))


def render(result: "Result") -> list[Any]:
    facts = asdict(result)
    per_class, confusion = facts.pop("per_class"), facts.pop("confusion")
    table = facts_table(facts, percent=("top1", "top5", "interval", "labels"))
    return [table, classes_table(per_class, confusion)]


def after(options: Evaluate, result: "Result") -> None:
    """Keep the result in the run, whose report shows it."""
    from siam.protocols.result import save_result

    save_result(options.run, result, options.data)
