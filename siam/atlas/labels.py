"""Labels that a user gives to images while looking at them, kept in labels.csv."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siam.data.images import UNLABELED
from siam.data.label_file import read_labels
from siam.errors import DataError
from siam.system.files import write_atomically, writing

LABELS = "labels.csv"
LONGEST = 200
"""Characters of a label's name, at most."""

_BY_HAND = "hand"


class Labels:
    """The label of each row of a map: its name, who gave it, and its score."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Start without labels. paths: each row's path, as labels.csv holds it."""
        self.paths = paths
        self.names: list[str] = []
        self.codes = np.full(len(paths), UNLABELED, dtype=np.int32)
        """Index into `names` (N,), UNLABELED for rows without a label."""
        self.scores = np.ones(len(paths), dtype=np.float32)
        self.sources = [_BY_HAND, "probe", "neighbors"]
        self.by = np.zeros(len(paths), dtype=np.int8)
        """Index into `sources` (N,)."""

    def give(self, rows: Sequence[int], name: str | None) -> None:
        """Label rows by hand; None takes their labels away.

        Raises DataError if a row does not exist, or the name is empty or too long.
        """
        if any(type(row) is not int or not 0 <= row < len(self.codes) for row in rows):
            raise DataError(f"rows must be whole numbers from 0 to {len(self.codes) - 1}")
        chosen = np.array(rows, dtype=np.int64)
        self.codes[chosen] = UNLABELED if name is None else self._code(name)
        self.scores[chosen], self.by[chosen] = 1, 0

    def accept(
        self, names: Sequence[str], codes: NDArray[np.int32], scores: NDArray[np.float32], source: str,
        threshold: float,
    ) -> None:  # fmt: skip
        """Take over suggestions (N,) with at least this score, for rows without a label."""
        chosen = (self.codes == UNLABELED) & (codes >= 0) & (scores >= threshold)
        number = np.array([self._code(name) for name in names], dtype=np.int32)
        self.codes[chosen] = number[codes[chosen]]
        self.scores[chosen], self.by[chosen] = scores[chosen], self.sources.index(source)

    def labeled(self) -> NDArray[np.int64]:
        """Return the rows with a label, ascending."""
        return np.flatnonzero(self.codes != UNLABELED)

    def by_hand(self) -> NDArray[np.int64]:
        """Return the rows that were labeled by hand, ascending."""
        return np.flatnonzero((self.codes != UNLABELED) & (self.by == 0))

    def _code(self, name: str) -> int:
        name = name.strip()
        if not name or len(name) > LONGEST or not name.isprintable():
            raise DataError(f"a label must have 1 to {LONGEST} printable characters")
        if name == str(UNLABELED):
            raise DataError(f"a label cannot be {UNLABELED}, which means unlabeled in lists")
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def save(self, folder: Path) -> Path:
        """Write FOLDER/labels.csv: path, label, score and who gave it. Raises RunError."""
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", "score", "by"])
        for row in self.labeled():
            name, by = self.names[self.codes[row]], self.sources[self.by[row]]
            table.writerow([self.paths[row], name, f"{self.scores[row]:.4g}", by])
        file = folder / LABELS
        data = text.getvalue().encode(errors="surrogateescape")
        with writing(file):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda opened: opened.write(data))
        return file

    def load(self, folder: Path) -> None:
        """Take over the labels of FOLDER/labels.csv, if there is one. Raises DataError."""
        file = folder / LABELS
        if not os.path.exists(file):
            return
        number = {path: row for row, path in enumerate(self.paths)}
        for path, name, score, by in read_labels(file):
            row = number.get(path)
            if row is not None:
                self.codes[row] = self._code(name)
                self.scores[row] = score
                self.by[row] = self.sources.index(by) if by in self.sources else 0
