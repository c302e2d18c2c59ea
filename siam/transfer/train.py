"""Fine-tune a detector and measure its AP on the test images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from siam.data.loader import choose_workers
from siam.errors import DataError
from siam.processes.agree import all_gather_object, all_reduce_mean, on_rank_zero
from siam.processes.data_parallel import data_parallel
from siam.processes.gather import rank, world_size
from siam.runs.job import require_same_job
from siam.runs.results import BOXES, DRAWN, MASKS, TRUTH, Precision, TransferResult
from siam.runs.session import Session
from siam.settings.schedule import Schedule
from siam.system.files import write_atomically, writing
from siam.transfer.annotations import DetectionDataset
from siam.transfer.data import Batches, Examples
from siam.transfer.detect import detect, draw
from siam.transfer.detectors import build_detector
from siam.transfer.measure import Prediction, average_precision, of_kind, truth
from siam.transfer.precise_bn import measure_statistics
from siam.transfer.settings import TransferSettings, rate_at

_DRAWN = 12  # images


def train(
    data: DetectionDataset, resnet: nn.Module, settings: TransferSettings, folder: Path, console: Console
) -> TransferResult:
    """Fine-tune a detector initialized from `resnet`, and measure its AP on the test images.

    Resumes from the last checkpoint in `folder`, if any. All ranks must call this; only
    rank 0 writes files. Raises SiamError.
    """
    with Session(folder, settings, console) as run:
        workers = choose_workers(settings.workers, run.device)
        detector, optimizer = build(resnet, len(data.classes), settings, run.device)
        run.restore(detector=detector, optimizer=optimizer)
        require_same_job(run, data.fingerprint, "choose another --out")
        batches = Batches(
            data.train, settings.batch_size, settings.seed, settings.task == "segmentation", workers,
            rank(), world_size(),
        )  # fmt: skip
        run.track_unreadable(batches.unreadable, batches.unreadable.update)
        model = data_parallel(detector, run.device, sync_bn=True)
        run.begin(Schedule(1, settings.iterations), settings.log_every, "lr")
        if not run.resumed:
            run.log.log("start", **_facts(data, detector, run))

        detector.train()
        for examples in run.guard(batches.batches(run.step, run.total_steps)):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(run.step, settings)
            run.seed_step()  # for image sizes and RoI sampling

            losses = _losses(model, examples, run)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

            run.advance(loss.detach(), ends_epoch=run.step + 1 == run.total_steps)
            _log_losses(run, {"loss": loss, **losses}, lr=optimizer.param_groups[0]["lr"])
            run.save_or_stop()
        run.finish()

        if settings.precise_bn:
            run.log.print(f"recomputing batch norm statistics over {settings.precise_bn} batches")
            more = enumerate(batches.batches(run.step, run.step + settings.precise_bn), start=run.step)
            measure_statistics(detector, more, lambda numbered: _seeded_losses(detector, run, *numbered))
        predictions, unread = _detect_all(data, detector, settings, run, workers)
        outcome = on_rank_zero(lambda: _measure(data, predictions, unread, settings, run))
        run.log.log("end", step=run.step, **outcome.flat())
        return outcome


def build(
    resnet: nn.Module, classes: int, settings: TransferSettings, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Seed torch, then build the detector on `device` and its SGD optimizer."""
    torch.manual_seed(settings.seed)
    detector = build_detector(resnet, classes, settings)
    detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        detector.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True
    )
    return detector, optimizer


def _losses(model: nn.Module, examples: Examples, run: Session) -> dict[str, Tensor]:
    """Compute the losses of a batch, as a dict of name -> scalar."""
    images = [image.to(run.device, non_blocking=True).float() / 255 for image, _ in examples]
    targets = [{k: v.to(run.device, non_blocking=True) for k, v in t.items()} for _, t in examples]
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
        losses: dict[str, Tensor] = model(images, targets)
    return losses


def _seeded_losses(model: nn.Module, run: Session, step: int, examples: Examples) -> dict[str, Tensor]:
    run.seed_step(step)
    return _losses(model, examples, run)


