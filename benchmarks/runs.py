"""The results of several runs: a table as Markdown and JSON, and their curves.

python benchmarks/runs.py FOLDER --out PREFIX

FOLDER holds runs, and next to each the output of `siam pretrain --json` and `siam evaluate --json`: NAME/,
NAME.json, NAME-linear.json, NAME-knn.json. Writes PREFIX.md, PREFIX.json and PREFIX.svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from siam.runs.folder import METRICS, SETTINGS, open_run
from siam.system.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.folder.glob(f"*/{SETTINGS}"))
    runs = [summarize(folder) for folder in folders if (folder / METRICS).exists()]
    if runs:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps({"runs": runs, **environment()}, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(as_markdown(runs))
        draw(runs, args.out.with_suffix(".svg"))


def summarize(folder: Path) -> dict[str, Any]:
    run = open_run(folder)
    epochs = [record for record in run.metrics() if record["kind"] == "epoch"]
    rates = [record["pairs_per_second"] for record in run.metrics() if record["kind"] == "step"]
    result: dict[str, Any] = {
        "name": folder.name,
        "method": run.settings.method.name,
        "epochs": len(epochs),
        "of": run.settings.epochs,
        "seconds": epochs[-1]["seconds"] if epochs else None,
        "pairs_per_second": sorted(rates)[len(rates) // 2] if rates else None,
        "curve": {name: [record[name] for record in epochs] for name in ("loss", "std", "rank", "knn")},
    }
    for protocol in ("linear", "knn"):
        file = folder.with_name(f"{folder.name}-{protocol}.json")
        result[protocol] = json.loads(file.read_text())["top1"] if file.exists() else None
    return result


def as_markdown(runs: list[dict[str, Any]]) -> str:
    rows = ["| run | epochs | minutes | pairs/s | kNN | linear |", "| --- | --- | --- | --- | --- | --- |"]
    for run in runs:
        minutes = "-" if run["seconds"] is None else f"{run['seconds'] / 60:.1f}"
        rate = "-" if run["pairs_per_second"] is None else f"{run['pairs_per_second']:,.0f}"
        knn = run["knn"] if run["knn"] is not None else (run["curve"]["knn"] or [None])[-1]
        accuracies = ("-" if x is None else f"{100 * x:.1f} %" for x in (knn, run["linear"]))
        cells = [run["name"], f"{run['epochs']} of {run['of']}", minutes, rate, *accuracies]
        rows.append(f"| {' | '.join(cells)} |")
    where = environment()
    return "\n".join([*rows, "", f"{where['machine']}, torch {where['torch']}, {where['date']}.", ""])


def draw(runs: list[dict[str, Any]], file: Path) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for ax, (name, title) in zip(
        panels, {"loss": "loss", "std": "std x sqrt(d)", "knn": "kNN (%)"}.items(), strict=True
    ):
        for run in runs:
            points = [(i + 1, value) for i, value in enumerate(run["curve"][name]) if value is not None]
            if points:
                x, y = zip(*points, strict=True)
                ax.plot(x, [100 * value for value in y] if name == "knn" else y, label=run["name"])
        ax.set(title=title, xlabel="epoch")
        ax.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.savefig(file)


if __name__ == "__main__":
    main()
