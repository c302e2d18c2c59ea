"""Draw verbs, faults and moments at random, and print a table of how the runs ended.

python -m tests.torture --runs 100 --seed 3
python -m tests.torture --verbs embed --faults SIGKILL "full disk"
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command import Command
from tests.torture.faults import Fault, Scene, all_faults, bytes_in
from tests.torture.verbs import VERBS, Verb, make_world

LIMIT = 120.0
"""Seconds that a command may take."""
LINES = 3
"""Lines of the message that ends a run with status 2."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPED = (75, -signal.SIGKILL, *(-number for number in SIGNALS), *(128 + number for number in SIGNALS))
KEPT = (".lock", ".turn")
"""Files that need not be gone at the end."""

GOOD = ("finished", "stopped, then finished", "a sentence, then finished")


class Failed(Exception):
    """A run that ended in none of the good ways."""


@dataclass(frozen=True)
class Undisturbed:
    """A verb without a fault."""

    result: Any
    names: set[str]
    seconds: float
    size: int


class Torture:
    """The runs of one call. folder: an empty folder to work in."""

    def __init__(self, folder: Path, seed: int, verbs: list[str], faults: list[str]) -> None:
        self.folder, self.seed = folder, seed
        (folder / "disk").mkdir()
        known = all_faults(folder / "disk")
        self.pairs = [(v, f) for v in verbs for f in (faults or known) if known[f].fits(VERBS[v])]
        self.faults = known
        self.world = make_world(folder / "world")
        self.whole: dict[str, Undisturbed] = {}

    def _undisturbed(self, name: str) -> Undisturbed:
        """Return the verb's result without a fault; made when it is first asked for."""
        if name not in self.whole:
            self.whole[name] = self._measured(VERBS[name], self.folder / f"whole-{len(self.whole)}")
        return self.whole[name]

    def _measured(self, verb: Verb, out: Path) -> Undisturbed:
        self._prepare(verb, out)
        started = time.monotonic()
        command = Command(*verb.args(self.world, out))
        assert command.wait() == 0, command.stderr
        seconds = time.monotonic() - started
        return Undisturbed(verb.result(out), names_in(out), seconds, bytes_in(out))

    def _prepare(self, verb: Verb, out: Path) -> None:
        out.mkdir(exist_ok=True)
        if verb.copies_run:
            shutil.copytree(self.world.run, out / "run")

    def run(self, number: int) -> tuple[str, str, str, str]:
        """Return (verb, fault, outcome, detail) of run `number`."""
        rng = random.Random(f"{self.seed}/{number}")
        verb_name, fault_name = rng.choice(self.pairs)
        verb, fault, whole = VERBS[verb_name], self.faults[fault_name], self._undisturbed(verb_name)
        scene = Scene(verb, self.world, self.folder / "out", rng, whole.size)
        scene.out.mkdir()
        try:
            outcome, detail = self._disturbed(scene, fault, whole), ""
        except Failed as error:
            outcome, detail = str(error).partition(":")[0], str(error)
        finally:
            self._clean(scene)
        return verb_name, fault_name, outcome, detail

    def _disturbed(self, scene: Scene, fault: Fault, whole: Undisturbed) -> str:
        verb, rng = scene.verb, scene.rng
        if fault.before:
            fault.before(scene)
        self._prepare(verb, scene.out)
        args = verb.args(self.world, scene.out)
        command = Command(*args, before=fault.inside(rng) if fault.inside else None)
        try:
            if fault.during and not command.ended(rng.uniform(0, 1) * whole.seconds):
                fault.during(scene, command)
            status = ended(command, whole.seconds)
            for undo in scene.undo:
                undo()
            scene.undo.clear()
            how = judged(status, command)
            if how != "finished":
                again = Command(*args, *(verb.again if self._has_begun(scene) else ()))
                if ended(again, whole.seconds) != 0:
                    raise Failed(
                        f"cannot be resumed: {how}, then status {again.process.exitcode}: {again.said()}"
                    )
        except Failed as error:
            raise Failed(f"{error}\n{command.stderr[-3000:]}") from None
        self._compare(scene, fault, whole)
        return how if how == "finished" else f"{how}, then finished"

    @staticmethod
    def _has_begun(scene: Scene) -> bool:
        return any(scene.out.rglob("checkpoint.pt"))

    def _compare(self, scene: Scene, fault: Fault, whole: Undisturbed) -> None:
        result = scene.verb.result(scene.out)
        if fault.exact and result != whole.result:
            raise Failed(f"another result: {differences(result, whole.result)}")
        surplus = names_in(scene.out) - whole.names
        if surplus:
            raise Failed(f"files left behind: {', '.join(sorted(surplus))}")

    def _clean(self, scene: Scene) -> None:
        for undo in scene.undo:
            undo()
        if os.path.ismount(scene.out):
            subprocess.run(["umount", "-l", str(scene.out)], check=True)
        shutil.rmtree(scene.out)


