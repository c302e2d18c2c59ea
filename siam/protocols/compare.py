"""Compare encoders on the same images: runs, weights that exist, an untrained network and raw pixels."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from siam.data.geometry import CenterCrop, center_crop
from siam.data.images import ImageSets
from siam.data.loader import require_several
from siam.data.sources import open_images
from siam.errors import RunError, SettingsError
from siam.metrics import Look, due_metrics
from siam.parts.backbone import build_backbone
from siam.protocols.probe import probe
from siam.recipes import starting_point
from siam.runs.bars import OnProgress, print_sets, transient_progress
from siam.runs.encoder import Encoder, load, untrained
from siam.runs.folder import open_run
from siam.runs.pretrained import find_pretrained, is_pretrained
from siam.runs.results import PIXELS, UNTRAINED, Compared
from siam.settings.pretraining import LoaderSettings, MonitorSettings, Settings, ViewSettings
from siam.system.device import find_device, float32_by_default, uses_bf16
from siam.train.monitor import PIXEL_SIDE, Monitor
from siam.train.speed import per_second

_BATCH = {"cpu": 8, "cuda": 64, "mps": 64}
"""Images per forward pass when the speed is measured."""

Bar = Callable[[str], OnProgress]


@float32_by_default()
def compare(
    data: str | Path,
    *encoders: str | Path,
    images: int = 5000,
    k: int = 20,
    seed: int = 0,
    device: str = "auto",
    workers: int = -1,
    console: Console | None = None,
) -> list[Compared]:
    """Measure encoders on the same images, and return the results in the same order.

    encoders: run folders, weights that exist (such as `timm:resnet18.a1_in1k`), `untrained` (the network of
    the first run, or else of the first weights, or else a ResNet-18, with random weights) and `pixels` (raw
    pixels). images: number of training images and of validation images to use, at most; evenly spaced. k:
    number of neighbors for kNN, at most as many as the smallest class has images. seed: of the probe, and of
    `untrained` without a run. Labels are optional; without a validation set, a fifth of
    the labeled images is held out. Raises SiamError.
    """
    if not encoders:
        raise SettingsError(
            f"nothing to compare: name run folders, timm:NAME, {UNTRAINED} or {PIXELS} after the images"
        )
    if images < 2:
        raise SettingsError(f"images must be at least 2, got {images}")
    found, console = find_device(device), console or Console(stderr=True)
    sets = open_images(data)
    require_several(sets.train)
    loaded = _load_all([str(encoder) for encoder in encoders], sets, found, seed)
    print_sets(console, sets)
    settings = Settings(
        data=str(data), seed=seed, loader=LoaderSettings(workers=workers),
        monitor=MonitorSettings(bank=images, queries=images, knn_k=k),
    )  # fmt: skip
    results: dict[int, Compared] = {}
    with transient_progress(console) as bar:
        for crop in dict.fromkeys(one.crop for one in loaded):
            views = ViewSettings(size=max(8, crop.size))
            bf16 = uses_bf16("auto", found)
            monitor = Monitor(sets, replace(settings, views=views), found, bf16, bar, crop)
            for position, one in enumerate(loaded):
                if one.crop == crop:
                    results[position] = _measure(one, monitor, bar)
    return [results[position] for position in range(len(loaded))]


@dataclass(frozen=True)
class _Loaded:
    """An encoder that is ready to be measured."""

    name: str
    kind: Literal["run", "pretrained", "untrained", "pixels"]
    network: str
    """Name of the architecture; "" for raw pixels."""
    crop: CenterCrop
    encoder: Encoder | None
    """None for raw pixels."""


def _load_all(names: list[str], sets: ImageSets, device: torch.device, seed: int) -> list[_Loaded]:
    """Load all encoders, before anything is measured. Raises SiamError."""
    loaded = {name: _load(name, device) for name in names if name not in (UNTRAINED, PIXELS)}
    named = sorted(loaded.values(), key=lambda one: one.kind != "run")  # runs first, otherwise as given
    if UNTRAINED in names:
        loaded[UNTRAINED] = _untrained(named[0] if named else None, sets, device, seed)
    if PIXELS in names:
        crop = next((one.crop for one in (*named, *loaded.values())), center_crop(PIXEL_SIDE))
        loaded[PIXELS] = _Loaded(PIXELS, PIXELS, "", crop, None)
    return [loaded[name] for name in names]


def _load(name: str, device: torch.device) -> _Loaded:
    if is_pretrained(name):
        found = find_pretrained(name)
        return _Loaded(name, "pretrained", found.backbone, found.crop, load(name, str(device)))
    settings = open_run(name).settings
    encoder = load(name, str(device))
    with suppress(RunError):  # an imported backbone has no heads
        encoder = load(name, str(device), "projector")  # for the metrics of z
    width = "" if settings.width == 1 else f" x {settings.width:g}"
    return _Loaded(name, "run", settings.backbone + width, encoder.crop, encoder)


def _untrained(like: _Loaded | None, sets: ImageSets, device: torch.device, seed: int) -> _Loaded:
    """Build the network of `like`, or else a ResNet-18 that suits the images, with random weights."""
    if like is not None:
        return _Loaded(UNTRAINED, UNTRAINED, like.network, like.crop, untrained(like.name, str(device)))
    side = min(sets.train.size_hint)
    size = starting_point(None, "simsiam", sets.train.name, side, len(sets.train)).views.size
    torch.manual_seed(seed)
    backbone = build_backbone("resnet18", size).requires_grad_(False)
    encoder = Encoder(backbone, size).to(device).eval()
    return _Loaded(UNTRAINED, UNTRAINED, "resnet18", encoder.crop, encoder)


def _measure(one: _Loaded, monitor: Monitor, bar: Bar) -> Compared:
    """Measure all metrics, the probe and the speed of an encoder."""
    metrics = due_metrics(monitor.settings, epoch=0, last=True)
    if one.encoder is None:
        look, speed, parameters = monitor.look_at_pixels(), None, 0
    else:
        look = monitor.look(one.encoder, metrics, bar(one.name))
        speed = _images_per_second(one.encoder, monitor)
        parameters = sum(p.numel() for p in one.encoder.backbone.parameters())
    values = {name: metric.measure(look) for name, metric in metrics.items()}
    show_probe = bar(f"probe of {one.name}")
    show_probe(0, 1)
    accuracy, queries = _probe(look, monitor.settings.seed)
    show_probe(1, 1)
    return Compared(
        encoder=one.name, kind=one.kind, network=one.network, image_size=one.crop.size,
        features=look.features.shape[1], parameters=parameters, images_per_second=speed,
        metrics=values, probe=accuracy, queries=queries,
    )  # fmt: skip


def _images_per_second(encoder: Encoder, monitor: Monitor) -> float:
    """Measure the network alone, on noise."""
    device, size = monitor.device, encoder.crop.size
    batch = _BATCH[device.type]
    noise = torch.randn(batch, 3, size, size, device=device)

    def encode() -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=monitor.bf16):
            features: Tensor = encoder.backbone(noise)
            return features

    return batch * per_second(encode, device)


def _probe(look: Look, seed: int) -> tuple[float | None, int]:
    """Return the accuracy of a logistic regression, or None without labels, and the number of queries."""
    if look.labels is None or look.queries is None or look.query_labels is None:
        return None, 0
    known, asked = look.labels >= 0, look.query_labels >= 0
    if not asked.any() or look.labels[known].bincount().count_nonzero() < 2:
        return None, int(asked.sum())
    truth = look.query_labels[asked]
    bank = look.features[known], look.labels[known]
    scores, _ = probe(*bank, look.queries[asked], look.classes, seed)
    return float((scores.argmax(dim=1) == truth).double().mean()), len(truth)
