"""Check COCO segmentations (polygons or RLE), and convert them to and from binary masks."""

from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from siam.transfer.values import number, whole


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


def plain_segmentation(value: Any, width: int, height: int) -> tuple[Any, str]:
    """Return a segmentation that `decode_mask` accepts, or None and the reason.

    Polygons may be one flat list, or lists of points [x, y]; those without an area are left out. The run
    lengths of RLE must fill an image of this size.
    """
    if isinstance(value, dict):
        return _plain_rle(value, width, height)
    polygons = [points for points in map(_plain_polygon, _polygons(value)) if points]
    return (polygons, "") if polygons else (None, "an object without a segmentation")


def _polygons(value: Any) -> list[Any]:
    """Return a list of polygons, from one polygon or several."""
    if not isinstance(value, list):
        return []
    is_flat = all(number(side) is not None for side in value)
    is_points = len(value) >= 3 and all(isinstance(point, list) and len(point) == 2 for point in value)
    return [value] if is_flat or is_points else value


def _plain_polygon(points: Any) -> list[float]:
    """Return a polygon [x, y, x, y, ...] of three points or more; [] if it is anything else."""
    if not isinstance(points, list):
        return []
    flat = [side for point in points for side in (point if isinstance(point, list) else [point])]
    sides = [found for found in map(number, flat) if found is not None]
    return sides if len(sides) == len(flat) >= 6 and len(sides) % 2 == 0 else []


def _plain_rle(value: dict[str, Any], width: int, height: int) -> tuple[Any, str]:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or [whole(side) for side in size] != [height, width]:
        return None, "a mask of another size than its image"
    runs = _runs(counts)
    if runs is None or runs.min(initial=0) < 0 or int(runs.sum()) != width * height:
        return None, "a mask whose run lengths do not fill its image"
    plain = counts if isinstance(counts, str) else runs.tolist()
    return {"size": [height, width], "counts": plain}, ""


def _runs(counts: Any) -> NDArray[np.int64] | None:
    """Return the run lengths of an RLE's counts, compressed or not; None if they are neither."""
    if isinstance(counts, list):
        listed = [whole(run) for run in counts]
        return None if None in listed else np.array(listed, dtype=np.int64)
    if not isinstance(counts, str) or not counts.isascii():
        return None
    # As in LEB128, 5 bits per character, lowest first; 32: another one follows; 16 in the last: negative.
    codes = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if (
        not len(ends)
        or ends[-1] != len(codes) - 1
        or codes.min() < 0
        or codes.max() > 63
        or lengths.max() > 7
    ):
        return None
    within = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs: NDArray[np.int64] = np.add.reduceat((codes & 31) << (5 * within), starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = runs[
        1::2
    ].cumsum()  # from the fourth on, a run is stored as the difference from the last but one
    runs[2::2] = runs[2::2].cumsum()
    return runs
