"""Show names of files, classes and folders, which may hold any bytes, without letting them do harm."""

import re
import unicodedata
from typing import Any

LONGEST_NAME = 60
"""Number of characters of a name to use in a folder's name, which may have at most 255 bytes."""

_JOINERS = "\u200c\u200d"  # needed to spell Persian, Hindi and some emoji


def shown(name: object) -> str:
    """Return a name as it appears in terminals, logs, tables and reports, on a single line.

    Control characters, escape sequences, line breaks, invisible and bidirectional marks, and bytes that are
    not UTF-8 appear as escapes such as `\\x1b`, `\\n` and `\\xe9`; all other characters are unchanged.
    """
    text = str(name)
    return text if text.isprintable() else "".join(_escaped(c) if _is_unsafe(c) else c for c in text)


def stored(name: str) -> str:
    """Return a name as files that must be UTF-8 hold it: only bytes that are not UTF-8 appear as escapes."""
    return re.sub("[\ud800-\udfff]", lambda found: _escaped(found[0]), name)


def shown_values(value: Any) -> Any:
    """Apply `shown` to a string, and leave any other value and markup unchanged."""
    return shown(value) if type(value) is str else value


def _is_unsafe(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in _JOINERS


def _escaped(c: str) -> str:
    byte = ord(c) - 0xDC00  # Python represents a byte that is not UTF-8 as a lone surrogate
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else c.encode("unicode_escape").decode()
