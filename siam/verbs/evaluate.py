"""evaluate an encoder on labeled images"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from siam.cli.flags import EncoderName
from siam.cli.output import classes_table, facts_table
from siam.protocols.settings import EvaluateSettings

if TYPE_CHECKING:
    from siam.runs.results import Evaluation


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate an encoder on labeled images (one folder per class)."""

    run: EncoderName
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Labeled images; train/ and val/ (or test/) are used if the folder has them."""
    settings: Annotated[EvaluateSettings, arg(name=""), FlagCreatePairsOff]


def main(options: Evaluate) -> "Evaluation":
    from siam.protocols.evaluate import evaluate
    from siam.runs.pretrained import is_pretrained
    from siam.runs.results import load_evaluations
    from siam.system.device import find_device, tune_process

    if not is_pretrained(options.run):
        load_evaluations(Path(options.run))  # a damaged file is reported before hours of computing, not after
    tune_process(find_device(options.settings.device))
    return evaluate(options.run, options.data, **vars(options.settings))


def render(result: "Evaluation") -> list[Any]:
    facts = asdict(result)
    per_class, confusion = facts.pop("per_class"), facts.pop("confusion")
    table = facts_table(facts, percent=("top1", "top5", "interval", "labels"))
    return [table, classes_table(per_class, confusion)]


def keep(options: Evaluate, result: "Evaluation") -> None:
    """Save the result in the run folder, and update the run's report; weights that exist have neither."""
    from rich.console import Console

    from siam.report.page import write_report
    from siam.runs.bars import print_line
    from siam.runs.pretrained import is_pretrained
    from siam.runs.results import add_evaluation
    from siam.system.files import writing

    if is_pretrained(options.run):
        return
    add_evaluation(options.run, result, options.data)
    with writing(f"{options.run}/report.html", "; the result was saved, but is not on that page"):
        write_report(options.run, lambda line: print_line(Console(stderr=True), line))
