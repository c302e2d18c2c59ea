"""The fine-tuning of a detector, from top to bottom."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from siam.data.chance import uniforms
from siam.data.loader import default_workers
from siam.data.views import STEP
from siam.errors import RunError
from siam.runs import CHECKPOINT, locked, write_atomically
from siam.train.checkpoint import restore, save_checkpoint
from siam.train.device import pick_device, uses_bf16
from siam.train.logbook import Logbook
from siam.transfer.annotations import Annotated
from siam.transfer.data import Batches, Examples
from siam.transfer.detect import detect, draw
from siam.transfer.detectors import build_detector
from siam.transfer.measure import Prediction, average_precision, truth
from siam.transfer.precise_bn import measure_statistics
from siam.transfer.result import BOXES, DRAWN, MASKS, TRUTH, Outcome
from siam.transfer.settings import TransferSettings, rate_at

_SAVE_SECONDS = 600
_DRAWN = 12


@dataclass
class Progress:
    """Where a fine-tuning stands; with the weights, the whole state."""

    step: int = 0
    seconds: float = 0.0
    """Spent so far, over all its processes."""
    metrics: int = 0
    """Bytes of metrics.jsonl that belong to this position."""
    losses: dict[str, float] = field(default_factory=dict)
    """Sums since the last line there."""
    summed: int = 0
    """Steps in these sums."""
    broken: dict[str, str] = field(default_factory=dict)
    """Photographs that could not be read, and why."""


def train(
    data: Annotated,
    resnet: nn.Module,
    settings: TransferSettings,
    folder: Path,
    resume: bool,
    console: Console,
) -> Outcome:
    """Fine-tune a detector on `resnet`, whose weights it begins with, and measure it on the test photographs.

    Goes on from the last checkpoint when `resume` and there is one. Raises SiamError.
    """
    with locked(folder):
        device = pick_device(settings.device)
        bf16 = uses_bf16(settings.precision, device)
        workers = settings.workers if settings.workers >= 0 else default_workers(device)
        masks = settings.task == "segmentation"

        torch.manual_seed(settings.seed)
        detector = build_detector(resnet, len(data.classes), settings)
        detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            detector.parameters(),
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        resumed = resume and (folder / CHECKPOINT).exists()
        progress = (
            restore(folder, Progress(), detector=detector, optimizer=optimizer) if resumed else Progress()
        )
        batches = Batches(data.train, settings.batch_size, settings.seed, masks, workers)
        batches.broken.update(progress.broken)

        total = settings.iterations
        with Logbook(folder, total, progress.step, progress.metrics, console, settings.task) as log:
            if not resumed:
                log.record("start", **_facts(data, detector, device, bf16))
            started = time.monotonic() - progress.seconds
            told = saved = time.monotonic()

            def losses_of(step: int, examples: Examples) -> dict[str, Tensor]:
                _seed(settings.seed, step)  # of sizes and of samples of boxes
                images = [image.to(device, non_blocking=True).float() / 255 for image, _ in examples]
                targets = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for _, t in examples]
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    losses: dict[str, Tensor] = detector(images, targets)
                return losses

            detector.train()
            for examples in batches.batches(progress.step, total):
                lr = rate_at(progress.step, settings)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                losses = losses_of(progress.step, examples)
                loss = torch.stack(list(losses.values())).sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

                progress.step += 1
                progress.summed += 1
                for name, value in {"loss": loss, **losses}.items():
                    progress.losses[name] = progress.losses.get(name, 0.0) + float(value.detach())
                if not math.isfinite(progress.losses["loss"]):
                    log.record("diverged", step=progress.step)
                    raise RunError(_not_finite(progress.step, folder))
                if progress.step % settings.log_every == 0 or progress.step == total:
                    now = time.monotonic()
                    means = {name: value / progress.summed for name, value in progress.losses.items()}
                    rate = progress.summed * settings.batch_size / (now - told)
                    log.record("step", step=progress.step, **means, lr=lr, images_per_second=rate)
                    log.advance(progress.step, f"loss {means['loss']:.3f}  {rate:.1f} images/s")
                    told, progress.losses, progress.summed = now, {}, 0
                if progress.step == total or _save_is_due(settings, progress.step, saved):
                    progress.seconds, progress.metrics = time.monotonic() - started, log.position()
                    progress.broken = dict(batches.broken)
                    save_checkpoint(folder, progress, detector=detector, optimizer=optimizer)
                    saved = time.monotonic()

            if settings.precise_bn:
                log.say(f"batch norm statistics over {settings.precise_bn} batches")
                more = enumerate(batches.batches(total, total + settings.precise_bn), start=total)
                measure_statistics(detector, more, lambda numbered: losses_of(*numbered))
            found, unread = _detect_all(data, detector, settings, device, bf16, workers, log)
            outcome = _measure(data, found, unread, settings, folder, started)
            log.record("end", step=total, **outcome.flat())
        return outcome


def _detect_all(
    data: Annotated,
    detector: nn.Module,
    settings: TransferSettings,
    device: torch.device,
    bf16: bool,
    workers: int,
    log: Logbook,
) -> tuple[list[Prediction], dict[int, str]]:
    count = len(data.test)
    log.say(f"detecting in {count:,} test photographs")

    def tell(done: int) -> None:
        log.advance(settings.iterations, f"tested {done:,} of {count:,}")

    return detect(detector, data, list(range(count)), settings, device, bf16, workers, tell)


def _measure(
    data: Annotated,
    found: list[Prediction],
    unread: dict[int, str],
    settings: TransferSettings,
    folder: Path,
    started: float,
) -> Outcome:
    """Write what was found, in COCO's format, measure it, and draw some of it."""
    true = truth(data, unread)
    _save_json(folder / TRUTH, true)
    precisions = {}
    for name, file, left_out in (("boxes", BOXES, "segmentation"), ("masks", MASKS, "bbox")):
        if name == "boxes" or settings.task == "segmentation":
            plain = [{key: value for key, value in row.items() if key != left_out} for row in found]
            _save_json(folder / file, plain)
            precisions[name] = average_precision(true, plain, masks=name == "masks")
    readable = [i for i in range(len(data.test)) if data.test[i].id not in unread]
    for place in np.unique(np.linspace(0, len(readable) - 1, min(_DRAWN, len(readable))).astype(int)):
        index = readable[place]
        named = dict(zip(data.category_ids, data.classes, strict=True))
        draw(data.test, index, found, named, folder / DRAWN / f"{index:06d}.jpg")
    skipped = {reason: count for reason, (count, _) in data.skipped.items()}
    if unread:
        skipped["a test photograph that cannot be read"] = len(unread)
    return Outcome(
        out=str(folder),
        data=data.name,
        layout=data.layout,
        years=data.years,
        train_images=len(data.train),
        test_images=len(readable),
        boxes=precisions["boxes"],
        masks=precisions.get("masks"),
        iterations=settings.iterations,
        seconds=time.monotonic() - started,
        skipped=skipped,
    )


def _seed(seed: int, step: int) -> None:
    torch.manual_seed(int(uniforms(seed, 0, np.array([step]), STEP, 1)[0, 0] * 2**53))


def _save_json(file: Path, plain: object) -> None:
    write_atomically(file, lambda out: out.write(json.dumps(plain).encode()))


def _save_is_due(settings: TransferSettings, step: int, saved: float) -> bool:
    late = time.monotonic() - saved > _SAVE_SECONDS
    return late or (settings.save_every > 0 and step % settings.save_every == 0)


def _not_finite(step: int, folder: Path) -> str:
    kept = "the last good checkpoint is kept" if (folder / CHECKPOINT).exists() else "nothing was saved yet"
    return f"the loss is not finite at step {step}; {kept}. Lower --lr, or set --precision float32"


def _facts(data: Annotated, detector: nn.Module, device: torch.device, bf16: bool) -> dict[str, object]:
    return {
        "train_images": len(data.train),
        "test_images": len(data.test),
        "classes": len(data.classes),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "device": str(device),
        "precision": "bf16" if bf16 else "float32",
        "skipped": {reason: count for reason, (count, _) in data.skipped.items()},
    }
