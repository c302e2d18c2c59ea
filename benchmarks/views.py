"""Two views of each photograph, on one core: ours, and the pipelines that people use today.

    python benchmarks/views.py [FOLDER] [--images 100] [--rounds 5] [--out FILE]

FOLDER holds photographs; without one, photos.tar from SIAM_DATA is unpacked to a temporary folder. Peers
that are not installed are left out.
"""

import argparse
import io
import os
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from measure import alternating, report
from PIL import Image

from siam.data.chance import uniforms
from siam.data.images import open_images
from siam.data.photometry import DRAWS, Photometry
from siam.data.views import ViewBatches, reference_transform
from siam.settings import ViewSettings

DATA = Path(os.environ.get("SIAM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder
        if folder is None:
            with tarfile.open(DATA / "photos.tar") as tar:
                tar.extractall(temporary, filter="data")
            folder = Path(temporary)
        rates = alternating(candidates(folder, args.images), args.rounds)
    facts = {"images": args.images, "rounds": args.rounds, "size": 224}
    report("two 224 px views per photograph", "images/s/core", rates, "published (Pillow)", args.out, **facts)


def candidates(folder: Path, count: int) -> dict[str, Callable[[], int]]:
    """Each reads the same files from disk and makes two views of every one."""
    images = open_images(folder).train
    count = min(count, len(images))
    files = [folder / images.path(i) for i in range(count)]
    settings = ViewSettings()
    worker = ViewBatches(images, settings, count=2, seed=0)
    photometry = Photometry(settings, torch.device("cpu"))
    batches = np.array_split(np.arange(count), max(1, count // 32))

    def ours_worker() -> int:
        for batch in batches:
            worker[0, batch]
        return count

    def ours_whole() -> int:
        for batch in batches:
            crops, used, _ = worker[0, batch]
            photometry(crops.flatten(0, 1), uniforms(0, 0, np.repeat(used, 2), 1, DRAWS))
        return count

    def each(transform: Callable[[Any], Any], read: Callable[[Path], Any]) -> Callable[[], int]:
        def run() -> int:
            for file in files:
                image = read(file)
                transform(image)
                transform(image)
            return count

        return run

    found = {
        "ours, worker path (decode, two crops)": ours_worker,
        "ours, photometry included": ours_whole,
        "published (Pillow)": each(reference_transform(settings), pillow),
        "torchvision v2, uint8": each(torchvision_v2(settings), tensor),
    }
    try:
        from lightly.transforms import SimSiamTransform

        lightly = SimSiamTransform()

        def run_lightly() -> int:
            for file in files:
                lightly(pillow(file))
            return count

        found["lightly"] = run_lightly
    except ImportError:
        pass
    return found


def pillow(file: Path) -> Image.Image:
    return Image.open(io.BytesIO(file.read_bytes())).convert("RGB")


def tensor(file: Path) -> torch.Tensor:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(str(file), mode=ImageReadMode.RGB)


def torchvision_v2(views: ViewSettings) -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(views.brightness, views.contrast, views.saturation, views.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(views.size, scale=views.scale, antialias=True),
            v2.RandomApply([jitter], p=views.jitter_p),
            v2.RandomGrayscale(p=views.grey_p),
            v2.RandomApply([v2.GaussianBlur(23, sigma=views.blur_sigma)], p=views.blur_p),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


if __name__ == "__main__":
    main()
