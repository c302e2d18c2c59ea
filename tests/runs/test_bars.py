"""Progress bars: whole words at any width, and a line a minute where there is no terminal."""

import io

import pytest
import torch
from rich.console import Console

from siam.data.loader import ViewLoader
from siam.data.sources import open_images
from siam.runs import bars
from siam.runs.bars import Bars, transient_progress
from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings
from siam.train.monitor import Monitor
from tests.conftest import save_images

FACTS = ["loss -0.873", "std 0.92", "kNN 45.2 %", "1234 pairs/s"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def drawn(width, done=12_345, total=100_000, facts=FACTS, seconds=10.0):
    """Return the line in a terminal of that width, `seconds` after the second of the two steps before it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    display = Bars(console)
    now = [0.0]
    display.progress.get_time = lambda: now[0]
    for step in (done - 2, done - 1, done):
        display.update("", step, total, facts)
        now[0] += seconds
    console.print(display.progress)
    (line,) = console.file.getvalue().rstrip("\n").split("\n")
    return line.rstrip()


def test_at_80_columns_everything_is_readable():
    line = drawn(80, 1_234, 8_000)
    for word in ("15 %", "1234/8000", "18:47:40 left", *FACTS):
        assert word in line
    assert len(line) <= 80


def test_at_60_columns_the_loss_and_the_time_left_remain():
    line = drawn(60)
    for word in ("12345/100000", "left", "loss -0.873"):
        assert word in line


@pytest.mark.parametrize("width", range(1, 200, 7))
def test_words_are_never_cut_and_the_bar_shrinks_first(width):
    everything, line = drawn(1000).lstrip("━╸╺ "), drawn(width)
    words = line.lstrip("━╸╺ ")
    assert len(line) <= width
    if width >= 5:
        assert everything.startswith(words)
        assert everything[len(words) :][:2] in ("", "  "), "cut between words"
    if "━" in line:
        more = everything[len(words) :].split("  ")
        assert more == [""] or len(line) + 2 > width - len(more[1]), "words go before a bar"


def test_slow_steps_have_a_time_left():
    assert "0:11:40 left" in drawn(80, 3, 10, seconds=100.0)


def test_without_a_terminal_there_is_a_line_a_minute(clock):
    console = Console(file=io.StringIO())
    display = Bars(console)
    with display.progress:
        for step in range(200):
            display.update("", step, 200, FACTS)
            clock[0] += 1.0
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [" 60/200", "120/200", "180/200"]
    assert "\x1b" not in console.file.getvalue()
    assert all(fact in line for line in lines for fact in FACTS)


def test_another_line_postpones_the_line_a_minute(clock):
    console = Console(file=io.StringIO(), width=20)
    display = Bars(console)
    display.update("", 0, 200)
    clock[0] = 59.0
    display.print("epoch   1  loss -0.8730  std 0.92 [of 1]")
    clock[0] = 61.0
    display.update("", 1, 200)
    assert console.file.getvalue() == "epoch   1  loss -0.8730  std 0.92 [of 1]\n", "in one piece"


def test_a_quiet_console_stays_quiet(clock):
    file = io.StringIO()
    with transient_progress(Console(file=file, force_terminal=True, quiet=True)) as bar:
        report = bar("images")
        report(1, 2)
        clock[0] = 100.0
        report(2, 2)
    assert file.getvalue() == ""


def test_reading_images_before_training_shows_progress(classes, tmp_path):
    calls = []

    def bar(what):
        return lambda done, of: calls.append((what, done, of))

    settings = Settings(batch_size=4, views=ViewSettings(size=16), loader=LoaderSettings(0, "auto"))
    device = torch.device("cpu")
    Monitor(open_images(classes), settings, device, False, bar)
    assert calls == [("reading images for metrics", 24, 24), ("reading validation images", 12, 12)]

    (tmp_path / "same").mkdir()
    save_images(tmp_path / "same", 1, seed=0)
    image = next((tmp_path / "same").iterdir())
    for i in range(199):
        (image.parent / f"copy{i}.jpg").hardlink_to(image)
    calls.clear()
    assert ViewLoader(open_images(image.parent).train, settings, device, progress=bar("all")).cached
    assert calls == [("all", 100, 200), ("all", 200, 200)]