def _log_losses(run: Session, losses: dict[str, Tensor], lr: float) -> None:
    """Average `losses` across ranks and steps; log them every `log_every` steps."""
    values = all_reduce_mean(torch.stack(list(losses.values())).detach()).tolist()
    run.progress.add(steps=1, **dict(zip(losses, values, strict=True)))
    if run.should_log:
        sums = run.progress.take()
        steps = sums.pop("steps")
        means = {name: value / steps for name, value in sums.items()}
        rate = run.rate()
        run.log.log("step", step=run.step, **means, lr=lr, images_per_second=rate)
        run.log.progress(run.step, [f"loss {means['loss']:.3f}", f"{rate:.1f} images/s"])


def _detect_all(
    data: DetectionDataset, detector: nn.Module, settings: TransferSettings, run: Session, workers: int
) -> tuple[list[Prediction], dict[int, str]]:
    """Run the detector on the test images, split across ranks.

    Returns the predictions of all ranks, sorted by image id, and a dict of image id ->
    error for unreadable images.
    """
    own = list(range(len(data.test)))[rank() :: world_size()]
    run.log.print(f"detecting objects in {len(data.test):,} test images")

    def on_progress(done: int) -> None:
        count = min(done * world_size(), len(data.test))  # assume that all ranks run at the same speed
        run.log.progress(run.step, [f"tested {count:,} of {len(data.test):,}"])

    parts = all_gather_object(
        detect(detector, data, own, settings, run.device, run.bf16, workers, on_progress)
    )
    predictions = [prediction for found, _ in parts for prediction in found]
    unread = {number: reason for _, part in parts for number, reason in part.items()}
    return sorted(predictions, key=lambda prediction: prediction["image_id"]), unread


def _measure(
    data: DetectionDataset,
    predictions: list[Prediction],
    unread: dict[int, str],
    settings: TransferSettings,
    run: Session,
) -> TransferResult:
    """Save the predictions in COCO format, compute AP and draw a few test images.

    unread: image id -> error for unreadable images. Raises DataError if no test image is readable.
    """
    readable = [i for i in range(len(data.test)) if data.test[i].id not in unread]
    if not readable:
        reason = next(iter(unread.values()))
        raise DataError(f"none of the images in {data.test.name} can be read; the first one {reason}")
    with writing(run.folder, "; free some space and continue with --resume"):
        precisions = _save_and_score(data, predictions, readable, unread, settings, run.folder)
    skipped = {reason: count for reason, (count, _) in data.skipped.items()}
    if unread:
        skipped["a test image that cannot be read"] = len(unread)
    return TransferResult(
        out=str(run.folder),
        data=data.name,
        layout=data.layout,
        years=data.years,
        train_images=len(data.train),
        test_images=len(readable),
        boxes=precisions["boxes"],
        masks=precisions.get("masks"),
        iterations=settings.iterations,
        seconds=run.clock.seconds(),
        skipped=skipped,
    )


def _save_and_score(
    data: DetectionDataset,
    predictions: list[Prediction],
    readable: list[int],
    unread: dict[int, str],
    settings: TransferSettings,
    folder: Path,
) -> dict[str, Precision]:
    """Save the predictions, draw a few of the readable test images, and return the AP of boxes and masks."""
    true = truth(data, unread)
    _save_json(folder / TRUTH, true)
    precisions = {}
    for name, file in (("boxes", BOXES), ("masks", MASKS)):
        if name == "boxes" or settings.task == "segmentation":
            masks = name == "masks"
            _save_json(folder / file, of_kind(predictions, masks))
            precisions[name] = average_precision(true, predictions, masks)
    named = dict(zip(data.category_ids, data.classes, strict=True))
    for position in np.unique(np.linspace(0, len(readable) - 1, min(_DRAWN, len(readable))).astype(int)):
        index = readable[position]
        draw(data.test, index, predictions, named, folder / DRAWN / f"{index:06d}.jpg")
    return precisions


def _save_json(file: Path, plain: object) -> None:
    write_atomically(file, lambda out: out.write(json.dumps(plain).encode()))


def _facts(data: DetectionDataset, detector: nn.Module, run: Session) -> dict[str, Any]:
    """Return the fields of the `start` record in metrics.jsonl."""
    return {
        "train_images": len(data.train),
        "test_images": len(data.test),
        "classes": len(data.classes),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "device": str(run.device),
        "precision": "bf16" if run.bf16 else "float32",
        "skipped": {reason: count for reason, (count, _) in data.skipped.items()},
    }
