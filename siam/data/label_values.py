"""Turn label values, as tables and shards hold them, into classes and labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siam.data.images import UNLABELED

_MISSING = (None, "", UNLABELED, str(UNLABELED))

Value = str | int | None
"""A class name or number; None, "" and -1 mean that the image is unlabeled."""


def number_labels(
    values: Sequence[Value], names: Sequence[str] = ()
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return class names and labels (N,), UNLABELED for images without one; () and None if all are unlabeled.

    names: class names. If all values are indices into `names`, they are the labels; otherwise, their distinct
    values are the classes, in ascending order.
    """
    found = {value for value in values if value not in _MISSING}
    if not found:
        return (), None
    if names and all(isinstance(value, int) and 0 <= value < len(names) for value in found):
        number: dict[Value, int] = {i: i for i in range(len(names))}
    else:
        number = {value: i for i, value in enumerate(sorted(found, key=_order))}
        names = [str(value) for value in number]
    return tuple(names), np.array([number.get(value, UNLABELED) for value in values], dtype=np.int64)


def _order(value: Value) -> tuple[bool, Value]:
    """Sort numbers by value, and names alphabetically after them."""
    return isinstance(value, str), value
