"""One vector per photograph: `siam embed`, the usual script, and the bare forward pass.

    python benchmarks/embed.py [FOLDER] [--images 1000] [--backbone resnet18] [--size 224] [--out FILE]

The usual script is Pillow in a DataLoader and a float32 NCHW forward pass. The limit runs our encoder on
views that are already on the device. The first two include everything: workers, reading, decoding, and the
output file.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import alternating, arguments, photographs, report, save
from torchvision import transforms as T
from training import TwoCrops, random_views, settings_for, wait

from siam.convert.vectors import embed_to_parquet
from siam.data.augment import IMAGENET_MEAN, IMAGENET_STD
from siam.data.loader import default_workers
from siam.parts.backbone import build_backbone
from siam.runs.encoder import load, save_encoder
from siam.runs.folder import save_settings
from siam.settings.pretraining import Settings
from siam.system.device import find_device, tune_process, uses_bf16

USUAL, OURS, LIMIT = "the usual script", "siam embed", "the limit: the forward pass alone"


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="siam's own choice if left out")
    args = parser.parse_args()
    device = find_device(args.device)
    tune_process(device)
    workers = default_workers(device) if args.workers is None else args.workers
    settings = settings_for(args.backbone, args.size, args.batch_size)
    with photographs(args.folder, args.images) as folder, tempfile.TemporaryDirectory() as temporary:
        run = untrained_run(Path(temporary) / "run", settings)
        turns = {
            USUAL: usual(run, folder, settings, device, workers),
            OURS: ours(run, folder, settings, device, workers),
            LIMIT: limit(run, args.images, settings, device),
        }
        rates = alternating(turns, args.rounds)
    title = f"embed {args.images} photographs, {args.backbone}, {args.size} px, batch {args.batch_size}"
    more = {"% of the limit": {name: 100 * rate / rates[LIMIT] for name, rate in rates.items()}}
    part = report(title, "images/s", rates, USUAL, more)
    save(args.out, [part], workers=workers, threads=torch.get_num_threads())


def untrained_run(folder: Path, settings: Settings) -> Path:
    """Create a run's folder with a randomly initialized encoder."""
    folder.mkdir()
    save_settings(folder, settings)
    save_encoder(folder, build_backbone(settings.backbone, settings.views.size), settings)
    return folder


def usual(
    run: Path, folder: Path, settings: Settings, device: torch.device, workers: int
) -> Callable[[], int]:
    size = settings.views.size
    transform = T.Compose(
        [
            T.Resize(round(size * 8 / 7)),
            T.CenterCrop(size),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = TwoCrops(folder, transform, both=True)  # one view: the result of the transform itself
    encoder = load(run, str(device))

    @torch.no_grad()
    def turn() -> int:
        loader = torch.utils.data.DataLoader(images, settings.batch_size, num_workers=workers)
        vectors = np.concatenate([encoder(x.to(device)).cpu().numpy() for x in loader])
        np.save(run / "vectors.npy", vectors)
        return len(vectors)

    return turn


def ours(
    run: Path, folder: Path, settings: Settings, device: torch.device, workers: int
) -> Callable[[], int]:
    def turn() -> int:
        out = run / "vectors.parquet"
        written = embed_to_parquet(run, folder, out, str(device), settings.batch_size, workers)
        return int(written["images"])

    return turn


def limit(run: Path, count: int, settings: Settings, device: torch.device) -> Callable[[], int]:
    encoder = load(run, str(device)).to(memory_format=torch.channels_last)
    bf16 = uses_bf16("auto", device)
    x, _ = random_views(settings, device, torch.channels_last)

    @torch.no_grad()
    def turn() -> int:
        batches = max(1, count // settings.batch_size)
        for _ in range(batches):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                encoder(x)
        wait(device)
        return batches * settings.batch_size

    return turn


if __name__ == "__main__":
    main()
