"""Measuring for all benchmarks: alternating candidates, medians over rounds, and facts on the machine."""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from siam.data.kinds import IMAGE_SUFFIXES
from siam.system.environment import environment

DATA = Path(os.environ.get("SIAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
_DEFAULT = multiprocessing.get_all_start_methods()[0]
PEERS = ("lightly", "nvidia-dali-cuda130", "ffcv", "faiss-cpu")

Candidate = Callable[[], int | tuple[int, float]]
"""Runs a turn. Returns the number of units done, or (units, seconds) if only a part is timed."""


def arguments(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="timed turns of each candidate")
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser


def alternating(candidates: dict[str, Candidate], rounds: int) -> dict[str, float]:
    """Return the median rate of each candidate in units per second, after a warm-up round.

    All candidates run in every round, so that a slow minute of the machine affects all of them.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            units, seconds = timed(run)
            if turn > 0:
                rates[name].append(units / seconds)
    return {name: statistics.median(values) for name, values in rates.items()}


def timed(run: Candidate) -> tuple[int, float]:
    """Run a turn. Returns (units, seconds)."""
    start = time.perf_counter()
    done = run()
    return done if isinstance(done, tuple) else (done, time.perf_counter() - start)


Group = tuple[Callable[..., dict[str, Candidate]], tuple[Any, ...]]
"""A module-level function that builds candidates, and its arguments."""


@contextmanager
def in_own_processes(groups: Iterable[Group]) -> Iterator[dict[str, Candidate]]:
    """Start each group of candidates in its own process, and yield all candidates.

    So settings of a whole process, such as its allocator and number of threads, do not affect other groups. A
    group whose packages are not installed is skipped.
    """
    candidates: dict[str, Candidate] = {}
    with ExitStack() as held:
        for build, args in groups:
            spawn = multiprocessing.get_context("spawn")
            here, there = spawn.Pipe()
            process = spawn.Process(target=_take_turns, args=(there, build, args))
            process.start()
            held.callback(process.kill)  # some peers never exit on their own
            there.close()
            names = here.recv()
            if isinstance(names, ImportError):
                print(f"skipped: {build.__name__} ({names})")
            else:
                candidates |= {name: partial(_turn_of, here, name) for name in names}
        yield candidates


def _turn_of(process: Connection, name: str) -> tuple[int, float]:
    process.send(name)
    turn: tuple[int, float] = process.recv()
    return turn


def _take_turns(
    requests: Connection, build: Callable[..., dict[str, Candidate]], args: tuple[Any, ...]
) -> None:
    """Serve turns in the candidates' own process, until it is killed."""
    multiprocessing.set_start_method(
        _DEFAULT, force=True
    )  # this process was spawned; its children are not to be
    try:
        candidates = build(*args)
    except ImportError as error:
        requests.send(ImportError(str(error)))
        return
    requests.send(list(candidates))
    while True:
        requests.send(timed(candidates[requests.recv()]))


def report(
    title: str,
    unit: str,
    rates: dict[str, float],
    baseline: str,
    more: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Print rates, their ratios to `baseline`, and more columns. Returns them as a part of a result."""
    ratios = {name: rate / rates[baseline] for name, rate in rates.items()}
    columns = {unit: rates, f"ratio to {baseline}": ratios, **(more or {})}
    show(title, columns)
    return {
        "title": title,
        "unit": unit,
        "baseline": baseline,
        "rates": rates,
        "ratios": ratios,
        **(more or {}),
    }


def show(title: str, columns: dict[str, dict[str, float]]) -> None:
    """Print a table with a row for every name in the columns."""
    table = Table("", title=title)
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        table.add_row(name, *(number(column.get(name)) for column in columns.values()))
    Console(width=max(100, Console().width)).print(table)


def number(value: float | None) -> str:
    """Format with three significant digits; '-' for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(out: Path | None, parts: list[dict[str, Any]], **facts: Any) -> None:
    """Write a result as JSON: its parts, the machine, versions, date, and command line."""
    if out is None:
        return
    command = " ".join(["python", *(Path(a).name if os.path.isabs(a) else a for a in sys.argv)])
    whole = {"parts": parts, **facts, "command": command, "peers": peers(), **environment()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(whole, indent=1) + "\n")


def peers() -> dict[str, str]:
    """Return the versions of installed peers."""
    found = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def photographs(folder: Path | None, count: int | None = None) -> Iterator[Path]:
    """Yield a flat folder of photographs: `folder`, or photos.tar of SIAM_DATA, unpacked.

    count: exact number of photographs, as links that repeat if there are fewer.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            with tarfile.open(DATA / "photos.tar") as tar:
                tar.extractall(Path(temporary) / "all", filter="data")
            folder = Path(temporary) / "all"
        if count is None:
            yield folder
            return
        files = sorted(f.resolve() for f in folder.rglob("*") if f.name.lower().endswith(IMAGE_SUFFIXES))
        chosen = Path(temporary) / "chosen"
        chosen.mkdir()
        for i in range(count):
            (chosen / f"{i:07d}.jpg").symlink_to(files[i % len(files)])
        yield chosen


def one_core() -> None:
    """Pin this process, its threads and its children to one core, so that rates are per core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a module-level function in a new process, where memory of other work does not count."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def reset_peak() -> None:
    """Reset the peak of this process's memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mb(field: str) -> int:
    """Return this process's memory in MB: VmRSS, the current one, or VmHWM, its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) // 1024
