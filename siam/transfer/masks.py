"""Convert between COCO segmentations (polygons or RLE) and binary masks."""

from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray


def decode_mask(segmentation: Any, width: int, height: int) -> NDArray[np.uint8]:
    """Decode a COCO segmentation to a binary mask (H, W), with 1 inside the object.

    segmentation: polygons [[x, y, x, y, ...], ...], or compressed or uncompressed RLE
    {counts, size}.
    """
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        rle = segmentation
    else:
        rle = coco_mask.frPyObjects(segmentation, height, width)
    if isinstance(rle, list):
        rle = coco_mask.merge(rle)
    mask: NDArray[np.uint8] = coco_mask.decode(rle)
    return mask


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a binary mask (H, W) as compressed RLE, in COCO results format."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = encoded["counts"]
    return {
        "size": [int(side) for side in encoded["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
