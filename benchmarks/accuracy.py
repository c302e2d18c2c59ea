"""The accuracy of the fast views: kNN after training on them, and after the published Pillow pipeline.

    python benchmarks/accuracy.py DATA [--seeds 3] [--out FILE] [SETTINGS OF siam pretrain]

The two alternate, seed by seed, and see the same images in the same order. Prints the kNN accuracy of each
seed, the means, and their difference with its standard error over seeds.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import save, show

PIPELINES = ("fast", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data", help="as for siam pretrain, with labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args, settings = parser.parse_known_args()
    if args.seeds < 2:
        parser.error("--seeds must be at least 2, because the standard error needs several")

    knn: dict[str, list[float]] = {pipeline: [] for pipeline in PIPELINES}
    seconds: dict[str, list[float]] = {pipeline: [] for pipeline in PIPELINES}
    for seed in range(args.seeds):
        for pipeline in PIPELINES:
            outcome = train(args.data, pipeline, seed, settings)
            if "knn" not in outcome:
                raise SystemExit(
                    f"{args.data} has no labels, which kNN needs: put its images into one folder per class"
                )
            knn[pipeline].append(100 * outcome["knn"])
            seconds[pipeline].append(outcome["seconds"])

    by_seed = {f"seed {i}": {name: knn[name][i] for name in PIPELINES} for i in range(args.seeds)}
    mean = {name: statistics.fmean(values) for name, values in knn.items()}
    deviation = {name: statistics.stdev(values) for name, values in knn.items()}
    time = {name: statistics.median(values) for name, values in seconds.items()}
    show("kNN (%)", {**by_seed, "mean": mean, "deviation": deviation, "seconds": time})
    difference = mean["fast"] - mean["reference"]
    noise = math.sqrt(sum(d**2 for d in deviation.values()) / args.seeds)
    print(f"fast - reference: {difference:+.1f} points, standard error {noise:.1f}")
    part = {
        "title": "kNN (%)",
        "knn": knn,
        "difference": difference,
        "standard_error": noise,
        "seconds": time,
    }
    save(args.out, [part])


def train(data: str, pipeline: str, seed: int, settings: list[str]) -> dict[str, float]:
    """Train a run, and return the result that `siam pretrain --json` prints."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "siam", "pretrain", data, "--seed", str(seed), *settings]
        command += ["--views.pipeline", pipeline, "--out", str(Path(temporary) / "run"), "--json"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    outcome: dict[str, float] = json.loads(ended.stdout)
    return outcome


if __name__ == "__main__":
    main()
