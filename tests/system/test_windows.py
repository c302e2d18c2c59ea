"""Loading a run and embedding images need nothing that Windows lacks."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from siam.cli import command as cli
from tests.conftest import TINY

WITHOUT = """
import importlib.abc, json, os, select, signal, sys

ABSENT = {"fcntl", "grp", "pwd", "resource", "termios"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(f"no module named {name}", name=name)

for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for module, names in (
    (os, ("O_DIRECTORY", "sched_getaffinity", "setpgid", "killpg", "sysconf", "sysconf_names")),
    (select, ("poll", "epoll")),
    (signal, ("SIGHUP", "SIGUSR1")),
):
    for name in names:
        delattr(module, name)

import torch

import siam
import siam.cli.command
import siam.data.loader, siam.data.remote, siam.data.workers, siam.processes.launch, siam.runs.saving
from siam.system.device import find_device, tune_process
from siam.system.files import in_turn, locked, write_atomically
from siam.system.resources import available_cores, free_memory
from pathlib import Path

run, photos, folder = sys.argv[1:]
device = find_device("cpu")
tune_process(device)
encoder = siam.load(run, "cpu")
features = encoder(torch.zeros(1, 3, 16, 16)).shape[1]
vectors, paths = siam.embed(run, photos, device="cpu", workers=0)
write_atomically(Path(folder) / "file", lambda file: file.write(b"whole"))
with locked(Path(folder)), in_turn(Path(folder)):
    pass
print(json.dumps({
    "absent": sorted(ABSENT - set(sys.modules)), "features": features,
    "vectors": vectors.tolist(), "paths": paths, "cores": available_cores(), "memory": free_memory(device),
}))
"""


@pytest.mark.slow
def test_a_run_is_loaded_and_embeds_without_what_windows_lacks(photos, tmp_path):
    import siam

    run = tmp_path / "run"
    assert cli.main(["pretrain", str(photos), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    folder = tmp_path / "folder"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, str(run), str(photos), str(folder)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["absent"] == ["fcntl", "grp", "pwd", "resource", "termios"]
    vectors, paths = siam.embed(run, photos, device="cpu", workers=0)
    assert found["paths"] == paths
    assert vectors.shape == (24, found["features"])
    np.testing.assert_allclose(found["vectors"], vectors, rtol=1e-5, atol=1e-6)
    assert found["cores"] == os.cpu_count()
    assert found["memory"] == 4 * 2**30
    assert (folder / "file").read_bytes() == b"whole"
