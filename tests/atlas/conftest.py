"""A tiny run, and a set of pictures with copies, for the verbs that look at images."""

import pytest

from siam.cli import command as cli
from tests.conftest import TINY, save_images


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory):
    """Two class folders of six images, of which one is a copy, and an image with a hostile name."""
    root = tmp_path_factory.mktemp("looked") / "set"
    for name, level in (("dark", 60), ("light", 200)):
        (root / name).mkdir(parents=True)
        save_images(root / name, 6, seed=level, level=level)
    (root / "light" / "copy.jpg").write_bytes((root / "light" / "003.jpg").read_bytes())
    hostile = "<img src=x onerror=alert(1)>\n\"'.jpg"
    (root / "dark" / hostile).write_bytes((root / "dark" / "005.jpg").read_bytes())
    (root / "dark" / "005.jpg").unlink()
    return root


@pytest.fixture(scope="session")
def run(looked_at):
    out = looked_at.parent / "run"
    args = ["pretrain", str(looked_at), *TINY, "--epochs", "1", "--out", str(out), "--json"]
    assert cli.main(args) == 0
    return out
