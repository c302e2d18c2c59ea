"""Duplicates among pictures made for it: altered copies are found, pictures that look alike are not."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from siam.atlas.align import agreement
from siam.atlas.duplicates import (
    AGREEMENT,
    duplicate_of,
    duplicates_by_looks,
    duplicates_by_vectors,
    groups_of,
)
from siam.atlas.embedded import Located
from siam.atlas.looks import GRAY, look_at
from siam.atlas.neighbors import Neighbors
from siam.data.sources import open_images


def silent(done, total):
    pass


def scene(seed, size=96):
    """Make a picture with structure at all scales: noise of four sizes, the coarse strongest."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size, size, 3), 128.0)
    for cells, strength in ((3, 50), (8, 25), (20, 15), (48, 8)):
        noise = rng.normal(0, strength, (cells, cells, 3)).clip(-100, 100)
        layer = Image.fromarray((noise + 128).clip(0, 255).astype(np.uint8))
        pixels += np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC)) - 128.0
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def altered(image, seed):
    """Crop by 5 % at a random place, resize by 10 % either way, and encode again."""
    rng = np.random.default_rng(seed)
    side = round(image.width * 0.95)
    left, top = rng.integers(0, image.width - side + 1, 2)
    resized = round(side * rng.choice([0.9, 1.1]))
    copy = image.crop((left, top, left + side, top + side)).resize((resized, resized))
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=int(rng.choice([60, 90])))
    return Image.open(file)


def gray(image):
    return torch.from_numpy(np.array(image.convert("L").resize((GRAY, GRAY), Image.Resampling.BOX))).float()


def stacked(images):
    return torch.stack([gray(image) for image in images])


def test_copies_agree_and_other_pictures_do_not():
    scenes = [scene(seed) for seed in range(20)]
    copies = [altered(image, seed) for seed, image in enumerate(scenes)]
    assert agreement(stacked(scenes), stacked(copies)).min() > 0.75
    assert agreement(stacked(copies), stacked(scenes)).min() > 0.75
    assert agreement(stacked(scenes), stacked(scenes[1:] + scenes[:1])).max() < 0.5
    same = agreement(stacked(scenes), stacked(scenes))
    torch.testing.assert_close(same, torch.ones(20), atol=1e-4, rtol=0)


def test_bars_that_pictures_share_do_not_make_them_duplicates():
    framed = [image.copy() for image in map(scene, range(8))]
    for image in framed:
        image.paste("white", (0, 0, 96, 15))
        image.paste("white", (0, 81, 96, 96))
    assert agreement(stacked(framed), stacked(framed[1:] + framed[:1])).max() < 0.3


def test_pictures_of_nothing_agree_with_none():
    white = Image.new("RGB", (96, 96), "white")
    assert agreement(stacked([white, white]), stacked([white, scene(0)])).tolist() == [0, 0]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """30 scenes, an altered copy of the first ten, exact copies of the first one, and a broken file."""
    folder = tmp_path_factory.mktemp("mixed")
    for seed in range(30):
        scene(seed).save(folder / f"{seed:02d}.jpg", quality=95)
    for seed in range(10):
        altered(scene(seed), seed).save(folder / f"{seed:02d}-altered.jpg", quality=80)
    for name in ("00-copy.jpg", "99-copy.jpg"):
        (folder / name).write_bytes((folder / "00.jpg").read_bytes())
    for name in ("broken1.jpg", "broken2.jpg"):
        (folder / name).write_bytes(b"\xff\xd8 broken")
    return folder


@pytest.fixture(scope="module")
def looks(mixed):
    names = sorted(file.name for file in mixed.iterdir())
    return names, look_at(Located(open_images(mixed), names), 0, silent)


def test_all_copies_are_found_and_nothing_else(looks):
    names, seen = looks
    groups = duplicates_by_looks(seen, None, AGREEMENT, silent)
    expected = [["00-altered.jpg", "00-copy.jpg", "00.jpg", "99-copy.jpg"]]
    expected += [[f"{seed:02d}-altered.jpg", f"{seed:02d}.jpg"] for seed in range(1, 10)]
    assert [[names[row] for row in group] for group in groups] == expected
    first = duplicate_of(groups, len(names))
    assert [names[row] for row in first[[1, 2, names.index("99-copy.jpg")]]] == ["00-altered.jpg"] * 3
    assert (first >= 0).sum() == 12


def test_thumbnails_are_small_jpegs_and_broken_images_have_none(looks):
    names, seen = looks
    with Image.open(io.BytesIO(seen.thumbnails[0])) as image:
        assert (image.format, max(image.size)) == ("JPEG", 64)
    broken = names.index("broken1.jpg")
    assert seen.thumbnails[broken] is None
    assert seen.digests[broken] == b""
    assert not seen.gray[broken].any()


def test_vectors_propose_pairs_that_coarse_looks_miss(looks, monkeypatch):
    names, seen = looks
    monkeypatch.setattr("siam.atlas.duplicates._CANDIDATES", 1)
    row, other = names.index("05.jpg"), names.index("05-altered.jpg")
    wrong = np.full((len(names), 1), names.index("29.jpg"), np.int32)
    wrong[row] = other
    monkeypatch.setattr(
        "siam.atlas.duplicates._coarse", lambda gray: np.ones((len(gray), 64), np.float32) / 8
    )
    groups = duplicates_by_looks(seen, Neighbors(wrong, np.ones_like(wrong, np.float32)), AGREEMENT, silent)
    assert sorted([row, other]) in groups


def test_vectors_alone_group_by_cosine():
    neighbors = Neighbors(
        np.array([[1, 2], [0, 2], [1, 0], [0, 1]], np.int32),
        np.array([[0.99, 0.5], [0.99, 0.985], [0.985, 0.5], [0.2, 0.1]], np.float32),
    )
    assert duplicates_by_vectors(neighbors, 0.98) == [[0, 1, 2]]


def test_groups_are_connected_components():
    assert groups_of(8, np.array([[5, 3], [1, 7], [3, 1], [0, 2]])) == [[0, 2], [1, 3, 5, 7]]
    assert groups_of(8, np.empty((0, 2), np.int64)) == []
