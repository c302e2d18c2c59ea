"""A subject that is no good, to test the box: it does what its case says."""

import os
import time
from pathlib import Path

from siam.data.decode import BrokenImage
from siam.errors import DataError
from tests.fuzz.cases import Case


def check(case: Case, folder: Path) -> None:
    what = next(iter(case))
    if what == "crash":
        os.abort()
    if what == "hang":
        time.sleep(60)
    if what == "memory":
        _ = bytearray(b"x") * 1_200_000_000
    if what == "foreign":
        raise ZeroDivisionError
    if what == "wrong":
        raise AssertionError("three legs: 4")
    if what == "refused":
        raise DataError("no such animal")
    if what == "broken":
        raise BrokenImage("is not an image")
    if what == "long":
        raise DataError("one\ntwo\nthree\nfour")
