"""Duplicates: altered and exact copies of photographs, mixed into others, and how many of them are found.

python benchmarks/duplicates.py RUN [--images 5000] [--altered 500] [--exact 50] [--out FILE]

Of Imagenette's photographs (SIAM_DATA), some get a copy that is cropped by 5 % at a random place, resized by
10 % either way, and encoded again with a quality of 60, 75 or 90; others get a copy of the same bytes. A pair
of images in one group is right if it is such a pair; the others are listed, to be looked at.
"""

import itertools
import random
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from measure import DATA, arguments, save, show
from PIL import Image

from siam.atlas.listing import duplicates


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--altered", type=int, default=500)
    parser.add_argument("--exact", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        planted = make_set(folder, args.images, args.altered, args.exact)
        found = duplicates(args.run, folder, device="cpu", workers=1)
    facts, others = score(found, planted)
    show(f"duplicates among {found['images']:,} images", {"": facts})
    for pair in others:
        print("not planted:", *pair)
    save(args.out, [facts], images=found["images"], not_planted=others)


def make_set(folder: Path, images: int, altered: int, exact: int) -> dict[tuple[str, str], str]:
    """Write the images. Returns the pairs of names of photographs and copies, and how each is made."""
    folder.mkdir()
    rng = random.Random(0)
    with tarfile.open(DATA / "imagenette-128.tar.xz") as tar:
        tar.extractall(folder.parent, filter="data")
    files = sorted((folder.parent / "imagenette-128" / "train").rglob("*.JPEG"))
    planted = {}
    for i, file in enumerate(rng.sample(files, images)):
        name = f"{i:05d}.jpg"
        shutil.copy(file, folder / name)
        if i < altered:
            other = f"{i:05d}-altered.jpg"
            alter(file, folder / other, rng)
            planted[name, other] = "altered"
        elif i < altered + exact:
            other = f"{i:05d}-exact.jpg"
            shutil.copy(file, folder / other)
            planted[name, other] = "exact"
    return {tuple(sorted(pair)): kind for pair, kind in planted.items()}


def alter(file: Path, copy: Path, rng: random.Random) -> None:
    """Write a copy that is cropped by 5 %, resized by 10 % and encoded again."""
    with Image.open(file) as image:
        width, height = (round(side * 0.95) for side in image.size)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        scale = rng.choice([0.9, 1.1])
        cropped = image.convert("RGB").crop((left, top, left + width, top + height))
        resized = cropped.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        resized.save(copy, quality=rng.choice([60, 75, 90]))


def score(
    found: dict[str, Any], planted: dict[tuple[str, str], str]
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Return recall and precision over pairs in percent, and the pairs that were not planted."""
    pairs = {pair for group in found["groups"] for pair in itertools.combinations(sorted(group), 2)}
    facts: dict[str, float] = {}
    for kind in ("altered", "exact"):
        those = {pair for pair, one in planted.items() if one == kind}
        facts[f"% of {len(those)} {kind} copies found"] = 100 * len(those & pairs) / len(those)
    facts["pairs"] = len(pairs)
    facts["% of pairs planted"] = 100 * len(pairs & planted.keys()) / max(1, len(pairs))
    return facts, sorted(pairs - planted.keys())


if __name__ == "__main__":
    main()
