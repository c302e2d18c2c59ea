"""The schedule maps steps to epochs, and stays continuous when a run's length changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siam.settings.schedule import Schedule


def test_without_changes_a_step_is_a_step():
    schedule = Schedule(steps_per_epoch=7, epochs=3)
    assert schedule.total_steps == 21
    assert schedule.epoch(14) == 2.0
    assert schedule.progress(14) == 14 / 21


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 5), (2.34, 23), (0.001, 1)])
def test_fractional_epochs_are_rounded_to_steps(epochs, steps):
    assert Schedule(10, epochs).total_steps == steps


def test_a_change_compresses_the_rest():
    """After 40 of 100 steps, 30 steps remain instead of 60: each covers twice as much of the schedule."""
    schedule = Schedule(10, 10)
    schedule.end_at(40, 70)
    assert schedule.total_steps == 70
    assert schedule.epoch(40) == 4.0
    assert schedule.epoch(55) == 7.0
    assert schedule.epoch(70) == 10.0


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 500)), max_size=6))
def test_changes_keep_progress_continuous_and_complete(changes):
    schedule, step = Schedule(13, 8), 0
    for later, rest in changes:
        step = min(step + later, schedule.total_steps - 1)
        before = schedule.progress(step)
        schedule.end_at(step, step + rest)
        assert schedule.progress(step) == pytest.approx(before)
    assert schedule.progress(schedule.total_steps) == pytest.approx(1)
    values = [schedule.progress(s) for s in range(step, schedule.total_steps + 1)]
    assert values == sorted(values)
