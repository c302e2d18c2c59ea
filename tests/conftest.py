"""Fixtures: small real images, flags for tiny networks, and the command as a user runs it."""

import multiprocessing
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command import Command, leave_out_charts

DATA = Path(os.environ.get("SIAM_DATA", Path(__file__).parents[2] / "shared" / "data"))

TINY = """
--backbone resnet10t --width 0.125 --epochs 2 --batch-size 8 --precision float32 --views.size 16
--method.dim 16 --method.projector-hidden 16 --method.predictor-hidden 4 --method.projector-layers 2
--monitor.log-every 1 --monitor.knn-k 5 --loader.workers 0
""".split()  # noqa: SIM905
"""Flags for a run of seconds."""


def pytest_collection_modifyitems(items):
    """Run the files whose slow tests take longest first, so that no core is idle at the end.

    A slow test counts as a minute, or as its time limit if it has one of its own.
    """
    seconds = Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            limit = item.get_closest_marker("timeout")
            seconds[item.path] += limit.args[0] if limit else 60
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: it is fastest for small work, and fixes the order of sums."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def charts():
    """Leave the charts out of reports, except in modules that replace this fixture."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_charts(patch.setattr)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_server():
    """Fork data workers too from the server that imports everything that commands need, not only torch.

    Whoever starts it first: a loader would have it import what the loader's own workers need.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "set_forkserver_preload", lambda names: None)
        yield


@pytest.fixture
def forked(monkeypatch):
    """Let `launch` fork its processes from that server, which saves each the import of torch."""
    monkeypatch.setattr("siam.processes.launch._CONTEXT", Command.start)


@pytest.fixture
def photos(tmp_path):
    """A flat folder of 24 JPEG files of various sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    save_images(folder, 24, seed=0)
    return folder


@pytest.fixture
def classes(tmp_path):
    """train/ and val/, each with two class folders that differ in brightness."""
    root = tmp_path / "classes"
    for split, count in (("train", 12), ("val", 6)):
        for name, level in (("dark", 60), ("light", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            save_images(folder, count, seed=level, level=level)
    return root


def save_images(folder, count, seed, level=128):
    rng = np.random.default_rng(seed)
    for i in range(count):
        height, width = rng.integers(20, 60, 2)
        soft = rng.normal(level, 40, (height // 8 + 1, width // 8 + 1, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(soft).resize((int(width), int(height))).save(folder / f"{i:03d}.jpg")


def run_cli(*args, check):
    """Run `siam` in a process of its own. Return it once it has ended with exit status `check`."""
    done = Command(*args)
    assert done.wait() == check, done.stderr
    return done
