"""The documentation is true of the program: its commands, flags, Python and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page, *languages):
    """The fenced code blocks of some languages; "" is a block without one."""
    return [code for language, code in _FENCE.findall(page.read_text()) if language in languages]


def spans(page):
    """The inline code of a page, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _FENCE.sub("", page.read_text()))]
