"""Verbs: found by listing their folder, all of one form. tests/test_additions.py adds one."""

import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

from siam import plugins
from siam.cli import command as cli

VERBS = cli.find_verbs()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_form_that_the_command_expects(verb, capsys):
    module = plugins.load("siam.verbs", VERBS[verb])
    summary = module.__doc__.partition("\n")[0]
    assert summary[0].islower(), "it follows the verb's name"
    assert not summary.endswith(".")
    options = [v for v in vars(module).values() if is_dataclass(v) and v.__module__ == module.__name__]
    assert len(options) == 1
    assert "json" not in {field.name for field in fields(options[0])}, "every verb has it"
    assert callable(module.main)
    with pytest.raises(SystemExit, match="0"):
        cli.main([*verb.split(), "--help"])
    shown = " ".join(re.sub(r"[│|]", " ", capsys.readouterr().out).split())
    assert f"usage: siam {verb} " in shown
    assert options[0].__doc__.split("\n")[0] in shown
    assert "--json Print the result as one JSON object on stdout." in shown


def test_a_verb_without_torch_to_say_what_is_wrong():
    """Each verb imports torch only once its settings are read."""
    code = (
        "import sys; from siam.cli import main; from siam.cli.command import find_verbs\n"
        "for verb in find_verbs(): assert main([*verb.split(), '--unknown']) == 2, verb\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert len(done.stderr.splitlines()) == len(VERBS)


@pytest.mark.parametrize("args", [["--help"], ["reproduce", "--help"]])
def test_a_reader_that_has_left_is_no_error(args):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "siam", *args], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
