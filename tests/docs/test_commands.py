"""Every `siam` command and every flag in the documentation is one that the program has. Nothing is run."""

import ast
import inspect
import re
import shlex
from functools import cache

import pytest

import siam
from siam import plugins
from siam.cli import command as cli
from siam.cli.arguments import parse
from siam.cli.command import find_verbs
from siam.errors import SettingsError
from siam.paper.tables import TABLES
from siam.settings.overrides import Overrides
from siam.settings.pretraining import Settings
from tests.docs import PAGES, ROOT, blocks, spans

VERBS = find_verbs()
EXAMPLES = re.findall(r"^# siam/verbs/(\w+)\.py$", (ROOT / "docs/contributing.md").read_text(), re.MULTILINE)
"""Verbs that docs/contributing.md adds."""
OTHERS = {"--rdzv-conf", "--rdzv-endpoint", "--standalone", "--max-restarts", "--signal"}
"""Flags of torchrun and sbatch."""


def commands(page):
    """The arguments of each `siam ...` of a page: in shell blocks, and in inline code."""
    lines = []
    for block in blocks(page, "", "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    for line in (*lines, *spans(page)):
        words = line.replace("siam[", "")
        found = re.search(r"(?:^|\s)(?:\S+/|python -m |-m )?siam (?=[a-z-])(.*)", words)
        if found:
            yield [word for word in shlex.split(found[1], comments=True) if word != "&"]


def split(args):
    """The verb and the rest; the verb is None where they are siam's own flags, or a verb of an example."""
    for n in (2, 1):
        if " ".join(args[:n]) in VERBS:
            return " ".join(args[:n]), args[n:]
    assert args[0] in ("--help", "--version", *EXAMPLES), args
    return None, []


ALL = [(page.name, args) for page in PAGES for args in commands(page)]
COMPLETE = [
    (page, *split(args))
    for page, args in ALL
    if split(args)[1] and not {"--help", "..."} & set(args) and args[-1] != "NAME"
]


@cache
def flags_of(verb):
    """Every flag of a verb, as its own help lists them."""
    import contextlib
    import io

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([*verb.split(), "--help"])
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", shown.getvalue()))


def options_of(verb):
    module = plugins.load("siam.verbs", VERBS[verb])
    return next(
        v
        for v in vars(module).values()
        if getattr(v, "__module__", "") == module.__name__ and isinstance(v, type)
    )


def test_the_pages_have_the_commands_that_they_are_known_to_have():
    """So that a change of the pattern cannot make the other tests pass over them."""
    assert len(COMPLETE) >= 50
    assert {verb for _, verb, _ in COMPLETE} == set(VERBS)
    assert (
        "clusters.md",
        ["pretrain", "/data/photos", "--out", "/shared/runs/photos", "--resume", "auto"],
    ) in ALL
    assert flags_of("shard") == {"--help", "--out", "--size", "--json"}


@pytest.mark.parametrize(("page", "verb", "args"), COMPLETE, ids=lambda value: str(value)[:60])
def test_a_command_is_understood(page, verb, args):
    options, _ = parse(options_of(verb), args, f"siam {verb}")
    if verb in ("pretrain", "bench"):
        assert isinstance(options.settings.over(Settings()), Settings)
    if verb == "reproduce":
        assert options.table in TABLES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_flag_is_one_of_the_program(page):
    """In prose and tables, where no verb is named: a flag of any verb. Old names stand in the changelog."""
    known = (
        {flag for verb in VERBS for flag in flags_of(verb)} | OTHERS | {"--views"}
    )  # short for --views.pipeline
    text = [code for code in spans(page) if code not in renamed(page)]
    used = {flag for code in text if code.startswith("--") for flag in re.findall(r"--[a-z][\w.-]*\w", code)}
    for verb, args in (split(args) for args in commands(page)):
        if verb:
            used |= {flag.partition("=")[0] for flag in args if flag.startswith("--")}
    assert used <= known, sorted(used - known)


def renamed(page):
    """The first column of the changelog's table of renamings, and a row of placeholders."""
    rows = re.findall(r"^\| `(--[^`]+)`.* \| `", page.read_text(), re.MULTILINE)
    return {*rows, "--method.NAME"} if page.name == "CHANGELOG.md" else set()


def test_the_changelog_names_the_new_flag_as_the_error_does():
    """Old flags are unknown, and their replacement is suggested."""
    page = ROOT / "CHANGELOG.md"
    rows = re.findall(
        r"^\| `(--[\w.-]+)`.* \| `(--[\w.-]+)`", page.read_text().replace("NAME", "dim"), re.MULTILINE
    )
    assert len(rows) == 6
    for old, new in rows:
        verb = "evaluate" if new == "--untrained" else "pretrain"
        args = ["run", "data"] if verb == "evaluate" else []
        with pytest.raises(SettingsError, match=rf"unknown setting '{old}'; did you mean {new}\?"):
            parse(options_of(verb), [*args, old, "1"], f"siam {verb}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_what_siam_has(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            match node:
                case ast.Attribute(value=ast.Name(id="siam"), attr=name):
                    assert hasattr(siam, name), name
                case ast.Call(func=ast.Attribute(value=ast.Name(id="siam"), attr=name)):
                    given = {keyword.arg: keyword.value for keyword in node.keywords}
                    bound = inspect.signature(getattr(siam, name)).bind(*node.args, **given)
                    settings = bound.arguments.get("settings", {})
                    values = {key: ast.literal_eval(value) for key, value in settings.items()}
                    assert isinstance(Overrides(values).over(Settings()), Settings)
