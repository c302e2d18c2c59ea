"""Parsing of the command line: which settings were given, and errors about unknown ones."""

import re

import pytest

from siam import plugins
from siam.cli import command as cli
from siam.cli.arguments import parse
from siam.cli.command import find_verbs
from siam.errors import SettingsError
from siam.recipes import DEMO
from siam.settings.pretraining import Settings
from siam.transfer.settings import TransferSettings
from siam.verbs.bench import Bench
from siam.verbs.evaluate import Evaluate
from siam.verbs.pretrain import Pretrain
from siam.verbs.reproduce import Reproduce
from siam.verbs.transfer import Transfer


def given(line):
    """Return the settings that a command line of `siam pretrain` gives."""
    options, _ = parse(Pretrain, line.split(), "siam pretrain")
    return options.settings.given


def test_only_typed_settings_are_given():
    assert given("") == {}
    assert given("photos --optimizer.lr 0.1 --views.scale 0.5 1 --sync-bn false --out runs/x --json") == {
        "data": "photos",
        "optimizer": {"lr": 0.1},
        "views": {"scale": (0.5, 1.0)},
        "sync_bn": False,
    }
    assert given("--method byol --method.target gradient") == {
        "method": {"name": "byol", "target": "gradient"}
    }


@pytest.mark.parametrize("line", ["--batch-size 256", "--batch_size 256", "--batch-size=256"])
def test_a_typed_default_is_given(line):
    """256 is the default for ImageNet, but overrides another recipe."""
    options, _ = parse(Pretrain, line.split(), "siam pretrain")
    assert options.settings.given == {"batch_size": Settings().batch_size}
    assert options.settings.over(DEMO).batch_size == 256 != DEMO.batch_size


def test_combinations_are_checked_over_the_base_settings():
    """A queue of 200 is too short for ImageNet's batches of 256, not for the demo's of 32."""
    options, _ = parse(Pretrain, ["--method.objective", "info_nce", "--method.queue", "200"], "siam")
    assert options.settings.over(DEMO).method.queue == 200
    with pytest.raises(SettingsError, match="queue must be larger than batch_size, got 200 and 256"):
        options.settings.over(Settings())


def test_shorthands():
    assert given("--views reference") == given("--views=reference") == {"views": {"pipeline": "reference"}}
    assert given("--compile TRUE".lower()) == given("--compile=true") == {"compile": True}
    for line, resume in (
        ("", "no"),
        ("--resume", "yes"),
        ("--resume auto", "auto"),
        ("--resume photos", "yes"),
        ("photos --resume --out x", "yes"),
        ("--resume=auto photos", "auto"),
        ("--resume no", "no"),
    ):
        options, _ = parse(Pretrain, line.split(), "siam pretrain")
        assert options.resume == resume, line
        assert options.settings.given == ({"data": "photos"} if "photos" in line else {})


def test_json_and_the_command_line():
    options, as_json = parse(Reproduce, ["hub", "--out", "my folder", "--json"], "siam reproduce")
    assert as_json
    assert options.command == "siam reproduce hub --out 'my folder' --json"
    assert not parse(Reproduce, ["hub"], "siam reproduce")[1]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (Pretrain, "--accumulate", "--grad-accum"),
        (Pretrain, "--recompute", "--activation-checkpointing"),
        (Pretrain, "--network.target", "--method.target"),
        (Bench, "--network.projector_hidden=8", "--method.projector-hidden"),
        (Pretrain, "--loader.resident", "--loader.cache"),
        (Pretrain, "--views.grey-p", "--views.grayscale-p"),
        (Evaluate, "--random-init", "--untrained"),
        (Pretrain, "--lr", "--optimizer.lr"),
        (Pretrain, "--name", "--optimizer.name"),
        (Pretrain, "--momentum", "--method.momentum or --optimizer.momentum"),
        (Transfer, "--bach-size", "--batch-size"),
    ],
)
def test_an_unknown_setting_is_an_error_with_a_suggestion(kind, old, new):
    places = {Evaluate: ["run", "photos"], Transfer: ["run", "voc"]}.get(kind, [])
    with pytest.raises(SettingsError) as refused:
        parse(kind, [*places, *([old] if "=" in old else [old, "1"])], "siam")
    flag = old.partition("=")[0]
    assert str(refused.value).startswith(f"unknown setting '{flag}'; did you mean {new}")


@pytest.mark.parametrize("flag", ["--method.name", "--seed", "--method"])
def test_rows_of_a_table_set_their_own_method_and_seed(capsys, flag):
    assert cli.main(["reproduce", "hub", flag, "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"siam: unknown setting '{flag}'")
    says = {
        "--method": "each table row sets its own method",
        "--seed": "set the number of seeds with --seeds",
    }
    assert says.get(flag, "") in error


@pytest.mark.parametrize("verb", ["pretrain", "bench", "reproduce", "transfer", "reproduce transfer"])
def test_every_suggested_flag_exists(verb, capsys):
    """Every setting has a flag with its path, except those that a verb takes in another form."""
    with pytest.raises(SystemExit):
        cli.main([*verb.split(), "--help"])
    shown = set(re.findall(r"^[^\w-]*(--[a-z][\w.-]*)", capsys.readouterr().out, re.MULTILINE))
    settings = TransferSettings() if "transfer" in verb else Settings()
    expected = {f"--{path}".replace("_", "-") for path in paths(settings)} - {"--data", "--method.name"}
    if verb == "reproduce":
        expected -= {"--seed"}
    own = {"--for", "--out", "--recipe", "--resume", "--json", "--method", "--seeds", "--scale", "--runs"}
    assert expected <= shown
    assert shown - expected <= own
    assert ("--method" in shown) == (verb in ("pretrain", "bench"))
    assert plugins.load("siam.verbs", find_verbs()[verb])


def paths(settings, above=""):
    for name, value in vars(settings).items():
        if hasattr(value, "__dataclass_fields__"):
            yield from paths(value, f"{above}{name}.")
        else:
            yield above + name
