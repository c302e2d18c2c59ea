"""The `siam` command: one verb each for training an encoder, measuring it, and taking it away.

Importing this module imports neither torch nor tyro: help answers at once, and a verb pays for itself only.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Annotated, Any, TypeVar

from siam.errors import SettingsError, SiamError

T = TypeVar("T")

HELP = """usage: siam VERB ...

Image representations without labels, by Siamese networks.

{verbs}

siam VERB --help tells more. First steps:
  siam pretrain                          the built-in demo set, in minutes on a laptop
  siam pretrain photos/ --out runs/mine  a folder of your own images
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns the exit status: 0; 2 when the user can mend it; 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        lines = (f"  {verb:{width}}  {run.__doc__}" for verb, run in VERBS.items())
        print(HELP.format(verbs="\n".join(lines)), end="")
        return 0
    if args[0] == "--version":
        from siam import __version__

        print(f"siam {__version__}")
        return 0
    try:
        if args[0] not in VERBS:
            from siam.settings import near

            raise SettingsError(
                f"unknown verb '{args[0]}'{near(args[0], VERBS)}; there are {', '.join(VERBS)}"
            )
        VERBS[args[0]](args[1:])
    except SiamError as error:
        print(f"siam: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("siam: interrupted", file=sys.stderr)
        return 130
    return 0


def _pretrain(args: list[str]) -> None:
    """learn an encoder from images without labels"""
    import tyro

    from siam.settings import Settings

    defaults = Settings()

    @dataclass(frozen=True)
    class Pretrain:
        """Learn an encoder from images without labels."""

        out: str | None = None
        """The run's folder; runs/METHOD-DATA if left out."""
        recipe: str | None = None
        """imagenet, cifar10, imagenette or demo: where settings start; fitted to the images if left out."""
        resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Continue the run in --out from its last checkpoint."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the outcome as one JSON object on stdout."""
        settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = defaults

    args = ["--views.pipeline" if arg == "--views" else arg for arg in args]
    asked = _parse(Pretrain(), args, "siam pretrain")

    def with_the_users(base: Settings) -> Settings:
        return _parse(Pretrain(settings=base), args, "siam pretrain").settings

    from siam.train.start import start

    outcome = start(asked.settings, with_the_users, asked.recipe, asked.out, asked.resume)
    _tell(asdict(outcome), asked.json)


def _evaluate(args: list[str]) -> None:
    """measure an encoder: knn, linear, probe, finetune"""
    raise SettingsError("not available yet")


def _embed(args: list[str]) -> None:
    """write one vector per image to a Parquet file"""
    raise SettingsError("not available yet")


VERBS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "embed": _embed,
}


def _parse(defaults: T, args: list[str], prog: str) -> T:
    """The dataclass `defaults` with the command line's values; raises SettingsError, one plain sentence."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                type(defaults), default=defaults, prog=prog, args=args, return_unknown_args=True
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SettingsError(_inside_the_box(complaint.getvalue())) from None
    if unknown:
        from siam.settings import near

        if unknown[0].startswith("-"):
            raise SettingsError(f"unknown setting '{unknown[0]}'{near(unknown[0], _flags(defaults))}")
        raise SettingsError(f"one argument too many: '{unknown[0]}'")
    return parsed


def _flags(group: Any, prefix: str = "--") -> list[str]:
    """Every flag of a nested dataclass."""
    found: list[str] = []
    for name, value in vars(group).items():
        flag = prefix + name.replace("_", "-")
        if is_dataclass(value):
            found += _flags(value, prefix if name == "settings" else flag + ".")
        else:
            found.append(flag)
    return found


def _inside_the_box(box: str) -> str:
    """The first message that tyro frames."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    end = next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))
    return " ".join(lines[:end]) or "the command line cannot be read; see --help"


def _tell(outcome: dict[str, Any], as_json: bool) -> None:
    """The result: one JSON object on stdout, or a small table for people."""
    if as_json:
        print(json.dumps(outcome))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in outcome.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
