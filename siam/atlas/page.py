"""Write map.html: a map of images that opens from the disk, without a network or a server.

The page's script and style are built into web/dist/page.html; this module adds the data. Thumbnails and
neighbors of large sets are kept in files beside the page, which load when they are looked at.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from siam.atlas.packing import CHUNK, Thumbnails, chunk_order, chunks, columns, encoded, outliers, places
from siam.atlas.table import Map
from siam.system.files import ELSEWHERE, write_atomically, writing
from siam.system.names import shown

PAGE = "map.html"

INSIDE = 32 * 2**20
"""Bytes of thumbnails and neighbors up to which they are in the page itself."""

_BESIDE = re.compile(r"map-[0-9a-f]{12}-[0-9]{4,}\.js")


def write_page(whole: Map, folder: str | Path, thumbnails: Thumbnails | None = None) -> Path:
    """Write FOLDER/map.html, and files named map-….js beside it for a large set; return the page's path.

    thumbnails: returns the JPEG of a row; by default, the map's own column. Files beside an earlier page are
    deleted. Raises RunError if the folder cannot be written.
    """
    folder = Path(folder)
    with writing(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        page = Page(whole, folder, thumbnails)
        write_atomically(folder / PAGE, lambda file: file.writelines(page.parts(live=False)))
        for old in folder.iterdir():
            if _BESIDE.fullmatch(old.name) and old.name not in page.beside:
                old.unlink()
    return folder / PAGE


class Page:
    """A map as the page holds it; chunks that are too large for the page are written to `folder`."""

    def __init__(self, whole: Map, folder: Path, thumbnails: Thumbnails | None = None) -> None:
        self.whole = whole
        self.points = places(whole)
        self.order = chunk_order(whole, self.points)
        digest = hashlib.sha256(self.points.tobytes() + self.order.tobytes())
        self.file = f"map-{digest.hexdigest()[:12]}-#.js"
        self.inside: list[bytes] = []
        self.beside: list[str] = []
        """Names of the files beside the page."""
        self._divide(folder, thumbnails)

    def _divide(self, folder: Path, thumbnails: Thumbnails | None) -> None:
        """Keep chunks in the page as long as all fit; else the first one only, with what the panels show."""
        for number, chunk in enumerate(chunks(self.whole, self.order, thumbnails)):
            if self.beside or (sum(map(len, self.inside)) + len(chunk) > INSIDE and number):
                waiting = [*enumerate(self.inside)][1:] if not self.beside else []
                del self.inside[1:]
                for at, one in [*waiting, (number, chunk)]:
                    self._write(folder, at, one)
            else:
                self.inside.append(chunk)

    def _write(self, folder: Path, number: int, chunk: bytes) -> None:
        """Write a chunk as a script, because a page from the disk may load scripts, but not fetch files."""
        name = self.file.replace("#", f"{number:04d}")
        text = f'siamChunk({number},"{encoded(chunk, compress=False)}")'
        write_atomically(folder / name, lambda file: file.write(text.encode()))
        self.beside.append(name)

    def parts(self, live: bool) -> Iterator[bytes]:
        """Yield the page's bytes. live: for the page that the server serves, which has more tools."""
        frame = (files("siam.atlas") / "web/dist/page.html").read_text(encoding="utf-8")
        head, _, tail = frame.partition("{{data}}")
        title = Path(self.whole.facts["data"] or "").name or "Images"
        yield head.replace("{{title}}", html.escape(f"{shown(title)} · map of images")).encode()
        blobs: list[tuple[str, bytes, bool]] = [
            ("points", self.points.tobytes(), False), ("order", self.order.tobytes(), False),
            ("paths", json.dumps(self.whole.table.column("path").to_pylist()).encode(), True),
        ]  # fmt: skip
        described: list[dict[str, Any]] = []
        for number, (about, values) in enumerate(columns(self.whole)):
            described.append({**about, "blob": f"column-{number}"})
            blobs.append((f"column-{number}", values.tobytes(), True))
        blobs += [(f"chunk-{number}", chunk, False) for number, chunk in enumerate(self.inside)]
        yield _element("facts", "application/json", _json({**self._facts(title, live), "columns": described}))
        for name, data, compress in blobs:
            kind = "gzip" if compress else "plain"
            yield _element(f"data-{name}", "text/plain", encoded(data, compress), f' data-codec="{kind}"')
        yield tail.encode()

    def _facts(self, title: str, live: bool) -> dict[str, Any]:
        facts = self.whole.facts
        return {
            "title": title, "live": live, "n": len(self.points), "clusters": facts["clusters"],
            "duplicates": facts["duplicates"], "outliers": outliers(self.whole), "size": CHUNK,
            "inside": len(self.inside), "file": self.file,
        }  # fmt: skip


def _element(name: str, kind: str, text: str, more: str = "") -> bytes:
    return f'<script type="{kind}" id="{name}"{more}>{text}</script>\n'.encode()


def _json(value: Any) -> str:
    """Return JSON that cannot end the element that holds it, nor be taken for markup."""
    text = json.dumps(value)
    for c in "<>&":
        text = text.replace(c, f"\\u{ord(c):04x}")
    return text
