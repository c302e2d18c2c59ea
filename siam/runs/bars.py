"""One-line progress bars for any width: the bar shrinks first, then the least important text is dropped."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from siam.data.images import ImageSets

_BETWEEN_LINES = 60.0  # seconds between plain lines, in files and pipes, where bars cannot be redrawn
_RATE_OVER = 600.0  # seconds; rich's default, 30, covers fewer than ten steps of a large network on a CPU
_SHORTEST, _LONGEST = 8, 40  # width of a bar, in characters


class Bars:
    """Progress bars in a terminal, or at most one plain line per minute in a file or pipe.

    transient: remove the bars at the end.
    """

    def __init__(self, console: Console, transient: bool = False) -> None:
        self.console = console
        self.live = not console.quiet and (console.is_interactive or console.is_jupyter)
        self.progress = Progress(
            _Line(),
            console=console,
            expand=True,
            transient=transient,
            disable=not self.live,
            speed_estimate_period=_RATE_OVER,
        )
        self.silent_since = time.monotonic()

    def update(self, name: str, done: int, total: int, facts: Sequence[str] | None = None) -> None:
        """Update the bar called `name`, adding it on the first call.

        facts: texts to show after the bar, most important first; None keeps the current texts.
        """
        task = next((task for task in self.progress.tasks if task.description == name), None)
        if task is None:
            self.progress.add_task(name, total=total, completed=done, facts=facts or ())
            return
        if facts is not None:
            task.fields["facts"] = facts
        self.progress.update(task.id, total=total, completed=done)
        if not self.live and time.monotonic() - self.silent_since >= _BETWEEN_LINES:
            self.print("  ".join(_words(task)))

    def print(self, line: str, markup: bool = False) -> None:
        """Print a line above the bars."""
        print_line(self.console, line, markup)
        self.silent_since = time.monotonic()


def print_line(console: Console, line: str, markup: bool = False) -> None:
    """Print a line, word-wrapped in a terminal but not in a file or pipe."""
    console.print(line, highlight=False, markup=markup, soft_wrap=not console.is_terminal)


def print_sets(console: Console, sets: ImageSets) -> None:
    """Print what was found in a dataset: which images are used for what, and what is left out."""
    for line in sets.lines():
        print_line(console, line)


OnProgress = Callable[[int, int], None]
"""Progress callback, called with (done, total)."""


@contextmanager
def transient_progress(console: Console) -> Iterator[Callable[[str], OnProgress]]:
    """Yield a function that returns a progress callback for a named bar; remove the bars at the end."""
    bars = Bars(console, transient=True)
    with bars.progress:
        yield lambda name: partial(bars.update, name)


def running_total(on_progress: OnProgress, total: int) -> Callable[[int], None]:
    """Return a function that adds its argument to a running total and reports the total to `on_progress`."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    return add


class _Line(ProgressColumn):
    def render(self, task: Task) -> "_Fitted":
        return _Fitted(_words(task), task.percentage)


@dataclass
class _Fitted:
    """A line with as many of the first `words` as fit, after a progress bar if there is room for one."""

    words: list[str]
    percentage: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        words = list(self.words)
        while len(words) > 1 and len("  ".join(words)) > options.max_width:
            words.pop()
        line = "  ".join(words)
        room = options.max_width - len(line) - 2
        if room < _SHORTEST:
            yield Text(line, no_wrap=True, overflow="ellipsis")
            return
        row = Table.grid(padding=(0, 2))
        row.add_row(ProgressBar(100, self.percentage, width=min(room, _LONGEST)), Text(line, no_wrap=True))
        yield row


def _words(task: Task) -> list[str]:
    """Return the texts to show for a task, most important first."""
    total = int(task.total or 0)
    left = "-:--:--" if task.time_remaining is None else timedelta(seconds=int(task.time_remaining))
    words = [
        task.description,
        f"{task.percentage:3.0f} %",
        f"{int(task.completed):{len(str(total))}}/{total}",
        f"{left} left",
        *task.fields["facts"],
        f"{timedelta(seconds=int(task.elapsed or 0))} elapsed",
    ]
    return [word for word in words if word]
