"""Outlines to masks and back, in COCO's forms: polygons and run lengths (RLE)."""

from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray


def mask_of(outline: Any, width: int, height: int) -> NDArray[np.uint8]:
    """1 inside, (H, W). outline: polygons [[x, y, ...], ...], or RLE {counts, size}, plain or compressed."""
    if isinstance(outline, dict) and isinstance(outline["counts"], str):
        run_lengths = outline
    else:
        run_lengths = coco_mask.frPyObjects(outline, height, width)
    if isinstance(run_lengths, list):
        run_lengths = coco_mask.merge(run_lengths)
    mask: NDArray[np.uint8] = coco_mask.decode(run_lengths)
    return mask


def run_lengths_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Compressed RLE of a mask (H, W), as COCO's results have it."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = encoded["counts"]
    return {
        "size": [int(side) for side in encoded["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
