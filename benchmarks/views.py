"""Throughput of two views per photograph on one core: ours, and the pipelines in common use.

    python benchmarks/views.py [FOLDER] [--images 100] [--rounds 5] [--out FILE]

FOLDER holds photographs, photos.tar of SIAM_DATA if left out. All read the same files (FFCV its own copy),
each family in its own process, and all are pinned to one core. Peers that are not installed are skipped.
"""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from measure import Candidate, alternating, arguments, in_own_processes, one_core, photographs, report, save
from PIL import Image

from siam.data.augment import DRAWS, IMAGENET_MEAN, IMAGENET_STD, Augment
from siam.data.random import COLOR, counter_uniform
from siam.data.sources import open_images
from siam.data.views import ViewBatches, reference_transform
from siam.settings.pretraining import ViewSettings
from siam.system.malloc import keep_freed_memory

warnings.simplefilter("ignore")
BATCH = 20


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    one_core()
    with photographs(args.folder, args.images) as folder, tempfile.TemporaryDirectory() as temporary:
        families = (ours, published, torchvision_v2, lightly, dali, ffcv)
        groups = [(family, (folder, ViewSettings(), Path(temporary))) for family in families]
        with in_own_processes(groups) as candidates:
            rates = alternating(candidates, args.rounds)
    title = "two 224 px views per photograph"
    save(args.out, [report(title, "images/s/core", rates, "published (Pillow)")], images=args.images)


def ours(folder: Path, settings: ViewSettings, temporary: Path) -> dict[str, Candidate]:
    keep_freed_memory()  # as in a worker
    images = open_images(folder).train
    worker = ViewBatches(images, settings, count=2, seed=0)
    augment = Augment(settings, torch.device("cpu"))
    batches = np.array_split(np.arange(len(images)), max(1, len(images) // BATCH))

    def worker_path() -> int:
        for batch in batches:
            worker[0, 0, batch]
        return len(images)

    def whole() -> int:
        for batch in batches:
            sample = worker[0, 0, batch]
            draws = counter_uniform(0, 0, np.repeat(sample.indices, 2), COLOR, DRAWS)
            augment(sample.views.flatten(0, 1), draws)
        return len(images)

    def decode() -> int:
        for i in range(len(images)):
            images.read(i)
        return len(images)

    return {
        "ours, decode alone": decode,
        "ours, worker path (decode, two crops)": worker_path,
        "ours, color augmentation included": whole,
    }


def published(folder: Path, settings: ViewSettings, temporary: Path) -> dict[str, Candidate]:
    return {"published (Pillow)": each(folder, reference_transform(settings), pillow)}


def each(folder: Path, transform: Callable[[Any], Any], read: Callable[[Path], Any]) -> Candidate:
    """Build a candidate that reads each file and transforms it twice."""
    files = sorted(folder.iterdir())

    def run() -> int:
        for file in files:
            image = read(file)
            transform(image)
            transform(image)
        return len(files)

    return run


def pillow(file: Path) -> Image.Image:
    with file.open("rb") as opened:
        return Image.open(opened).convert("RGB")


def tensor(file: Path) -> torch.Tensor:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(str(file), mode=ImageReadMode.RGB)


def torchvision_v2(folder: Path, settings: ViewSettings, temporary: Path) -> dict[str, Candidate]:
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(settings.size, scale=settings.scale, antialias=True),
            v2.RandomApply([jitter], p=settings.jitter_p),
            v2.RandomGrayscale(p=settings.grayscale_p),
            v2.RandomApply([v2.GaussianBlur(23, sigma=settings.blur_sigma)], p=settings.blur_p),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return {"torchvision v2, uint8": each(folder, transform, tensor)}


def lightly(folder: Path, settings: ViewSettings, temporary: Path) -> dict[str, Candidate]:
    from lightly.transforms import SimSiamTransform

    transform, files = SimSiamTransform(), sorted(folder.iterdir())

    def run() -> int:
        for file in files:
            transform(pillow(file))  # both views
        return len(files)

    return {"lightly": run}


def dali(folder: Path, settings: ViewSettings, temporary: Path) -> dict[str, Candidate]:
    """Decode once for both crops. Neither pipelined nor asynchronous, which gains nothing on one core."""
    from nvidia.dali import fn, pipeline_def, types

    files = sorted(folder.iterdir())

    def coin(p: float) -> Any:
        return fn.cast(fn.random.coin_flip(probability=p), dtype=types.FLOAT)

    def between(strength: float, p: Any) -> Any:
        """Draw from 1 +- `strength` if p is 1, else return 1."""
        return 1 + p * fn.random.uniform(range=(-strength, strength))

    def colors(view: Any) -> Any:
        jitter, colorful = coin(settings.jitter_p), 1 - coin(settings.grayscale_p)
        turn = 360 * settings.hue
        view = fn.color_twist(
            view,
            brightness=between(settings.brightness, jitter),
            contrast=between(settings.contrast, jitter),
            saturation=between(settings.saturation, jitter) * colorful,
            hue=jitter * fn.random.uniform(range=(-turn, turn)),
        )
        if fn.random.coin_flip(probability=settings.blur_p, dtype=types.BOOL):
            view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=settings.blur_sigma))
        mean, std = ([255 * c for c in cs] for cs in (IMAGENET_MEAN, IMAGENET_STD))
        mirror = fn.random.coin_flip(probability=settings.flip_p)
        return fn.crop_mirror_normalize(view, mean=mean, std=std, mirror=mirror, output_layout="CHW")

    @pipeline_def(
        batch_size=BATCH,
        num_threads=1,
        device_id=None,
        exec_async=False,
        exec_pipelined=False,
        enable_conditionals=True,
    )
    def pipeline(whole: bool) -> Any:
        encoded, _ = fn.readers.file(files=[str(f) for f in files])
        image = fn.decoders.image(encoded, device="cpu")
        views = [
            fn.random_resized_crop(image, size=settings.size, random_area=settings.scale) for _ in range(2)
        ]
        return tuple(colors(view) for view in views) if whole else tuple(views)

    def candidate(whole: bool) -> Candidate:
        built = pipeline(whole)
        built.build()

        def run() -> int:
            for _ in range(len(files) // BATCH):
                built.run()
            return len(files) // BATCH * BATCH

        return run

    return {
        "DALI, CPU, decode and two crops": candidate(whole=False),
        "DALI, CPU, color augmentation included": candidate(whole=True),
    }


def ffcv(folder: Path, settings: ViewSettings, temporary: Path) -> dict[str, Candidate]:
    """Decode twice for two crops: the decoder makes only one. Photographs are packed at quality 90."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor
    from ffcv.writer import DatasetWriter

    files = sorted(folder.iterdir())

    class Photographs:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> tuple[Image.Image]:
            return (pillow(files[i]),)

    packed = str(temporary / "photographs.beton")
    DatasetWriter(packed, {"image": RGBImageField(write_mode="jpg")}, num_workers=1).from_indexed_dataset(
        Photographs()
    )
    crop = RandomResizedCropRGBImageDecoder((settings.size, settings.size), scale=settings.scale)
    loader = Loader(
        packed,
        batch_size=BATCH,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={"image": [crop, ToTensor()]},
    )

    def run() -> int:
        for _ in range(2):
            for _ in loader:
                pass
        return len(files)

    return {"FFCV, two decodes, two crops": run}


if __name__ == "__main__":
    main()
