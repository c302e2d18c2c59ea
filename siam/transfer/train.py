"""The fine-tuning of a detector, from top to bottom."""

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from siam.data.loader import default_workers
from siam.data.random import counter_uniform
from siam.data.views import STEP
from siam.errors import DataError, RunError
from siam.processes.agree import (
    AnyRankFlag,
    all_gather_object,
    all_reduce_mean,
    on_rank_zero,
    raise_everywhere,
)
from siam.processes.data_parallel import data_parallel
from siam.processes.gather import rank, world_size
from siam.processes.rendezvous import local_device
from siam.runs.checkpoint import checkpoints, fit, load_last, save_checkpoint
from siam.runs.folder import CHECKPOINT
from siam.runs.logbook import Logbook, NoLogbook
from siam.runs.saving import RunStopped, Saver, StopRequest
from siam.system.device import find_device, tune_process, uses_bf16
from siam.system.files import locked, write_atomically
from siam.train.pretrain import Clock
from siam.transfer.annotations import DetectionDataset
from siam.transfer.data import Batches, Examples
from siam.transfer.detect import detect, draw
from siam.transfer.detectors import build_detector
from siam.transfer.measure import Prediction, average_precision, truth
from siam.transfer.precise_bn import measure_statistics
from siam.transfer.result import BOXES, DRAWN, MASKS, TRUTH, Outcome
from siam.transfer.settings import TransferSettings, rate_at

_DRAWN = 12  # photographs


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
    data: DetectionDataset,
    resnet: nn.Module,
    settings: TransferSettings,
    folder: Path,
    console: Console,
) -> Outcome:
    """Fine-tune a detector on `resnet`, whose weights it begins with, and measure it on the test photographs.

    Goes on from the last checkpoint in `folder` if there is one. Where several processes train together, all
    call this; the first one alone writes. Raises SiamError.
    """
    with ExitStack() as held:
        on_rank_zero(lambda: held.enter_context(locked(folder)) and None)
        console = console if rank() == 0 else Console(quiet=True)
        device = find_device(local_device(settings.device))
        tune_process(device)
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
        parts: dict[str, Any] = {"detector": detector, "optimizer": optimizer}
        batches = Batches(
            data.train, settings.batch_size, settings.seed, masks, workers, rank(), world_size()
        )
        progress = Progress()
        resumed = on_rank_zero(lambda: bool(checkpoints(folder)))
        if resumed:
            saved, complaint = on_rank_zero(lambda: load_last(folder))
            progress = fit(saved, folder, progress, **parts)
            if complaint:
                console.print(complaint, highlight=False, soft_wrap=True)
        batches.broken.update(progress.broken)
        forward = data_parallel(detector, device, sync_bn=True)

        total, step = settings.iterations, progress.step
        log = Logbook(folder, total, step, progress.metrics, console) if rank() == 0 else NoLogbook()
        saver, vote, clock = (
            Saver(settings.checkpoint, step, log.say),
            AnyRankFlag(),
            Clock(progress.seconds, step),
        )
        with log, StopRequest() as stop:
            if not resumed:
                log.record("start", **_facts(data, detector, device, bf16))

            def losses_of(network: nn.Module, step: int, examples: Examples) -> dict[str, Tensor]:
                _seed(settings.seed, step)  # of sizes and of samples of boxes
                images = [image.to(device, non_blocking=True).float() / 255 for image, _ in examples]
                targets = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for _, t in examples]
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    losses: dict[str, Tensor] = network(images, targets)
                return losses

            def write() -> None:
                progress.metrics, progress.seconds = log.position(), clock.seconds()
                save_checkpoint(folder, progress, settings.checkpoint.keep, **parts)

            detector.train()
            for examples in batches.batches(progress.step, total):
                lr = rate_at(progress.step, settings)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                losses = losses_of(forward, progress.step, examples)
                loss = torch.stack(list(losses.values())).sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

                step = progress.step = progress.step + 1
                losses = {"loss": loss, **losses}
                values = all_reduce_mean(torch.stack(list(losses.values())).detach()).tolist()
                stopping, late = vote(stop.asked, saver.by_time())
                save = step == total or stopping or late or saver.by_step(step)
                if not all(map(math.isfinite, values)) or (save and not _is_finite(detector)):
                    log.record("diverged", step=step)
                    raise raise_everywhere(RunError(_not_finite(step, folder)))
                progress.summed += 1
                for name, value in zip(losses, values, strict=True):
                    progress.losses[name] = progress.losses.get(name, 0.0) + value
                if step % settings.log_every == 0 or step == total:
                    means = {name: value / progress.summed for name, value in progress.losses.items()}
                    rate = clock.rate(step, settings.batch_size)
                    log.record("step", step=step, **means, lr=lr, images_per_second=rate)
                    log.advance(step, [f"loss {means['loss']:.3f}", f"{rate:.1f} images/s"])
                    progress.losses, progress.summed = {}, 0
                if save:
                    for broken in all_gather_object(dict(batches.broken)):
                        progress.broken.update(broken)
                    on_rank_zero(lambda: saver.save(step, write, last_chance=stopping or step == total))  # noqa: B023
                if stopping and step < total:
                    raise raise_everywhere(RunStopped(_stopped(step, total, folder)))
            vote.close()

            if settings.precise_bn:
                log.say(f"batch norm statistics over {settings.precise_bn} batches")
                more = enumerate(batches.batches(total, total + settings.precise_bn), start=total)
                measure_statistics(detector, more, lambda numbered: losses_of(detector, *numbered))
            found, unread = _detect_all(data, detector, settings, device, bf16, workers, log)
            outcome = on_rank_zero(lambda: _measure(data, found, unread, settings, folder, clock.seconds()))
            log.record("end", step=total, **outcome.flat())
        return outcome


