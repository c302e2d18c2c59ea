"""The `siam` command: one verb each for training an encoder, measuring it, and taking it away.

Importing this module imports neither torch nor tyro: help answers at once, and a verb pays for itself only.
"""

import json
import os
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from siam.cli.arguments import parse
from siam.cli.output import tell, tell_classes, tell_study, tells
from siam.errors import SettingsError, SiamError

HELP = """usage: siam VERB ...

Image representations without labels, by Siamese networks.

{verbs}

siam VERB --help tells more. First steps:
  siam pretrain                          the built-in demo set, in minutes on a laptop
  siam pretrain photos/ --out runs/mine  a folder of your own images
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns the exit status: 0; 2 when the user can mend it; 130 when interrupted.

    75 says that a run was asked to stop, has saved, and can be resumed; 141 that nobody reads the output.
    """
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
            from siam.errors import did_you_mean

            raise SettingsError(
                f"unknown verb '{args[0]}'{did_you_mean(args[0], VERBS)}; there are {', '.join(VERBS)}"
            )
        VERBS[args[0]](args[1:])
    except SiamError as error:
        if not error.on_all_ranks or tells():
            print(f"siam: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("siam: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _unheard():
            raise
        return 141  # as a command that SIGPIPE ends
    return 0


def _unheard() -> bool:
    """Return True if the reader of stdout has gone, as `| head` does; stdout is then discarded."""
    output = sys.stdout.fileno()
    if hasattr(select, "poll"):  # not on Windows
        poll = select.poll()
        poll.register(output, 0)
        if not poll.poll(0):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _pretrain(args: list[str]) -> None:
    """learn an encoder from images without labels"""
    import tyro

    from siam.settings.pretraining import Settings

    defaults = Settings()

    @dataclass(frozen=True)
    class Pretrain:
        """Learn an encoder from images without labels.

        Settings are fitted to the images unless you give them: the defaults below are those for ImageNet.
        """

        method: str = "simsiam"
        """simsiam, byol, simclr, swav or moco_v2: where the settings of the group `method` start."""
        out: str | None = None
        """The run's folder; runs/METHOD-DATA if left out."""
        recipe: str | None = None
        """imagenet, cifar10, imagenette or demo: where settings start; fitted to the images if left out."""
        resume: Literal["no", "yes", "auto"] = "no"
        """Continue the run in --out from its last checkpoint; `auto` begins one where there is none."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the outcome as one JSON object on stdout."""
        settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = defaults

    for at in (at for at, arg in enumerate(args) if arg == "--resume"):
        if args[at + 1 : at + 2] not in (["auto"], ["yes"], ["no"]):
            args[at] = "--resume=yes"  # as a flag
    asked = parse(Pretrain, args, "siam pretrain")

    def with_the_users(base: Settings) -> Settings:
        return parse(Pretrain, args, "siam pretrain", Pretrain(settings=base)).settings

    from siam.train.start import start

    resume: bool | Literal["auto"] = "auto" if asked.resume == "auto" else asked.resume == "yes"
    outcome = start(asked.settings, asked.method, with_the_users, asked.recipe, asked.out, resume)
    if tells():
        known = {name: value for name, value in outcome.flat().items() if value is not None}
        tell(known, asked.json)
        print(f"look at {outcome.run}/report.html", file=sys.stderr)


def _evaluate(args: list[str]) -> None:
    """measure an encoder on labelled images"""
    import tyro

    from siam.protocols.evaluate import EvaluateSettings, evaluate
    from siam.protocols.result import save_result
    from siam.system.device import find_device, tune_process

    defaults = EvaluateSettings()

    @dataclass(frozen=True)
    class Evaluate:
        """Measure a run's encoder on labelled images (one folder per class)."""

        run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
        """The run's folder."""
        data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
        """Labelled images; if it holds train/ and val/ (or test/), both are used."""
        asked: Annotated[EvaluateSettings, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = defaults
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the result as one JSON object on stdout."""

    given = parse(Evaluate, args, "siam evaluate")
    tune_process(find_device(given.asked.device))
    result = evaluate(given.run, given.data, given.asked)
    outcome = asdict(result)
    if given.json:
        tell(outcome, as_json=True)
    else:
        per_class, confusion = outcome.pop("per_class"), outcome.pop("confusion")
        tell(outcome, as_json=False)
        tell_classes(per_class, confusion)
    save_result(given.run, result, given.data)


def _embed(args: list[str]) -> None:
    """write one vector per image to a Parquet file"""
    import tyro

    @dataclass(frozen=True)
    class Embed:
        """Write path, label and embedding of every image to a Parquet file; interrupted, it goes on."""

        run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
        """The run's folder."""
        data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
        """The images."""
        out: str
        """The Parquet file to write."""
        layer: Literal["backbone", "projector"] = "backbone"
        """Features of the backbone, or the projector's output z."""
        precision: Literal["float32", "float16"] = "float32"
        """Of the numbers in the file."""
        batch_size: int = 256
        """Images at a time, and rows in a row group."""
        device: str = "auto"
        """auto, cpu, cuda, mps."""
        workers: int = -1
        """Processes that decode; -1 chooses."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print what was written as one JSON object on stdout."""

    asked = parse(Embed, args, "siam embed")
    from siam.convert.vectors import embed_to_parquet

    written = embed_to_parquet(
        asked.run, asked.data, asked.out, asked.device, asked.batch_size, asked.workers, asked.layer,
        asked.precision,
    )  # fmt: skip
    if tells():
        tell(written, asked.json)


def _reproduce(args: list[str]) -> None:
    """run one of the paper's tables, row by row, and print it beside the published one"""
    if args[:1] == ["transfer"]:
        _reproduce_transfer(args[1:])
        return
    import tyro

    from siam.paper.reproduce import Scale, reproduce
    from siam.paper.tables import TABLES
    from siam.settings.pretraining import Settings

    defaults = Settings(data="")

    @dataclass(frozen=True)
    class Reproduce:
        """Run one of the paper's tables, row by row; --scale demo takes minutes on a laptop."""

        table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
        scale: Scale = "demo"
        """demo, cifar, imagenette or imagenet: the set and the recipe that rows start from."""
        seeds: int = 1
        """Runs of each row, with seeds 0, 1, ..."""
        out: str | None = None
        """Folder of the runs and the table; runs/reproduce/TABLE-SCALE if left out. It can be continued."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the table as one JSON object on stdout."""
        settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = defaults

    Reproduce.__doc__ = (
        f"{Reproduce.__doc__}\n\nTABLE is one of {', '.join(TABLES)}; "
        "and there is `siam reproduce transfer`, with settings of its own. Rows start from the recipe of the "
        "scale; the defaults below are those of imagenet."
    )
    asked = parse(Reproduce, args, "siam reproduce")

    def with_the_users(base: Settings) -> Settings:
        parsed = parse(Reproduce, args, "siam reproduce", Reproduce(asked.table, settings=base)).settings
        return replace(parsed, data=base.data)

    data = asked.settings.data or None
    command = shlex.join(["siam", "reproduce", *args])
    folder = reproduce(asked.table, data, with_the_users, asked.scale, asked.seeds, asked.out, command)
    tell_study(folder, asked.json)
    print(f"look at {folder}/table.md and figure.png", file=sys.stderr)


def _reproduce_transfer(args: list[str]) -> None:
    """Table 5."""
    import tyro

    from siam.transfer.settings import TransferSettings

    defaults = TransferSettings()

    @dataclass(frozen=True)
    class ReproduceTransfer:
        """Table 5: detectors from scratch and from runs, on the same data, with several seeds."""

        data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
        """A folder in the layout of Pascal VOC or COCO."""
        runs: tuple[str, ...] = ()
        """The runs to compare; the first gives the shape of the network from scratch."""
        seeds: int = 3
        """Fine-tunings from each, with seeds 0, 1, ..."""
        recipe: str | None = None
        """voc07, voc0712, coco-1x or small; fitted to the data if left out."""
        out: str | None = None
        """Folder of the fine-tunings and the table; it can be continued."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the table as one JSON object on stdout."""
        settings: Annotated[TransferSettings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = defaults

    prog = "siam reproduce transfer"
    asked = parse(ReproduceTransfer, args, prog)

    def with_the_users(base: TransferSettings) -> TransferSettings:
        return parse(ReproduceTransfer, args, prog, ReproduceTransfer(asked.data, settings=base)).settings

    _require_extra("faster_coco_eval", "transfer")
    from siam.paper.transfer import reproduce_transfer

    folder = reproduce_transfer(
        asked.data, asked.runs, asked.settings.task, with_the_users, asked.recipe, asked.seeds, asked.out
    )
    tell_study(folder, asked.json)
    print(f"look at {folder}/table.md", file=sys.stderr)


def _export(args: list[str]) -> None:
    """write an encoder for torchvision, timm, detectron2, onnx, or as plain safetensors"""
    import tyro

    @dataclass(frozen=True)
    class Export:
        """Write a run's encoder in the form that another library loads."""

        run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
        """The run's folder."""
        format: str
        """torchvision, timm, detectron2, onnx or safetensors."""
        out: str
        """The file to write; for timm a folder."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print what was written as one JSON object on stdout."""

    asked = parse(Export, args, "siam export")
    from siam.convert.export import export

    tell(export(asked.run, asked.format, asked.out), asked.json)


def _import(args: list[str]) -> None:
    """make a run of a checkpoint from SimSiam, MoCo v2, torchvision, timm, lightly, solo-learn"""
    import tyro

    @dataclass(frozen=True)
    class Import:
        """Make a run of another project's checkpoint; its format is told by its keys."""

        checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
        """The file (or a folder that timm or siam wrote)."""
        out: str
        """The run's folder."""
        backbone: str | None = None
        """timm's name, where the checkpoint holds no plain ResNet."""
        image_size: int | None = None
        """Side in pixels of the images that it is used on; 224 if left out, 32 with a small-image stem."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print what was found as one JSON object on stdout."""

    asked = parse(Import, args, "siam import")
    from siam.convert.importer import import_checkpoint

    imported = asdict(import_checkpoint(asked.checkpoint, asked.out, asked.backbone, asked.image_size))
    if not asked.json:
        imported = {**imported, **{key: ", ".join(imported[key]) or None for key in ("parts", "left_out")}}
    tell(imported, asked.json)


def _transfer(args: list[str]) -> None:
    """fine-tune a detector from an encoder, and measure its boxes and masks"""
    import tyro

    from siam.transfer.settings import RECIPES, TransferSettings

    defaults = TransferSettings()

    @dataclass(frozen=True)
    class Transfer:
        """Fine-tune Faster or Mask R-CNN from a run's ResNet, and measure average precision."""

        run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
        """The run's folder."""
        data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
        """A folder in the layout of Pascal VOC or COCO."""
        recipe: str | None = None
        """Where settings start; fitted to the data if left out."""
        out: str | None = None
        """The transfer's folder; RUN/transfer/DATA-TASK-DETECTOR if left out."""
        resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Continue the transfer from its last checkpoint."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the result as one JSON object on stdout."""
        settings: Annotated[TransferSettings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = defaults

    Transfer.__doc__ = f"{Transfer.__doc__}\n\nRecipes: {', '.join(RECIPES)}."
    asked = parse(Transfer, args, "siam transfer")

    def with_the_users(base: TransferSettings) -> TransferSettings:
        start = Transfer(asked.run, asked.data, settings=base)
        return parse(Transfer, args, "siam transfer", start).settings

    _require_extra("faster_coco_eval", "transfer")
    from siam.transfer.result import table
    from siam.transfer.start import transfer

    outcome = transfer(
        asked.run, asked.data, asked.settings.task, with_the_users, asked.recipe, asked.out, asked.resume
    )
    if not tells():
        return
    if asked.json:
        print(json.dumps(asdict(outcome)))
    else:
        from rich.console import Console

        Console(highlight=False).print(table(outcome))
    print(f"look at {outcome.out}/report.html", file=sys.stderr)


def _require_extra(module: str, extra: str) -> None:
    """Raises SettingsError, which names the extra, where an optional package is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise SettingsError(f"{module} is not installed: pip install 'siam[{extra}]'")


def _inspect(args: list[str]) -> None:
    """say what a run or checkpoint is, and how healthy"""
    import tyro

    @dataclass(frozen=True)
    class Inspect:
        """Say what a run or checkpoint is, and with DATA how healthy its representation is."""

        source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|CHECKPOINT")]
        """A run's folder, or a checkpoint that `siam import` would take."""
        data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = ""
        """Images to look at: std of z/|z| and effective ranks are measured on up to 2,048 of them."""
        backbone: str | None = None
        """timm's name, where a checkpoint holds no plain ResNet."""
        device: str = "auto"
        """auto, cpu, cuda, mps."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print it as one JSON object on stdout."""

    asked = parse(Inspect, args, "siam inspect")
    from siam.convert.inspecting import inspect
    from siam.system.device import find_device, tune_process

    if asked.data:
        tune_process(find_device(asked.device))
    tell(inspect(asked.source, asked.data or None, asked.backbone, asked.device), asked.json)


def _shard(args: list[str]) -> None:
    """write images as WebDataset shards, for storage that is far away"""
    import tyro

    @dataclass(frozen=True)
    class Shard:
        """Write the images of DATA, as they are and in their order, as WebDataset shards (.tar)."""

        data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
        """The images."""
        out: str
        """The folder to write; its shards are DATA for `siam pretrain`."""
        size: str = "512MB"
        """The most that a shard weighs."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print what was written as one JSON object on stdout."""

    asked = parse(Shard, args, "siam shard")
    from rich.console import Console
    from rich.progress import Progress

    from siam.data.sharding import shard

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("shard", total=None)
        written = shard(asked.data, asked.out, asked.size, lambda n: bar.update(task, advance=n))
    tell(written, asked.json)


def _bench(args: list[str]) -> None:
    """say what limits the speed of training on this machine"""
    import tyro

    from siam.settings.pretraining import Settings

    defaults = Settings()

    @dataclass(frozen=True)
    class Bench:
        """Rate of every stage from files to the training step on this machine, what limits, and the mend."""

        method: str = "simsiam"
        """simsiam, byol, simclr, swav or moco_v2: where the settings of the group `method` start."""
        json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Print the result as one JSON object on stdout."""
        settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = defaults

    asked = parse(Bench, args, "siam bench")

    def with_the_users(base: Settings) -> Settings:
        return parse(Bench, args, "siam bench", Bench(settings=base)).settings

    from rich.console import Console

    from siam.bench.stages import bench, in_words

    with Console(stderr=True).status("measuring") as status:
        result = bench(
            asked.settings.data,
            asked.method,
            with_the_users,
            lambda what: status.update(f"measuring: {what}"),
        )
    if asked.json:
        tell(asdict(result), as_json=True)
    else:
        Console(highlight=False).print(in_words(result), soft_wrap=True)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "embed": _embed,
    "export": _export,
    "import": _import,
    "inspect": _inspect,
    "transfer": _transfer,
    "reproduce": _reproduce,
    "shard": _shard,
    "bench": _bench,
}
