"""Run a detector on test images and draw its predictions."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from siam.data.workers import batches_of
from siam.system.files import write_atomically
from siam.transfer.annotations import AnnotatedImages, DetectionDataset, Example
from siam.transfer.data import TestImages
from siam.transfer.masks import decode_mask, encode_mask
from siam.transfer.measure import Prediction
from siam.transfer.settings import TransferSettings

_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008b8b", "#c71585", "#8b6508")
_DRAWN_SCORE = 0.5
_MAX_DRAWN = 12
_SIDE = 360  # maximum longer side of drawn images, in pixels


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
    """Run the detector on the test images at `indices`.

    Returns the predictions in COCO results format, and a dict of image id -> error for
    unreadable images. Images are processed one at a time, so predictions (at most 100
    per image) do not depend on the batch size. progress: called with the number of
    images processed so far.
    """
    detector.eval()
    _set_test_size(detector, settings)
    tests = batches_of(TestImages(data.test, indices), lambda n: range(n, len(indices)), workers)
    predictions: list[Prediction] = []
    unread: dict[int, str] = {}
    for done, (index, image, reason) in enumerate(tests, start=1):
        example = data.test[index]
        if image is None:
            unread[example.id] = reason
        else:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found = detector([image.to(device).float() / 255])[0]
            predictions += _results(found, example, data)
        progress(done)
    return predictions, unread


def _set_test_size(detector: nn.Module, settings: TransferSettings) -> None:
    """Append the test size to `min_size`; in eval mode, torchvision uses the last."""
    transform: Any = detector.transform
    transform.min_size = (*settings.train_sides, settings.test_side)


def _results(found: dict[str, Tensor], example: Example, data: DetectionDataset) -> Iterator[Prediction]:
    """Convert the detector's output for one image to COCO results format.

    found: boxes (n, 4), scores (n,), labels (n,) and optionally masks (n, 1, H, W).
    """
    boxes, scores, labels = (found[name].float().cpu().tolist() for name in ("boxes", "scores", "labels"))
    masks = (found["masks"][:, 0] > 0.5).cpu().numpy() if "masks" in found else None
    for i, ((left, top, right, bottom), score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
        row: Prediction = {
            "image_id": example.id,
            "category_id": data.category_ids[int(label) - 1],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        yield row if masks is None else {**row, "segmentation": encode_mask(masks[i])}


def draw(
    images: AnnotatedImages, index: int, predictions: list[Prediction], named: dict[int, str], file: Path
) -> None:
    """Draw ground truth and predictions on a test image, and save it as a JPEG.

    Draws up to 12 predictions with scores of at least 0.5, or the top prediction if
    there are none. Ground-truth boxes are white; predictions are colored by class.
    named: dict of category id -> name.
    """
    example = images[index]
    image = images.read(index)  # uint8 (3, H, W)
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, _SIDE / max(picture.size))
    size = round(example.width * scale), round(example.height * scale)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    numbers = sorted(named)
    own = sorted((p for p in predictions if p["image_id"] == example.id), key=lambda p: -p["score"])
    shown = [p for p in own if p["score"] >= _DRAWN_SCORE][:_MAX_DRAWN] or own[:1]
    for prediction in shown:
        if "segmentation" in prediction:
            mask = Image.fromarray(
                decode_mask(prediction["segmentation"], example.width, example.height) * 110
            )
            color = _color(numbers, prediction)
            picture.paste(Image.new("RGB", picture.size, color), mask=mask.resize(picture.size))
    pen = ImageDraw.Draw(picture)
    for instance in example.instances:
        pen.rectangle([side * scale for side in instance.box], outline="white")
    for prediction in shown:
        x, y, width, height = (side * scale for side in prediction["bbox"])
        color = _color(numbers, prediction)
        pen.rectangle((x, y, x + width, y + height), outline=color, width=2)
        words = f"{named[prediction['category_id']]} {prediction['score']:.2f}"
        corner = (x + 2, max(0.0, y - 11))
        pen.rectangle(pen.textbbox(corner, words), fill=color)
        pen.text(corner, words, fill="white")
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, lambda opened: picture.save(opened, "JPEG", quality=85))


def _color(numbers: list[int], prediction: Prediction) -> str:
    return _COLORS[numbers.index(prediction["category_id"]) % len(_COLORS)]
