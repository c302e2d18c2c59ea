"""Find the bottleneck from the throughput of each stage, and suggest a remedy."""

import math
from dataclasses import dataclass
from typing import Literal

Bottleneck = Literal["decode", "workers", "transfer", "device"]


@dataclass(frozen=True)
class Rates:
    """Throughput of each stage alone, in images per second; None if it is not used."""

    device: str
    cores: int
    workers: int
    """Number of decoding workers; 0 if the images are cached on the device."""
    decode: float | None
    """Rate of reading and decoding in one worker."""
    worker: float | None
    """Reading, decoding and cropping in one worker."""
    transfer: float | None
    """Copying from pinned memory to the GPU."""
    augment: float | None
    """Color augmentation on the device; includes cropping if the images are cached."""
    step: float
    """Forward pass, backward pass and optimizer update."""

    @property
    def on_device(self) -> float:
        """Throughput of augmentation and training step, which do not overlap."""
        return self.step if self.augment is None else 1 / (1 / self.augment + 1 / self.step)


@dataclass(frozen=True)
class Verdict:
    """The bottleneck, the expected pairs per second, and a remedy."""

    bottleneck: Bottleneck
    pairs_per_second: float
    advice: str


def find_bottleneck(rates: Rates, pixels: int, size: int) -> Verdict:
    """Find the bottleneck and the expected throughput from the rates of the stages.

    On a GPU, the stages overlap, and the slowest one limits the throughput. On a CPU,
    they share the cores, so their times add up. pixels: number of pixels per image.
    size: side of a view in pixels.
    """
    if rates.worker is None:
        return Verdict("device", rates.on_device, _faster_device(rates))
    if rates.workers == 0:
        pace = 1 / (1 / rates.worker + 1 / rates.on_device)
        return Verdict("workers", pace, "set --loader.workers to 1 or more, so that batches are prefetched")
    stages = _paces(rates, rates.worker)
    bottleneck = min(stages, key=lambda name: stages[name])
    pace = stages.pop(bottleneck)
    match bottleneck:
        case "workers":
            enough = min(rates.cores, math.ceil(min(stages.values()) / rates.worker))
            advice = f"set --loader.workers {enough} (of {rates.cores} cores)"
        case "decode":
            advice = _faster_decoding(rates, pixels, size)
        case "transfer":
            advice = (
                "lower --views.size, or set --loader.cache device if all images have the same size and fit "
                "in device memory"
            )
        case "device":
            advice = _faster_device(rates)
    return Verdict(bottleneck, pace, advice)


def _paces(rates: Rates, worker: float) -> dict[Bottleneck, float]:
    """Return the throughput limit set by each stage, in pairs per second."""
    feeding = worker * min(rates.workers, rates.cores)
    if rates.device == "cpu":
        unshared = worker * rates.cores  # if the cores only ran workers
        shared: Bottleneck = "decode" if unshared < rates.on_device else "device"
        return {shared: 1 / (1 / unshared + 1 / rates.on_device), "workers": feeding}
    fed: Bottleneck = "decode" if rates.workers >= rates.cores else "workers"
    return {"device": rates.on_device, "transfer": rates.transfer or math.inf, fed: feeding}


def _faster_decoding(rates: Rates, pixels: int, size: int) -> str:
    """Suggest a remedy if decoding already uses all cores."""
    assert rates.decode is not None
    assert rates.worker is not None
    decoding = rates.worker / rates.decode  # fraction of a worker's time
    side = 2 * size
    if decoding > 0.5 and pixels > 2 * side**2:
        return (
            f"resize the images once to a shorter side of {side} pixels: decoding {pixels / 1e6:.1f} "
            f"megapixels for views of {size} x {size} pixels is slow"
        )
    if decoding > 0.7:
        return "use more cores, or convert PNG or WebP images to JPEG, which decodes faster"
    return "use more cores or lower --views.size"


def _faster_device(rates: Rates) -> str:
    if rates.augment is not None and rates.augment < rates.step:
        return (
            "set --views.blur-p 0, because color augmentation, mainly blur, is slower than the training step"
        )
    if rates.device == "cpu":
        return "use a GPU, a smaller backbone, --width 0.5, or a lower --views.size"
    return "none needed, because the device is fully used (--compile true may speed up long runs)"
