"""Maps made up for the tests of the page and its server."""

import io
import threading
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from siam.atlas.server import Server
from siam.atlas.table import SCHEMA, Map
from siam.data.augment import normalize
from siam.data.images import class_of
from siam.measure.features import center_view
from siam.system.names import stored

K = 6


def jpeg(color, side=16):
    file = io.BytesIO()
    Image.new("RGB", (side, side), tuple(int(c) for c in color)).save(file, "JPEG", quality=95)
    return file.getvalue()


def map_of(paths, vectors, labels=None, data=None, duplicates=(), thumbnails=None):
    """A map of images whose first two features are their places, and whose clusters are `labels`."""
    n = len(paths)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if n <= 2000:
        cosines = unit @ unit.T - 2 * np.eye(n)
        neighbors = np.argsort(-cosines, axis=1)[:, : min(K, n - 1)]
        similarity = np.take_along_axis(cosines, neighbors, axis=1)
    else:  # enough for what is drawn
        neighbors = (np.arange(n)[:, None] + np.arange(1, K + 1)) % n
        similarity = np.einsum("nd,nkd->nk", unit, unit[neighbors])
    labels = [None] * n if labels is None else labels
    classes = sorted({label for label in labels if label is not None})
    clusters = np.array([classes.index(label) if label is not None else -1 for label in labels], np.int32)
    members = {c: np.flatnonzero(clusters == c) for c in range(len(classes))}
    first = {row: paths[rows[0]] for rows in duplicates for row in rows[1:]}
    columns = {
        "path": paths, "label": labels, "x": vectors[:, 0].astype(np.float32),
        "y": vectors[:, 1].astype(np.float32), "cluster": clusters,
        "representative": np.isin(np.arange(n), [rows[0] for rows in members.values() if len(rows)]),
        "duplicate_of": [first.get(row) for row in range(n)],
        "outlier": (1 - similarity.mean(axis=1)).astype(np.float32), "neighbors": neighbors.tolist(),
        "similarity": similarity.tolist(), "thumbnail": thumbnails or [jpeg((90, 140, 200))] * n,
    }  # fmt: skip
    facts = {
        "data": data, "run": None, "k": K, "duplicates": [list(rows) for rows in duplicates],
        "clusters": [
            {"cluster": c, "size": len(rows), "representatives": rows[:4].tolist()}
            for c, rows in members.items()
        ],
    }  # fmt: skip
    return Map(pa.table(columns, schema=SCHEMA), facts)


def blobs(n, classes, seed=0, spread=0.12, dimension=8):
    """Features (n, dimension) in as many clusters as there are classes, and the class of each (n,)."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % classes
    angle = 2 * np.pi * np.arange(classes) / classes
    centers = np.concatenate(
        [np.stack([np.cos(angle), np.sin(angle)], axis=1), rng.normal(size=(classes, dimension - 2)) / 2],
        axis=1,
    )
    return (centers[kinds] + spread * rng.normal(size=(n, dimension))).astype(np.float32), kinds


def map_of_sets(sets, vectors, data):
    """A map of all images of a dataset, with thumbnails of their mean colors."""
    both = [sets.train] if sets.val is None else [sets.train, sets.val]
    every = [(images, i) for images in both for i in range(len(images))]
    thumbnails = [jpeg(images.read(i).float().mean(dim=(1, 2))) for images, i in every]
    labels = [class_of(images, i) for images, i in every]
    names = [stored(images.path(i)) for images, i in every]
    labels = [None if label is None else stored(label) for label in labels]
    return map_of(names, vectors, labels, data=str(data), thumbnails=thumbnails)


class Colors(torch.nn.Module):
    """An encoder that returns an image's mean color and brightness: (B, 3, H, W) -> (B, 4)."""

    image_size = 16

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        color = x.mean(dim=(2, 3)) * self.scale
        return torch.cat([color, color.mean(dim=1, keepdim=True)], dim=1)


def colors_of(sets):
    """The features that `Colors` has for all images of a dataset."""
    both = [sets.train] if sets.val is None else [sets.train, sets.val]
    views = [center_view(images.read(i), 16) for images in both for i in range(len(images))]
    return Colors()(normalize(torch.stack(views).float() / 255)).numpy()


@contextmanager
def serving(studio, host="127.0.0.1"):
    """Run a server of the studio in a thread."""
    server = Server(studio, host)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
