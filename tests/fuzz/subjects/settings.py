"""settings.yaml, as a person edits it: the run's encoder is loaded, or one sentence says why not."""

from pathlib import Path

import yaml

import siam
from siam.runs.folder import open_run
from siam.settings.plain import from_dict, to_dict
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import TEXT
from tests.fuzz.subjects.runs import finished

SPECIAL = {".yaml": TEXT * 3}


def seeds() -> dict[str, Case]:
    run = finished()
    return {"settings": {"settings.yaml": run["settings.yaml"], "fixed/encoder": run["encoder.safetensors"]}}


def check(case: Case, folder: Path) -> None:
    write(case, folder)
    (folder / "fixed" / "encoder").rename(folder / "encoder.safetensors")
    settings = open_run(folder).settings
    again = from_dict(yaml.safe_load(yaml.safe_dump(to_dict(settings))))
    assert str(again) == str(settings), "settings differ when written and read again"  # str: NaN is not NaN
    siam.load(folder)
