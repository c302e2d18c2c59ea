"""Files are complete or absent, and a lock is released when its process ends."""

import multiprocessing
import os
import signal
import time

import pytest

from siam.errors import RunError
from siam.system.files import in_turn, locked, write_atomically

START = multiprocessing.get_context("forkserver")


def hold(folder, ready):
    with locked(folder):
        ready.set()
        time.sleep(600)


def test_a_lock_ends_with_its_process_even_one_that_is_killed(tmp_path):
    ready = START.Event()
    holder = START.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(60)
    for _ in range(2):
        with pytest.raises(RunError, match="is in use by another process: wait for it to finish, or choose"):
            locked(tmp_path).__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    for _ in range(2):  # free, and free again after it was released
        with locked(tmp_path):
            assert (tmp_path / ".lock").exists()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write to .*file: .+; choose another --out"):
        locked(tmp_path / "file").__enter__()


def add_slowly(folder):
    for _ in range(5):
        with in_turn(folder):
            count = int((folder / "count").read_text())
            time.sleep(0.02)
            (folder / "count").write_text(str(count + 1))


def test_updates_by_concurrent_processes_are_not_lost(tmp_path):
    (tmp_path / "count").write_text("0")
    processes = [START.Process(target=add_slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "15"


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
