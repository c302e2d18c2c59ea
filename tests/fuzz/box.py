"""Run cases in a process of their own, with limits of time and memory."""

import ctypes
import multiprocessing
import os
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from siam.data.decode import BrokenImage
from siam.errors import SiamError
from tests.fuzz.cases import Case, case_of, subject_of

SECONDS = 5.0
"""A case that takes longer, twice, is a hang. Waiting for a busy CPU does not count."""
MEGABYTES = 750.0
"""The most memory that a case may take beyond what its process held before: Siam's own processes, of which a
worker holds 0.2 GB besides the code of torch that all share, stay under a gigabyte."""
ADDRESSES = 6 * 2**30
"""Address space that a process may take beyond what it has at first, to protect the machine."""

FINE = ("read", "refused")


@dataclass(frozen=True)
class Verdict:
    """How a case ended."""

    outcome: str
    """`read`, `refused`; or `foreign`, `wrong`, `crash`, `hang`, `memory`, which are finds."""
    kind: str = ""
    """Finds of the same cause have the same kind: exception and line, or signal."""
    detail: str = ""

    @property
    def is_find(self) -> bool:
        return self.outcome not in FINE


def judge(subject: str, case: Case, measure: Callable[[], object] = lambda: None) -> Verdict:
    """Read a case in this process. measure: called before the result is compared with another reader's."""
    folder = Path(tempfile.mkdtemp(prefix="siam-fuzz-"))
    module = subject_of(subject)
    try:
        reading = module.check(case, folder)
        measure()
        if hasattr(module, "compare"):
            module.compare(case, reading)
        return Verdict("read")
    except (SiamError, BrokenImage) as error:
        lines = str(error).split("\n")  # names may hold other line breaks, which the command escapes
        return Verdict("wrong", "message of many lines", str(error)) if len(lines) > 3 else Verdict("refused")
    except AssertionError as error:
        first = str(error).splitlines()[0] if str(error) else "assertion"
        return Verdict("wrong", first.partition(":")[0], str(error))
    except BaseException as error:  # also SystemExit and pyo3's panics
        return Verdict("foreign", _kind(error), traceback.format_exc())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kind(error: BaseException) -> str:
    """Name the exception and the last line of Siam's own code on the way to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/siam/" in frame.filename]
    own = [frame for frame in frames if "/tests/" not in frame.filename] or frames
    place = f"{own[-1].filename.rpartition('/siam/')[2]} {own[-1].name}" if own else "outside"
    return f"{type(error).__name__} in {place}"


def _serve(pipe: Connection, subject: str) -> None:
    """Answer a case, or (seed, number), with its verdict and peak memory in MB, until the pipe is closed."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, used + ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # libtiff and others print what they think of a file
    os.dup2(null, 2)
    subject_of(subject)  # imports take seconds
    pipe.send("ready")
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        case = asked if isinstance(asked, dict) else case_of(subject, *asked)[1]
        ctypes.CDLL(None).malloc_trim(0)  # what the case before left must not serve this one
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        peak = _Peak()
        verdict = judge(subject, case, peak.measure)
        taken = peak.megabytes() - before
        if taken > MEGABYTES and not verdict.is_find:
            verdict = Verdict("memory", f"over {MEGABYTES:.0f} MB", f"{taken:.0f} MB, {verdict.outcome}")
        pipe.send((verdict, taken))


class _Peak:
    """The peak of memory when it is first measured."""

    def __init__(self) -> None:
        self._found: float | None = None

    def measure(self) -> None:
        self._found = _memory("VmHWM")

    def megabytes(self) -> float:
        return _memory("VmHWM") if self._found is None else self._found


def _memory(name: str) -> float:
    """Return a value of /proc/self/status in MB: VmRSS for now, VmHWM for the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1000


class Box:
    """A process that reads cases; it is replaced after a crash or a hang."""

    start = multiprocessing.get_context("forkserver")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.peak = 0.0
        self.process: Any = None

    def __call__(self, asked: Case | tuple[int, int]) -> Verdict:
        """Return the verdict on a case, or on case (seed, number). A hang must happen twice to count."""
        verdict = self._ask(asked)
        return self._ask(asked) if verdict.outcome == "hang" else verdict

    def _ask(self, asked: Case | tuple[int, int]) -> Verdict:
        if self.process is None:
            self.pipe, theirs = self.start.Pipe()
            self.process = self.start.Process(target=_serve, args=(theirs, self.subject), daemon=True)
            self.process.start()
            theirs.close()
            assert self.pipe.poll(300), "the process does not start"
            self.pipe.recv()
        self.pipe.send(asked)
        try:
            if not self._answers():
                self.close()
                return Verdict("hang", f"over {SECONDS:.0f} s")
            verdict, megabytes = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            status = self.process.exitcode
            self.process = None
            return Verdict("crash", f"exit status {status}")
        self.peak = max(self.peak, megabytes)
        return verdict

    def _answers(self) -> bool:
        """Wait for an answer, for SECONDS of work or sleep."""
        spent, before = 0.0, self._seconds()[0]
        while spent < SECONDS:
            if self.pipe.poll(0.1):
                return True
            cpu, sleeps = self._seconds()
            spent, before = spent + (0.1 if sleeps else cpu - before), cpu
        return False

    def _seconds(self) -> tuple[float, bool]:
        """Return the CPU seconds of the process so far, and whether it sleeps."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), stat[0] in "SDT"

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
