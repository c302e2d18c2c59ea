"""Worker processes make batches in order, and end with their parent process."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from siam.data.handover import _reduce_in_file, _reduce_in_pipes, send_tensors
from siam.data.images import Encoded
from siam.data.sources import open_images
from siam.data.workers import batches_of
from siam.errors import DataError, RunError
from siam.measure.features import center_views
from tests.conftest import TINY


class Squares(Dataset):
    def __getitem__(self, key):
        return key**2, os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("methods", [["spawn"], ["fork", "spawn", "forkserver"]])
def test_batches_come_in_the_order_of_their_keys_under_any_start_method(monkeypatch, methods):
    """Windows has only spawn."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    batches = list(batches_of(Squares(), lambda n: [3, 1, 2, 5][n:], workers=2))
    assert [square for square, _ in batches] == [9, 1, 4, 25]
    assert len({worker for _, worker in batches} - {os.getpid()}) == 2


def of_session(session):
    """Return the live processes of a session: id and command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_run(photos, tmp_path):
    """SIGKILL reaches the command alone, which cannot forward it: its workers and their server end too.

    They end in silence, and leave no file that the run folder does not explain.
    """
    run = tmp_path / "run"
    flags = [*TINY, "--epochs", "100000", "--loader.cache", "none", "--loader.workers", "2"]
    here = str(Path(__file__).parents[2])  # workers take nothing from the current folder
    said = tmp_path / "said"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "siam", "pretrain", photos, *flags, "--out", run],
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here},
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + 200
        while len(of_session(process.pid)) < 5 or not (run / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, of_session(process.pid)
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    try:
        deadline = time.monotonic() + 20
        while left := of_session(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "leaked" not in said.read_text()
    assert {file.name for file in run.iterdir() if file.name.startswith(".")} <= {".lock", ".turn"}


class Harmed(Dataset):
    """Number 2 sends its worker a signal, once or always; number 7 is an error that the user can fix."""

    def __init__(self, number, mark, always=False):
        self.number, self.mark, self.always = number, mark, always

    def __getitem__(self, key):
        if key == 7:
            raise DataError("seven cannot be read")
        if key == 2 and (self.always or not self.mark.exists()):
            self.mark.touch()
            os.kill(os.getpid(), self.number)
        return torch.full((4,), key), os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "has not answered for 4 s")],
)
def test_a_worker_that_dies_or_falls_silent_is_replaced(tmp_path, number, how):
    """Killed for lack of memory, or stopped: every batch still comes once, in order."""
    said = []
    dataset = Harmed(number, tmp_path / "mark")
    keys = list(range(6))
    batches = [*batches_of(dataset, lambda n: keys[n:], 2, warn=said.append, patience=4)]
    assert [batch.tolist() for batch, _ in batches] == [[key] * 4 for key in keys]
    assert said == [f"a data worker {how}; restarting the workers"]
    assert not [process for _, process in batches if alive(process)]


@pytest.mark.slow
def test_a_worker_lost_twice_on_a_batch_is_an_error_with_a_remedy(tmp_path):
    dataset = Harmed(signal.SIGSTOP, tmp_path / "mark", always=True)
    batches = batches_of(dataset, lambda n: range(n, 6), 1, warn=print, patience=3)
    with pytest.raises(RunError, match="has not answered for 3 s twice on the same batch: use fewer workers"):
        list(batches)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_users_comes_from_a_worker_without_its_traceback(tmp_path, workers):
    batches = batches_of(Harmed(0, tmp_path), lambda n: [1, 7][n:], workers)
    assert next(batches)[0].tolist() == [1] * 4
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == "seven cannot be read"


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("method", ["daemon", "no processes"])
def test_batches_are_read_in_this_process_where_none_can_be_started(monkeypatch, method):
    """In a worker of a multiprocessing.Pool, and where the system refuses more processes."""
    said = []
    if method == "daemon":
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    else:
        monkeypatch.setattr("siam.data.workers._start_method", lambda dataset: "spawn")

        def refuse(process):
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr("multiprocessing.context.SpawnProcess._Popen", staticmethod(refuse))
    batches = list(batches_of(Squares(), lambda n: [3, 1, 2][n:], workers=2, warn=said.append))
    assert batches == [(9, os.getpid()), (1, os.getpid()), (4, os.getpid())]
    assert said == [] if method == "daemon" else "cannot be started" in said[-1]


@pytest.mark.parametrize("reduce", [_reduce_in_file, _reduce_in_pipes])
@pytest.mark.parametrize(
    "x",
    [
        torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
        torch.arange(48, dtype=torch.uint8).reshape(2, 4, 2, 3).permute(0, 3, 1, 2),
        torch.arange(20)[3:9:2],
        torch.tensor(True),
        torch.empty(0, 3, 5, dtype=torch.float32),
    ],
    ids=["float", "channels last", "slice", "scalar", "empty"],
)
def test_tensors_keep_values_and_strides_without_shared_memory(reduce, x):
    rebuild, arguments = reduce(x)
    file = arguments[0]
    if hasattr(file, "detach"):  # within a process, the file can be taken directly
        arguments = (Detached(file.detach()), *arguments[1:])
    else:
        arguments = pickle.loads(pickle.dumps(arguments))  # noqa: S301
    y = rebuild(*arguments)
    assert (y.dtype, y.shape, y.stride()) == (x.dtype, x.shape, x.stride())
    assert torch.equal(x, y)
    y.fill_(1)  # writable, as torch requires


class Detached:
    def __init__(self, number):
        self.number = number

    def detach(self):
        return self.number


@pytest.mark.slow
@pytest.mark.parametrize("in_pipes", [False, True])
def test_batches_arrive_without_room_in_shared_memory(monkeypatch, in_pipes):
    """Sharing fails in the worker, as in a container whose /dev/shm is full."""
    dataset = NoRoom(in_pipes)
    batches = list(batches_of(dataset, lambda n: range(n, 5), 2))
    for key, batch in enumerate(batches):
        assert torch.equal(batch, torch.full((3, 100_000), float(key)))


class NoRoom(Dataset):
    def __init__(self, in_pipes):
        self.in_pipes = in_pipes

    def __getitem__(self, key):
        def full(x):
            raise RuntimeError("unable to allocate shared memory(shm)")

        torch.Tensor.share_memory_ = full  # in the worker only
        send_tensors(self.in_pipes)
        return torch.full((3, 100_000), float(key))


@pytest.mark.slow
def test_center_views_survive_a_killed_worker(photos, capfd):
    """What `siam embed`, `evaluate` and `inspect` read: no image is lost or read twice."""
    images = open_images(photos).train
    expected = torch.cat([views for views, _ in center_views(images, 16, batch_size=5)])
    fatal = KilledOnce(images, photos / "mark")
    read = list(center_views(fatal, 16, batch_size=5, workers=1))
    assert torch.equal(torch.cat([views for views, _ in read]), expected)
    assert [i for _, indices in read for i in indices] == list(range(len(images)))
    assert "a data worker was killed by SIGKILL; restarting the workers" in capfd.readouterr().err


class KilledOnce(Encoded):
    def __init__(self, images, mark):
        self.images, self.name, self.names, self.mark = images, images.name, images.names, mark

    def encoded(self, i):
        if i == 11 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images.encoded(i)
