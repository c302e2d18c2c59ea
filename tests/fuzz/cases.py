"""Cases: the files of a mutated input, a function of (subject, seed, number)."""

import random
from functools import cache
from pathlib import Path
from types import ModuleType

from siam import plugins
from tests.fuzz.mutate import Mutation, mutated

_PACKAGE = "tests.fuzz.subjects"

Case = dict[str, bytes]
"""Relative path of each file -> its bytes."""


def subjects() -> dict[str, ModuleType]:
    """Return the subjects by name. A subject is a module with

    seeds() -> dict[str, Case]      intact inputs
    SPECIAL: dict[str, mutations]   by the suffix of the file that is mutated
    check(case, folder)             read the case; raise SiamError or BrokenImage if it is refused,
                                    AssertionError if it is read wrong. folder: an empty folder to write in
    compare(case, reading)          optional: compare what `check` returned with what another reader makes of
                                    the case, whose memory does not count; raise as `check` does
    """
    return {name: subject_of(name) for name in plugins.names(_PACKAGE)}


def subject_of(name: str) -> ModuleType:
    return plugins.load(_PACKAGE, name)


@cache
def seeds_of(subject: str) -> dict[str, Case]:
    """Return the intact inputs of a subject by name."""
    found: dict[str, Case] = subject_of(subject).seeds()
    return found


def case_of(subject: str, seed: int, number: int) -> tuple[str, Case]:
    """Return the name of an intact input, and a copy of it with one of its files mutated."""
    rng = random.Random(f"{seed}/{subject}/{number}")
    seeds = seeds_of(subject)
    name = rng.choice(sorted(seeds))
    case = dict(seeds[name])
    file = rng.choice(sorted(file for file in case if not file.startswith("fixed/")))
    special: dict[str, tuple[Mutation, ...]] = subject_of(subject).SPECIAL
    other = seeds[rng.choice(sorted(seeds))]
    same_kind = [data for path, data in sorted(other.items()) if Path(path).suffix == Path(file).suffix]
    case[file] = mutated(rng, case[file], special.get(Path(file).suffix, ()), next(iter(same_kind), b""))
    return name, case


def write(case: Case, folder: Path) -> Path:
    """Write the files of a case into a folder, and return it."""
    for name, data in case.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder
