"""A trained detector on test photographs: what it finds, as COCO's results, and a picture of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from siam.data.workers import batches_of
from siam.transfer.annotations import AnnotatedImages, DetectionDataset, Example
from siam.transfer.data import TestImages
from siam.transfer.measure import Prediction
from siam.transfer.outlines import mask_of, run_lengths_of
from siam.transfer.settings import TransferSettings

_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008b8b", "#c71585", "#8b6508")
_SHOWN_SCORE = 0.5
_MOST_SHOWN = 12
_SIDE = 360  # pixels, the longer side of a picture


@torch.no_grad()
def detect(
    detector: nn.Module,
    data: DetectionDataset,
    indices: list[int],
    settings: TransferSettings,
    device: torch.device,
    bf16: bool,
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Prediction], dict[int, str]]:
    """What is found in the test photographs `indices`, at most 100 in each, and why others cannot be read.

    One photograph at a time, so that what is found in it does not depend on others.
    """
    detector.eval()
    _at_test_size(detector, settings)
    tests = batches_of(TestImages(data.test, indices), range(len(indices)), workers)
    predictions: list[Prediction] = []
    unread: dict[int, str] = {}
    for done, (index, image, reason) in enumerate(tests, start=1):
        photo = data.test[index]
        if image is None:
            unread[photo.id] = reason
        else:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found = detector([image.to(device).float() / 255])[0]
            predictions += _results(found, photo, data)
        progress(done)
    return predictions, unread


def _at_test_size(detector: nn.Module, settings: TransferSettings) -> None:
    """torchvision tests at the last of the training sizes."""
    transform: Any = detector.transform
    transform.min_size = (*settings.train_sides, settings.test_side)


def _results(found: dict[str, Tensor], photo: Example, data: DetectionDataset) -> Iterator[Prediction]:
    boxes, scores, labels = (found[name].float().cpu().tolist() for name in ("boxes", "scores", "labels"))
    masks = (found["masks"][:, 0] > 0.5).cpu().numpy() if "masks" in found else None
    for i, ((left, top, right, bottom), score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
        row: Prediction = {
            "image_id": photo.id,
            "category_id": data.category_ids[int(label) - 1],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        yield row if masks is None else {**row, "segmentation": run_lengths_of(masks[i])}


def draw(
    photos: AnnotatedImages, index: int, predictions: list[Prediction], named: dict[int, str], file: Path
) -> None:
    """Save the photograph, as a JPEG, with what was found in it (score 0.5 or more; else the best one).

    named: categories by number. True boxes are white, predicted ones in the color of their class.
    """
    photo = photos[index]
    image = photos.read(index)
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, _SIDE / max(picture.size))
    picture = picture.resize(
        (round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS
    )
    numbers = sorted(named)
    mine = sorted((p for p in predictions if p["image_id"] == photo.id), key=lambda p: -p["score"])
    shown = [p for p in mine if p["score"] >= _SHOWN_SCORE][:_MOST_SHOWN] or mine[:1]
    for prediction in shown:
        if "segmentation" in prediction:
            mask = Image.fromarray(mask_of(prediction["segmentation"], photo.width, photo.height) * 110)
            color = _color(numbers, prediction)
            picture.paste(Image.new("RGB", picture.size, color), mask=mask.resize(picture.size))
    pen = ImageDraw.Draw(picture)
    for thing in photo.things:
        pen.rectangle([side * scale for side in thing.box], outline="white")
    for prediction in shown:
        x, y, width, height = (side * scale for side in prediction["bbox"])
        color = _color(numbers, prediction)
        pen.rectangle((x, y, x + width, y + height), outline=color, width=2)
        words = f"{named[prediction['category_id']]} {prediction['score']:.2f}"
        corner = (x + 2, max(0.0, y - 11))
        pen.rectangle(pen.textbbox(corner, words), fill=color)
        pen.text(corner, words, fill="white")
    file.parent.mkdir(exist_ok=True)
    picture.save(file, "JPEG", quality=85)


def _color(numbers: list[int], prediction: Prediction) -> str:
    return _COLORS[numbers.index(prediction["category_id"]) % len(_COLORS)]
