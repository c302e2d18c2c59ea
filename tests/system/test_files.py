"""Files are complete or absent, and a lock is released when its process ends."""

import errno
import multiprocessing
import os
import signal
import time

import pytest

from siam.errors import RunError
from siam.system import files
from siam.system.files import (
    LOCK,
    in_turn,
    locked,
    make_folder,
    removed_if_empty,
    same_place,
    write_atomically,
    write_together,
    writing,
)

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


@pytest.fixture(params=["unnamed", "named"])
def temporaries(request, monkeypatch):
    """Temporary files without a name, and with a random one, as on systems that need one."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


@pytest.mark.usefixtures("temporaries")
def test_a_link_is_replaced_and_never_written_through(tmp_path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_bytes(b"precious")
    path = tmp_path / "report.html"
    for link in (path, tmp_path / "report.html.writing"):
        link.symlink_to(thesis)
    write_atomically(path, lambda file: file.write(b"new"))
    assert thesis.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert (tmp_path / "report.html.writing").is_symlink(), "not Siam's"


@pytest.mark.usefixtures("temporaries")
@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, error):
    def fail(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_together({tmp_path / "a": lambda file: file.write(b"whole"), tmp_path / "b": fail})
    assert list(tmp_path.iterdir()) == [], "of files written together, all appear or none"


@pytest.mark.usefixtures("temporaries")
def test_the_longest_possible_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_atomically(path, lambda file: file.write(b"contents"))
    assert [file.name for file in tmp_path.iterdir()] == ["x" * 255]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_killed_write_leaves_nothing_where_files_need_no_name(tmp_path):
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("only Linux has files without a name")
    writer = START.Process(target=write_and_die, args=(tmp_path / "file",))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def write_and_die(path):
    def write(file):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    write_atomically(path, write)


def test_folders_made_for_a_file_that_cannot_be_written_are_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match=r"cannot write to x: No space left on device; retry$"):  # noqa: SIM117
        with writing("x", "; retry"), make_folder(tmp_path / "mine" / "a" / "b"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_turn_is_not_waited_for_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_TURN", 0.1)
    with (
        in_turn(tmp_path),
        pytest.raises(RunError, match=r"another process has been writing to .* end it, and repeat"),
        in_turn(tmp_path),
    ):
        pytest.fail("two at a time")
    with in_turn(tmp_path):
        assert (tmp_path / ".turn").exists()


@pytest.mark.parametrize("other", [None, "settings.yaml"])
def test_only_an_empty_run_folder_is_removed_after_an_error(tmp_path, other):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).touch()
    if other:
        (folder / other).touch()
    with pytest.raises(KeyError), removed_if_empty(folder):
        raise KeyError
    assert folder.exists() == bool(other)
    assert tmp_path.exists()


def test_a_folder_that_another_process_has_just_locked_is_not_removed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    ready = START.Event()
    holder = START.Process(target=hold, args=(folder, ready))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(KeyError), removed_if_empty(folder):
        raise KeyError
    assert [path.name for path in folder.iterdir()] == [LOCK]
    holder.kill()
    holder.join()


def test_paths_to_the_same_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name in ("~/photos", "~/photos/", "~/link", f"{tmp_path}/x/../photos"):
        assert same_place(name, str(tmp_path / "photos"))
    assert not same_place("~/other", str(tmp_path / "photos"))
