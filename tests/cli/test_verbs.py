"""Verbs: discovered by listing their folder, all of the same form, each added as one file."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

import siam.verbs
from siam import plugins
from siam.cli import command as cli

VERBS = cli.find_verbs()

COUNT = '''
"""count the files of a folder"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Count:
    """Count the files of a folder by their suffix."""

    folder: Annotated[Positional[str], arg(metavar="FOLDER")]
    """Where they are."""
    suffix: str = ".jpg"
    """What their names end in."""


def main(options):
    return {"files": len(list(Path(options.folder).glob("*" + options.suffix))), "complete": True}
'''


@pytest.fixture
def count_verb(tmp_path, monkeypatch):
    """Add a verb as if its file were siam/verbs/count_files_.py."""
    folder = tmp_path / "more verbs"
    folder.mkdir()
    (folder / "count_files_.py").write_text(COUNT.strip())
    monkeypatch.setattr(siam.verbs, "__path__", [*siam.verbs.__path__, str(folder)])
    yield
    sys.modules.pop("siam.verbs.count_files_", None)


def test_a_verb_is_added_by_one_file(count_verb, capsys, photos):
    assert cli.main(["--help"]) == 0
    assert re.search(r"^  count files +count the files of a folder$", capsys.readouterr().out, re.MULTILINE)

    with pytest.raises(SystemExit, match="0"):
        cli.main(["count", "files", "--help"])
    shown = capsys.readouterr().out
    for text in ("siam count files", "by their suffix", "FOLDER", "--suffix", ".jpg", "--json"):
        assert text in shown

    assert cli.main(["count", "files", str(photos)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["files", "24"],
        ["complete", "yes"],
    ]
    assert cli.main(["count", "files", str(photos), "--suffix", ".png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": 0, "complete": True}
    assert cli.main(["count", "files", str(photos), "--sufix", ".png"]) == 2
    assert "unknown setting '--sufix'; did you mean --suffix?" in capsys.readouterr().err


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


def test_verbs_report_unknown_settings_without_torch():
    """Each verb imports torch only after its settings have been read."""
    code = (
        "import sys; from siam.cli import main; from siam.cli.command import find_verbs\n"
        "for verb in find_verbs(): assert main([*verb.split(), '--unknown']) == 2, verb\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert len(done.stderr.splitlines()) == len(VERBS)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["reproduce", "--help"]])
def test_a_broken_pipe_is_not_an_error(args):
    """No message, and the status of a command that SIGPIPE ends, even if the output fits the buffer."""
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "siam", *args]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=buffered, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
