"""Folders of runs."""

import pytest

from tests.report.reading import make_run


@pytest.fixture(autouse=True, scope="module")
def charts():
    """Draw them."""


@pytest.fixture
def run(tmp_path):
    """Return a function that writes a run: run(records, settings, pictures, name) -> its folder."""

    def make(records, *given, name="a-run", **named):
        return make_run(tmp_path / name, records, *given, **named)

    return make
