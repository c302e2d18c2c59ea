"""Fuzz for some minutes, print counts, and keep one input for each kind of find.

python -m tests.fuzz --minutes 30 --seed 7 --subjects images tables
python -m tests.fuzz --replay FOLDER    # a folder that it kept
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.box import Box, Verdict, judge
from tests.fuzz.cases import Case, case_of, seeds_of, subjects, write

_TURNS = {"images": 4.0}
"""Seconds of a subject's turn; 1 for the others."""


class Campaign:
    """Counts and finds of a run of the fuzzer."""

    def __init__(self, names: list[str], seed: int, out: Path) -> None:
        self.seed, self.out = seed, out
        self.boxes = {name: Box(name) for name in names}
        self.counts = {name: Counter[str]() for name in names}
        self.finds: dict[tuple[str, str, str], int] = {}
        """(subject, outcome, kind) -> how often."""

    def run(self, seconds: float) -> None:
        """Let the subjects take turns for some seconds."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                for name in self.boxes:
                    turn = time.monotonic() + _TURNS.get(name, 1.0)
                    while time.monotonic() < min(turn, end):
                        self._one(name)
        finally:
            for box in self.boxes.values():
                box.close()

    def _one(self, subject: str) -> None:
        number = self.counts[subject].total()
        verdict = self.boxes[subject]((self.seed, number))
        self.counts[subject][verdict.outcome] += 1
        if verdict.is_find:
            key = subject, verdict.outcome, verdict.kind
            if key not in self.finds:
                origin, case = case_of(subject, self.seed, number)
                self._keep(key, origin, number, smaller(self.boxes[subject], case, verdict), verdict)
            self.finds[key] = self.finds.get(key, 0) + 1

    def _keep(
        self, key: tuple[str, str, str], origin: str, number: int, case: Case, verdict: Verdict
    ) -> None:
        folder = self.out / re.sub(r"[^\w.]+", "-", " ".join(key))
        intact = seeds_of(key[0])[origin]
        write({name: data for name, data in case.items() if intact.get(name) != data}, folder / "case")
        told = {"subject": key[0], "outcome": key[1], "kind": key[2], "origin": origin, "seed": self.seed}
        (folder / "find.json").write_text(
            json.dumps({**told, "number": number, "detail": verdict.detail}, indent=1)
        )
        print(f"find: {' | '.join(key)}  ->  {folder}", flush=True)

    def table(self) -> str:
        """Return the counts of each subject as text."""
        columns = ("read", "refused", "wrong", "foreign", "crash", "hang", "memory")
        lines = [f"{'':12}{'cases':>9}" + "".join(f"{c:>9}" for c in columns) + f"{'peak MB':>9}"]
        for name, counts in self.counts.items():
            peak = self.boxes[name].peak
            numbers = "".join(f"{counts[c]:>9,}" for c in columns)
            lines.append(f"{name:12}{counts.total():>9,}{numbers}{peak:>9,.0f}")
        return "\n".join(lines)


def smaller(box: Box, case: Case, verdict: Verdict, seconds: float = 10) -> Case:
    """Return a case with the same find and fewer bytes, by leaving out pieces of the mutated files."""
    end = time.monotonic() + (0 if verdict.outcome == "hang" else seconds)
    for name in sorted(file for file in case if not file.startswith("fixed/")):
        piece = len(case[name]) // 2
        while piece >= 1 and time.monotonic() < end:
            for start in range(0, len(case[name]), piece):
                less = {**case, name: case[name][:start] + case[name][start + piece :]}
                found = box(less)
                if (found.outcome, found.kind) == (verdict.outcome, verdict.kind):
                    case = less
                    break
                if time.monotonic() > end:
                    break
            else:
                piece //= 2
    return case


def load(folder: Path) -> tuple[str, Case]:
    """Read a find that was kept: its subject, and its files completed with those of the intact input."""
    find = json.loads((folder / "find.json").read_text())
    files = (path for path in (folder / "case").rglob("*") if path.is_file())
    kept = {str(path.relative_to(folder / "case")): path.read_bytes() for path in files}
    return find["subject"], {**seeds_of(find["subject"])[find["origin"]], **kept}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    parser.add_argument("--subjects", nargs="+", choices=list(subjects()), default=list(subjects()))
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder for finds")
    parser.add_argument("--replay", type=Path, help="read a find again, in this process")
    options = parser.parse_args()
    if options.replay:
        verdict = judge(*load(options.replay))
        print(verdict.outcome, verdict.kind, verdict.detail, sep="\n")
        return int(verdict.is_find)
    Box.start.set_forkserver_preload(["tests.fuzz.preload"])
    seed = int.from_bytes(os.urandom(3)) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} minutes: {', '.join(options.subjects)}", flush=True)
    campaign = Campaign(options.subjects, seed, options.out)
    campaign.run(options.minutes * 60)
    print(campaign.table())
    print(f"{sum(c.total() for c in campaign.counts.values()):,} cases, {len(campaign.finds)} kinds of finds")
    for key, count in sorted(campaign.finds.items()):
        print(f"  {count:6,} x {' | '.join(key)}")
    return int(bool(campaign.finds))


if __name__ == "__main__":
    sys.exit(main())
