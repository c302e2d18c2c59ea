"""Find the slowest stage from the measured rates, and suggest a remedy."""

import math
from dataclasses import dataclass
from typing import Literal

Bottleneck = Literal["decode", "workers", "transfer", "device"]


@dataclass(frozen=True)
class Rates:
    """Throughput of each stage measured alone, in images per second; None for stages that are not used."""

    device: str
    cores: int
    workers: int
    """Processes that decode and crop; 0 if the images are cached on the device."""
    decode: float | None
    """Reading and decoding, per worker."""
    worker: float | None
    """Reading, decoding and cropping, per worker."""
    transfer: float | None
    """Copying from pinned memory to the GPU."""
    augment: float | None
    """Color augmentation of both views on the device; includes cropping if the images are cached on it."""
    step: float
    """Forward pass, backward pass and optimizer update."""

    @property
    def on_device(self) -> float:
        """The combined rate of augmentation and training step, which run one after the other."""
        return self.step if self.augment is None else 1 / (1 / self.augment + 1 / self.step)


@dataclass(frozen=True)
class Verdict:
    """The slowest stage, the expected pairs per second, and advice."""

    bottleneck: Bottleneck
    pairs_per_second: float
    advice: str


def find_bottleneck(rates: Rates, pixels: int, size: int) -> Verdict:
    """Find the bottleneck from separately measured rates.

    With a GPU, the stages overlap and the slowest stage sets the pace. On a CPU, they share the cores, so
    their times add up. pixels: number of pixels in an image (width x height). size: view side in pixels.
    """
    if rates.worker is None:
        return Verdict("device", rates.on_device, _faster_device(rates))
    if rates.workers == 0:
        pace = 1 / (1 / rates.worker + 1 / rates.on_device)
        return Verdict("workers", pace, "no batch is prefetched: --loader.workers 1 or more")
    stages = _paces(rates, rates.worker)
    bottleneck = min(stages, key=lambda name: stages[name])
    pace = stages.pop(bottleneck)
    match bottleneck:
        case "workers":
            enough = min(rates.cores, math.ceil(min(stages.values()) / rates.worker))
            advice = f"--loader.workers {enough} (there are {rates.cores} cores)"
        case "decode":
            advice = _faster_decoding(rates, pixels, size)
        case "transfer":
            advice = (
                "the link to the device is slow: a smaller --views.size; or --loader.cache device, if the "
                "images all have the same size and fit in its memory"
            )
        case "device":
            advice = _faster_device(rates)
    return Verdict(bottleneck, pace, advice)


def _paces(rates: Rates, worker: float) -> dict[Bottleneck, float]:
    """Return each stage's limit in pairs per second; the smallest is the bottleneck."""
    feeding = worker * min(rates.workers, rates.cores)
    if rates.device == "cpu":
        unshared = worker * rates.cores  # if the cores did nothing else
        shared: Bottleneck = "decode" if unshared < rates.on_device else "device"
        return {shared: 1 / (1 / unshared + 1 / rates.on_device), "workers": feeding}
    fed: Bottleneck = "decode" if rates.workers >= rates.cores else "workers"
    return {"device": rates.on_device, "transfer": rates.transfer or math.inf, fed: feeding}


def _faster_decoding(rates: Rates, pixels: int, size: int) -> str:
    """Suggest how to speed up decoding when it already uses all cores."""
    assert rates.decode is not None
    assert rates.worker is not None
    decoding = rates.worker / rates.decode  # fraction of a worker's time
    side = 2 * size
    if decoding > 0.5 and pixels > 2 * side**2:
        return (
            f"images of {pixels / 1e6:.1f} megapixels are decoded to make views of {size} pixels: "
            f"a copy of the dataset with shorter sides of {side} pixels would load faster"
        )
    if decoding > 0.7:
        return "more cores; PNG or WebP images would decode faster as JPEG"
    return "more cores, or a smaller --views.size"


def _faster_device(rates: Rates) -> str:
    if rates.augment is not None and rates.augment < rates.step:
        return "colors take longer than the network: --views.blur-p 0 saves most of that time"
    if rates.device == "cpu":
        return "a GPU; else a smaller backbone, --width 0.5 or a smaller --views.size"
    return "nothing: the device is busy, as it should be (--compile true may gain some on long runs)"
