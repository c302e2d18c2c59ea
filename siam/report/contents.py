"""The contents of a run folder, parsed for the report."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from siam.errors import RunError
from siam.report.pictures import Pictures
from siam.runs.folder import TRANSFERS, UNREADABLE, Run, open_run
from siam.runs.history import History
from siam.runs.results import SavedEvaluation, TransferResult, load_evaluations, load_transfer


@dataclass(frozen=True)
class Contents(Run):
    """A run with its parsed files, which are loaded on first access and cached."""

    damaged: list[str] = field(default_factory=list)
    """Messages about files that cannot be read; the report is written without them."""

    @cached_property
    def history(self) -> History:
        """The records in metrics.jsonl."""
        return History(self.metrics(), self.settings)

    @cached_property
    def pictures(self) -> Pictures | None:
        """The images in pictures.npz, or None if the file does not exist.

        Raises RunError if the file is corrupt.
        """
        return Pictures.load(self.folder)

    @cached_property
    def evaluations(self) -> list[SavedEvaluation]:
        """The results in evaluations.json, oldest first.

        Raises RunError if the file is corrupt.
        """
        return load_evaluations(self.folder)

    @cached_property
    def transfers(self) -> dict[Path, TransferResult]:
        """The results of all finished transfer runs that can be read, keyed and sorted by folder."""
        parent = self.folder / TRANSFERS
        loaded: dict[Path, TransferResult] = {}
        for child in sorted(parent.iterdir()) if parent.is_dir() else []:
            try:
                result = load_transfer(child)
            except RunError as error:
                self.damaged.append(str(error))
            else:
                loaded |= {child: result} if result is not None else {}
        return loaded

    @cached_property
    def unreadable(self) -> int:
        """The number of images listed in unreadable.txt; 0 if there is no such file."""
        file = self.folder / UNREADABLE
        return file.read_bytes().count(b"\n") if file.exists() else 0


def open_contents(folder: str | Path) -> Contents:
    """Open a run folder for the report.

    Raises RunError if `folder` is not a run folder or its settings cannot be read.
    """
    run = open_run(folder)
    return Contents(run.folder, run.settings)
