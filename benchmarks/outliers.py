"""Outliers: 50 images of another set mixed into 2,000, and how many are among the 100 oddest.

python benchmarks/outliers.py RUN [--images 2000] [--others 50] [--first 100] [--seeds 5] [--out FILE]

Embeds the sets of SIAM_DATA: Imagenette's photographs, flowers, and hands showing digits. For each pair of
sets, images are drawn with several seeds; the table has the mean share of the others found.
"""

import statistics
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from measure import DATA, arguments, save, show
from numpy.typing import NDArray

from siam.atlas.neighbors import neighbors_of_all
from siam.convert.vectors import embed

SETS = {
    "photographs": ("imagenette-128.tar.xz", "imagenette-128/val"),
    "flowers": ("flowers-5.tar", "flowers-5/train"),
    "hands": ("sign-digits.tar", "sign-digits/train"),
}
NEIGHBORS = (5, 20, 50, 100)


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--others", type=int, default=50)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    vectors = {name: embed_set(args.run, *place) for name, place in SETS.items()}
    columns: dict[str, dict[str, float]] = {f"k = {k}": {} for k in NEIGHBORS}
    for main_set in SETS:
        for other in SETS:
            if other == main_set or len(vectors[main_set]) < args.images:
                continue
            drawn = [
                draw(vectors[main_set], vectors[other], args.images, args.others, seed)
                for seed in range(args.seeds)
            ]
            for k in NEIGHBORS:
                shares = [found(x, args.others, k, args.first) for x in drawn]
                columns[f"k = {k}"][f"{other} in {main_set}"] = statistics.mean(shares)
    show(f"% of {args.others} among the first {args.first} of {args.images + args.others:,}", columns)
    save(args.out, [columns], seeds=args.seeds)


def embed_set(run: str, file: str, below: str) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(DATA / file) as tar:
            tar.extractall(folder, filter="data")
        return embed(run, Path(folder) / below, device="cpu", workers=1)[0]


def draw(
    main_set: NDArray[np.float32], other: NDArray[np.float32], images: int, others: int, seed: int
) -> NDArray[np.float32]:
    """Return vectors of images drawn at random from both sets, those of the other set last."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [one[rng.permutation(len(one))[:n]] for one, n in ((main_set, images), (other, others))]
    )


def found(vectors: NDArray[np.float32], others: int, k: int, first: int) -> float:
    """Return the percentage of the others, which come last, among the first."""
    distance = neighbors_of_all(vectors, k, lambda done, total: None).distance()
    oddest = np.argsort(-distance, kind="stable")[:first]
    return 100 * float((oddest >= len(vectors) - others).sum()) / others


if __name__ == "__main__":
    main()