def _detect_all(
    data: DetectionDataset,
    detector: nn.Module,
    settings: TransferSettings,
    device: torch.device,
    bf16: bool,
    workers: int,
    log: Logbook,
) -> tuple[list[Prediction], dict[int, str]]:
    """What is found in all test photographs, of which each process takes its share."""
    mine = list(range(len(data.test)))[rank() :: world_size()]
    log.say(f"detecting in {len(data.test):,} test photographs")

    def tell(done: int) -> None:
        count = min(done * world_size(), len(data.test))  # the others are about as far
        log.advance(settings.iterations, [f"tested {count:,} of {len(data.test):,}"])

    shares = all_gather_object(detect(detector, data, mine, settings, device, bf16, workers, tell))
    found = [prediction for predictions, _ in shares for prediction in predictions]
    unread = {number: reason for _, share in shares for number, reason in share.items()}
    return sorted(found, key=lambda prediction: prediction["image_id"]), unread


def _measure(
    data: DetectionDataset,
    found: list[Prediction],
    unread: dict[int, str],
    settings: TransferSettings,
    folder: Path,
    seconds: float,
) -> Outcome:
    """Write what was found, in COCO's format, measure it, and draw some of it. Raises DataError."""
    readable = [i for i in range(len(data.test)) if data.test[i].id not in unread]
    if not readable:
        reason = next(iter(unread.values()))
        raise DataError(f"none of the photographs in {data.test.name} can be read; the first {reason}")
    true = truth(data, unread)
    _save_json(folder / TRUTH, true)
    precisions = {}
    for name, file, left_out in (("boxes", BOXES, "segmentation"), ("masks", MASKS, "bbox")):
        if name == "boxes" or settings.task == "segmentation":
            plain = [{key: value for key, value in row.items() if key != left_out} for row in found]
            _save_json(folder / file, plain)
            precisions[name] = average_precision(true, plain, masks=name == "masks")
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
        seconds=seconds,
        skipped=skipped,
    )


def _seed(seed: int, step: int) -> None:
    torch.manual_seed(int(counter_uniform(seed, 0, np.array([step]), STEP, rank() + 1)[0, rank()] * 2**53))


def _save_json(file: Path, plain: object) -> None:
    write_atomically(file, lambda out: out.write(json.dumps(plain).encode()))


def _is_finite(detector: nn.Module) -> bool:
    """A finite loss may still have had an infinite gradient: such weights must not reach the checkpoint."""
    return bool(torch.nn.utils.get_total_norm([p.detach() for p in detector.parameters()]).isfinite())


def _not_finite(step: int, folder: Path) -> str:
    kept = "the last good checkpoint is kept" if (folder / CHECKPOINT).exists() else "nothing was saved yet"
    return f"the loss is not finite at step {step}; {kept}. Lower --lr, or set --precision float32"


def _stopped(step: int, total: int, folder: Path) -> str:
    return f"stopped as asked after step {step} of {total}, which is saved in {folder}: go on with --resume"


def _facts(
    data: DetectionDataset, detector: nn.Module, device: torch.device, bf16: bool
) -> dict[str, object]:
    return {
        "train_images": len(data.train),
        "test_images": len(data.test),
        "classes": len(data.classes),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "device": str(device),
        "precision": "bf16" if bf16 else "float32",
        "skipped": {reason: count for reason, (count, _) in data.skipped.items()},
    }