def ended(command: Command, usual: float) -> int:
    """Wait for the command and for the processes it started. Return its status. Raises Failed.

    usual: seconds of an undisturbed run; on a busy machine the limit grows with them.
    """
    limit = max(LIMIT, 10 * usual)
    if not command.ended(limit):
        os.killpg(command.process.pid, signal.SIGKILL)
        command.wait()
        raise Failed(f"no end: still running after {limit:.0f} s")
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if not living(command.process.pid):
            return int(command.process.exitcode)
        time.sleep(0.05)
    os.killpg(command.process.pid, signal.SIGKILL)
    raise Failed("processes left behind: some outlived the command by 15 s")


def living(group: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def judged(status: int, command: Command) -> str:
    """Return how the command ended. Raises Failed."""
    if "Traceback" in command.stderr:
        raise Failed(f"traceback: status {status}")
    if status == 0:
        return "finished"
    if status in STOPPED:
        return "stopped"
    _, found, message = command.stderr.rpartition("siam: ")
    if status == 2 and found and message.count("\n") <= LINES:
        return "a sentence"
    raise Failed(f"another end: status {status}")


def names_in(folder: Path) -> set[str]:
    """Return the relative paths of the files in a folder, without locks and TensorBoard's events."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {str(file) for file in files if file.name not in KEPT and "tfevents" not in file.name}


def differences(one: Any, other: Any) -> str:
    """Describe the first difference of two results in a few words."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return f"{keys[0]}: {differences(one.get(keys[0]), other.get(keys[0]))}"
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        n = next(n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        return f"[{n}] {differences(one[n], other[n])}"
    return f"{str(one)[:80]} and {str(other)[:80]}"


def table(ends: list[tuple[str, str, str, str]]) -> str:
    """Return verb, fault, outcome and count as lines of text."""
    counts = Counter(end[:3] for end in ends)
    rows = [f"{v:14}{f:24}{o:36}{n:4}" for (v, f, o), n in sorted(counts.items())]
    return "\n".join(rows)


def torture(
    runs: int, seed: int, verbs: list[str], faults: list[str], say: Any = print
) -> list[tuple[str, str, str, str]]:
    """Run some, and return how each ended: (verb, fault, outcome, detail)."""
    folder = Path(tempfile.mkdtemp(prefix="siam-torture-"))
    ends = []
    try:
        tortured = Torture(folder, seed, verbs, faults)
        for number in range(runs):
            end = tortured.run(number)
            ends.append(end)
            say(f"{number + 1:4} {' | '.join(end[:3])}")
            if end[2] not in GOOD:
                say(end[3])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ends


def main() -> int:
    Command.start.set_forkserver_preload(
        ["siam.train.pretrain", "siam.transfer.train", "siam.protocols.evaluate", "siam.report.page",
         "siam.paper.reproduce", "siam.convert.export", "siam.cli.arguments", "siam.report.sections.curves",
         "siam.report.transfer", "torch.utils.tensorboard", "tests.torture.faults", "tests.frozen"]
    )  # fmt: skip
    parser = argparse.ArgumentParser("python -m tests.torture", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    parser.add_argument("--verbs", nargs="+", choices=list(VERBS), default=list(VERBS))
    parser.add_argument("--faults", nargs="+", default=[])
    options = parser.parse_args()
    seed = int.from_bytes(os.urandom(3)) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    ends = torture(options.runs, seed, options.verbs, options.faults, lambda text: print(text, flush=True))
    good = sum(outcome in GOOD for _, _, outcome, _ in ends)
    print(f"\n{table(ends)}\n{good} of {len(ends)} ended as they should (seed {seed})")
    return int(good < len(ends))


if __name__ == "__main__":
    sys.exit(main())
