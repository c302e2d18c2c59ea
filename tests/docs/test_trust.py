"""Every test that docs/trust.md names exists in the file that it links to."""

import re

from tests.docs import ROOT

PAGE = ROOT / "docs" / "trust.md"
NAMED = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", PAGE.read_text())


def test_every_promise_has_its_tests():
    assert len(NAMED) >= 20
    assert len(NAMED) == len(re.findall(r"`test_\w+`", PAGE.read_text()))
    missing = [name for name, file in NAMED if f"def {name}(" not in (ROOT / file).read_text()]
    assert not missing


def test_every_promise_names_a_test_or_a_search():
    rows = re.findall(r"^\| (?!promise|---)(.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 15
    assert [promise for promise, tests in rows if "test_" not in tests and "`make" not in tests] == []
