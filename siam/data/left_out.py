"""An account of what was found in a dataset but is not used, and why."""

import itertools
from collections.abc import Iterable

from siam.data.kinds import Reason

NAMED = 3
"""Number of names to give as examples."""


class LeftOut:
    """What a source found but does not use: for each reason, the number and the first names."""

    def __init__(self) -> None:
        self._found: dict[Reason, tuple[int, list[str]]] = {}

    def add(self, why: Reason, names: list[str], count: int | None = None) -> None:
        """Record `count` files (default: the number of names), of which `names` are the first."""
        before, known = self._found.get(why, (0, []))
        first = sorted([*known, *names])[:NAMED]  # folders are listed in an order of their own
        self._found[why] = before + (len(names) if count is None else count), first

    def counts(self) -> dict[str, int]:
        """Return the number of files for each reason, in the plural."""
        return {several: count for (_, several), (count, _) in self._found.items()}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __str__(self) -> str:
        """Return text such as "2 images in unsupported formats (a.heic, b.psd), 1 pipe (c.jpg)"."""
        return ", ".join(
            f"{count:,} {why[count != 1]} ({first_few(names, count)})"
            for why, (count, names) in sorted(self._found.items())
        )


def first_few(names: Iterable[str], count: int | None = None) -> str:
    """Return the first names, such as "a.jpg, b.jpg, c.jpg, ..."; count: their number, if there are more."""
    first = list(itertools.islice(names, NAMED + 1))
    more = len(first) > NAMED if count is None else count > len(first)
    return ", ".join(first[:NAMED]) + (", ..." if more else "")
