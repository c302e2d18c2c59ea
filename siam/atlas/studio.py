"""What the server of the page does: images by row, search by example, labels and suggestions."""

import base64
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from siam.atlas.embedded import Located
from siam.atlas.labels import Labels
from siam.atlas.packing import Thumbnails
from siam.atlas.page import Page
from siam.atlas.pictures import Pictures
from siam.atlas.suggest import Suggestions, suggest
from siam.atlas.table import Map
from siam.data.augment import normalize
from siam.data.decode import BrokenImage, decode
from siam.errors import DataError
from siam.measure.features import center_view
from siam.runs.encoder import Encoder

_MOST_RESULTS = 500


class Studio:
    """A map, its images and embeddings, and the labels that the user gives. Safe to use from threads."""

    def __init__(
        self,
        whole: Map,
        folder: str | Path,
        images: Located,
        vectors: NDArray[np.float32],
        encoder: Encoder | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        """Open the labels in FOLDER/labels.csv, if there are any, and write files beside the page there.

        images: those of the map's rows. vectors: their embeddings (N, D). encoder: embeds images to search
        by; None: only images of the set can be searched by. Raises DataError, or RunError if the folder
        cannot be written.
        """
        if len(vectors) != len(whole.table):
            raise DataError(f"the map has {len(whole.table)} images, but there are {len(vectors)} embeddings")
        self.folder, self.vectors, self.encoder = Path(folder), vectors, encoder
        self.paths: list[str] = whole.table.column("path").to_pylist()
        self.row_of = {path: row for row, path in reversed([*enumerate(self.paths)])}
        self.pictures = Pictures(images)
        self.labels = Labels([self.pictures.path(row, path) for row, path in enumerate(self.paths)])
        self.labels.load(self.folder)
        self.page = Page(whole, self.folder, thumbnails)
        self.suggestions: Suggestions | None = None
        self._units = F.normalize(torch.from_numpy(vectors).float(), dim=1)
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return the names of all labels, the labeled rows and their labels."""
        rows = self.labels.labeled()
        return {"names": self.labels.names, "rows": rows.tolist(), "codes": self.labels.codes[rows].tolist()}

    def label(self, rows: Sequence[int], name: str | None) -> dict[str, Any]:
        """Give rows a label, or take it away; return the state. Raises DataError."""
        with self._lock:
            self.labels.give(rows, name)
            return self.state()

    def suggest(self, by: str) -> dict[str, Any]:
        """Suggest a label for every row, and return arrays in base64. Raises DataError."""
        with self._lock:
            found = self.suggestions = suggest(self.vectors, self.labels, by)
        arrays = {"codes": found.codes, "scores": found.scores, "margins": found.margins}
        facts = {"names": found.names, "labels": found.labels, "seconds": round(found.seconds, 3)}
        return {**facts, **{name: base64.b64encode(a.tobytes()).decode() for name, a in arrays.items()}}

    def accept(self, threshold: float) -> dict[str, Any]:
        """Turn suggestions with at least this score into labels; return the state. Raises DataError."""
        with self._lock:
            found = self.suggestions
            if found is None:
                raise DataError("there are no suggestions yet: train a probe first")
            self.labels.accept(found.names, found.codes, found.scores, found.by, threshold)
            return self.state()

    def save(self) -> dict[str, Any]:
        """Write labels.csv and return its path and number of rows. Raises RunError."""
        with self._lock:
            return {"file": str(self.labels.save(self.folder)), "rows": len(self.labels.labeled())}

    def search_by_path(self, path: str, k: int) -> dict[str, Any]:
        """Find the images nearest to one of the set, by its path in the set. Raises DataError."""
        if path not in self.row_of:
            raise DataError(f"no image of this set is named {path}")
        return self.search_by_row(self.row_of[path], k)

    def search_by_row(self, row: int, k: int) -> dict[str, Any]:
        """Find the images nearest to a row's, without itself. Raises DataError."""
        if not 0 <= row < len(self.paths):
            raise DataError(f"rows go from 0 to {len(self.paths) - 1}, got {row}")
        return self._nearest(self._units[row], k, without=row)

    def search_by_image(self, data: bytes, k: int) -> dict[str, Any]:
        """Find the images nearest to an encoded one. Raises DataError if it cannot be read or embedded."""
        if self.encoder is None:
            raise DataError("searching by an image needs an encoder: start the server with a run")
        try:
            view = center_view(decode(data), self.encoder.image_size)
        except BrokenImage as error:
            raise DataError(f"this image cannot be read: {error.reason}") from None
        device = next(self.encoder.parameters()).device
        with self._lock, torch.no_grad():
            x = self.encoder(normalize(view.unsqueeze(0).to(device).float() / 255)).cpu()  # (1, D)
        if x.shape[1] != self._units.shape[1]:
            raise DataError("the map was made by another encoder: start the server with the run that made it")
        return self._nearest(F.normalize(x[0], dim=0), k)

    def _nearest(self, query: torch.Tensor, k: int, without: int = -1) -> dict[str, Any]:
        cosines = self._units @ query  # (N,)
        if without >= 0:
            cosines[without] = -torch.inf
        k = max(1, min(k, _MOST_RESULTS, len(cosines) - (without >= 0)))
        best = cosines.topk(k)
        return {"rows": best.indices.tolist(), "similarity": [round(c, 4) for c in best.values.tolist()]}
