"""The fuzzer: past finds stay fixed, cases can be made again, and nothing that goes wrong escapes the box."""

import contextlib
import io
import random
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.fuzz import box as limits
from tests.fuzz.__main__ import load, smaller
from tests.fuzz.box import Box, judge
from tests.fuzz.cases import case_of, subjects
from tests.fuzz.mutate import GENERAL, TEXT, exif, json_value, png_chunk, tar_header
from tests.fuzz.subjects import archives, images

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", CORPUS, ids=lambda folder: folder.name)
def test_a_past_find_stays_fixed(folder):
    verdict = judge(*load(folder))
    assert verdict.outcome in ("read", "refused"), verdict.detail


@pytest.mark.parametrize("name", subjects())
def test_intact_inputs_are_read(name, tmp_path):
    """Except the checkpoints among them that hold code, and arrays of floats."""
    for origin, case in subjects()[name].seeds().items():
        allowed = ("read", "refused") if origin in ("bomb", "pickle", "floats", "csv") else ("read",)
        verdict = judge(name, case)
        assert verdict.outcome in allowed, f"{origin}: {verdict}"


_SHORT = {
    "annotations": 40, "archives": 60, "checkpoints": 10, "images": 300, "runs": 4, "settings": 40,
    "tables": 80, "pretrained": 20,
}  # fmt: skip
"""Cases of each subject that take some ten seconds in sum."""


@pytest.mark.slow
@pytest.mark.parametrize("name", subjects())
def test_a_short_run_finds_nothing(name):
    """The same cases each time; `make fuzz` draws others for as long as one likes."""
    for number in range(_SHORT[name]):
        verdict = judge(name, case_of(name, seed=26, number=number)[1])
        assert not verdict.is_find, f"case {number}: {verdict.kind}\n{verdict.detail}"


def test_a_case_can_be_made_again_and_the_next_is_another():
    for name in subjects():
        cases = [case_of(name, 5, n)[1] for n in range(6)]
        assert cases == [case_of(name, 5, n)[1] for n in range(6)]
        assert any(case != cases[0] for case in cases[1:])
        assert cases != [case_of(name, 6, n)[1] for n in range(6)]


@pytest.mark.parametrize("mutation", [*GENERAL, *TEXT, json_value])
def test_mutations_take_any_bytes(mutation):
    rng = random.Random(0)
    for data in (b"", b"a", b'{"a": [1, {"b": null}]}', bytes(100)):
        assert all(isinstance(mutation(rng, data), bytes) for _ in range(50))


def test_mutated_chunks_and_headers_have_the_right_checksums():
    """Else readers would refuse them all at the same line."""
    rng = random.Random(0)
    png = images.seeds()["png-RGB"]["image.png"]
    read = 0
    for _ in range(60):
        with contextlib.suppress(Exception):
            Image.open(io.BytesIO(png_chunk(rng, png))).load()
            read += 1
    assert read >= 10, "Pillow checks the checksums"
    tar = archives.seeds()["ustar"]["set.tar"]
    for _ in range(60):
        data = tar_header(rng, tar)
        at = next((n for n in range(0, len(tar), 512) if data[n : n + 512] != tar[n : n + 512]), None)
        if at is not None:
            assert tarfile.calc_chksums(data[at : at + 512])[0] == int(data[at + 148 : at + 154], 8)


def test_the_oracle_applies_the_orientation():
    data = io.BytesIO()
    Image.new("RGB", (4, 2)).save(data, "JPEG", exif=b"Exif\0\0" + exif(6))
    assert images._by_pillow(data.getvalue()).size == (2, 4)
    assert images._by_pillow(b"not an image") is None


@pytest.fixture
def bad(monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 3)
    box = Box("_bad")
    yield box
    box.close()


def test_the_box_tells_how_a_case_ended(bad):
    """And goes on after a crash and a hang."""
    for what, outcome in (
        ("read", "read"), ("refused", "refused"), ("broken", "refused"), ("crash", "crash"), ("hang", "hang"),
        ("memory", "memory"), ("foreign", "foreign"), ("wrong", "wrong"), ("long", "wrong"), ("read", "read"),
    ):  # fmt: skip
        verdict = bad({what: b""})
        assert verdict.outcome == outcome, (what, verdict)
        assert verdict.is_find == (outcome not in ("read", "refused"))
    assert bad({"crash": b""}).kind == "exit status -6"
    assert bad({"wrong": b""}).kind == "three legs"


def test_a_find_is_made_smaller(bad):
    case = {"foreign": bytes(1000), "fixed/a": b"left as it is"}
    less = smaller(bad, case, bad(case))
    assert len(less["foreign"]) <= 1
    assert less["fixed/a"] == b"left as it is"
