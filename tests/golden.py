"""Golden runs: tiny trainings with every number recorded, to show that a change does not alter training.

`python -m tests.golden record` writes tests/golden.json from this tree; test_golden.py compares with it. On
the processor and the version of torch that recorded them, runs are the same bit for bit; elsewhere sums
differ in their last bits, so metrics are compared to a tolerance.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from siam.cli import command as cli
from siam.system.environment import environment

FILE = Path(__file__).with_name("golden.json")

TINY = """
--backbone resnet10t --width 0.125 --epochs 2 --batch-size 8 --precision float32 --device cpu --views.size 16
--method.dim 16 --method.projector-hidden 16 --method.predictor-hidden 4 --method.projector-layers 2
--monitor.log-every 1 --monitor.knn-k 5
""".split()  # noqa: SIM905

PRETRAININGS = {
    "simsiam": ["--loader.workers", "1", "--loader.cache", "none"],
    "simsiam on the device": ["--loader.cache", "device", "--views.solarize-p", "0.2"],
    "simsiam, published views": ["--views.pipeline", "reference", "--loader.workers", "0"],
    "simsiam in parts": [
        "--grad-accum",
        "2",
        "--activation-checkpointing",
        "true",
        "--method.symmetry",
        "asymmetric_2x",
    ],
    "simsiam by lars": ["--optimizer.name", "lars", "--optimizer.warmup-epochs", "1"],
    "softmax cross-entropy": ["--method.objective", "cross_entropy", "--method.predictor", "fixed"],
    "moving average": ["--method.objective", "moving_average", "--method.predictor", "none"],
    "no stop-gradient": ["--method.target", "gradient"],
    "byol": ["--method", "byol"],
    "simclr": ["--method", "simclr"],
    "swav": ["--method", "swav", "--method.prototypes", "12"],
    "moco_v2": ["--method", "moco_v2", "--method.queue", "20"],
}
"""Flags in addition to TINY."""

TRANSFER = """
--batch-size 2 --iterations 3 --train-sides 64 96 --test-side 96 --max-side 128 --anchors 8 16 32 64 96
--rois 8 --score-threshold 0.005 --candidates 100 60 --proposals 40 20 --precise-bn 2 --log-every 1
--workers 0 --precision float32 --device cpu --task segmentation
""".split()  # noqa: SIM905

TIMES = ("seconds", "pairs_per_second", "images_per_second")


def record(folder):
    """Train all of them below `folder`. Return their outcomes by name."""
    torch.set_num_threads(1)
    draw_photos(folder / "photos")
    square = folder / "square"
    draw_photos(square, side=20)
    found = {}
    for name, flags in PRETRAININGS.items():
        data = square if "on the device" in name else folder / "photos"
        out = folder / name.replace(" ", "-")
        run("pretrain", data, *TINY, *flags, "--out", out)
        found[name] = outcome(out)
    draw_coco(folder / "coco")
    out = folder / "transfer"
    run("transfer", folder / "simsiam", folder / "coco", *TRANSFER, "--out", out)
    found["transfer"] = outcome(out)
    return found


def run(*args):
    assert cli.main(list(map(str, args))) == 0, args


def outcome(run):
    """Return the records of a run without timings, and a digest of all its weights."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    tensors = list(tensors_in(torch.load(run / "checkpoint.pt", weights_only=True)))
    if (run / "encoder.safetensors").exists():
        tensors += load_file(run / "encoder.safetensors").values()
    digests = sorted(hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for t in tensors)
    return {"metrics": metrics, "weights": hashlib.sha256("".join(digests).encode()).hexdigest()}


def tensors_in(part):
    """Yield every tensor of a checkpoint, under any name."""
    if isinstance(part, torch.Tensor):
        yield part.detach()
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from tensors_in(inner)


def draw_photos(root, side=None):
    """Write train/ and val/ with two classes that differ in brightness; of many sizes, or of one."""
    for split, count in (("train", 14), ("val", 6)):
        for name, level in (("dark", 90), ("light", 160)):
            folder = root / split / name
            folder.mkdir(parents=True)
            rng = np.random.default_rng(level + count)
            for i in range(count):
                height, width = (side, side) if side else rng.integers(20, 80, 2).tolist()
                shape = (height // 8 + 1, width // 8 + 1, 3)
                soft = rng.normal(level, 40, shape).clip(0, 255).astype(np.uint8)
                kind = "png" if side else "jpg"
                Image.fromarray(soft).resize((width, height)).save(folder / f"{i:03d}.{kind}")


def draw_coco(root):
    """Write photographs of 96 x 80 pixels in COCO's layout, each with two bright rectangles."""
    (root / "annotations").mkdir(parents=True)
    rng = np.random.default_rng(7)
    for part, count in (("train2017", 4), ("val2017", 3)):
        (root / part).mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            pixels = rng.integers(0, 90, (80, 96, 3)).astype(np.uint8)
            for label in (1, 2):
                x, y, w, h = (int(v) for v in (*rng.integers(5, 40, 2), *rng.integers(15, 35, 2)))
                pixels[y : y + h, x : x + w, label] = 220
                corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                row = {"id": 2 * number + label, "image_id": number, "category_id": label, "iscrowd": 0}
                annotations.append({**row, "bbox": [x, y, w, h], "area": w * h, "segmentation": corners})
            Image.fromarray(pixels).save(root / part / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 80})
        categories = [{"id": 1, "name": "green"}, {"id": 2, "name": "blue"}]
        plain = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(plain))


def recorder():
    """Return the processor's model and caches, and the version of torch, that determine the bits."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = ("cpu family", "model\t", "stepping", "cache size")
    cpu = sorted({line.replace("\t", "") for line in lines if line.startswith(fields)})
    return {"machine": environment()["machine"], "cpu": cpu, "torch": torch.__version__}


if __name__ == "__main__":
    if sys.argv[1:] != ["record"]:
        sys.exit("usage: python -m tests.golden record")
    with tempfile.TemporaryDirectory() as folder:
        kept = {**recorder(), "runs": record(Path(folder))}
    FILE.write_text(json.dumps(kept, indent=1) + "\n")
