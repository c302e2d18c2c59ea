"""Parse the page as a browser does, and write run folders to make pages from."""

import json
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from siam.methods import SIMSIAM
from siam.report.page import write_report
from siam.report.pictures import Pictures
from siam.runs.folder import save_settings
from siam.settings.pretraining import Settings, ViewSettings

SMALL = Settings(
    backbone="resnet18", width=0.5, epochs=8, batch_size=32,
    views=ViewSettings(size=16, scale=(0.4, 1.0)), method=replace(SIMSIAM, dim=512, queue=1024),
)  # fmt: skip

VOID = {"meta", "link", "img", "br", "hr", "input", "base"}

NASTY = "<img src=x onerror=alert(1)>\"'&amp;</style></script>{{ 7 * 7 }}<b>\x00\x1b[31m\u202e\udcff\n.jpg"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def find(self, tag: str, style: str | None = None) -> list["Element"]:
        """Return all descendants with this tag, and this class if one is given, in order."""
        found = []
        for child in self.children:
            if child.tag == tag and (style is None or style in (child.attributes.get("class") or "").split()):
                found.append(child)
            found += child.find(tag, style)
        return found

    def every(self) -> list["Element"]:
        """Yield it and all its descendants, in order."""
        return [self, *(below for child in self.children for below in child.every())]

    def words(self) -> str:
        """Return the text in it and below it."""
        return " ".join(" ".join(element.text for element in self.every()).split())


class Page(HTMLParser):
    """A tree of elements. Fails if an end tag does not match its start tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert [element.tag for element in self.open] == ["root"], "left open"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> names an attribute twice: {names}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].text += data


def read(folder, write=write_report) -> Element:
    """Write the report and parse it. Check that it is well formed, self-contained, and without script."""
    root = Page(write(folder).read_text(encoding="utf-8")).root
    ids = []
    for element in root.every():
        assert element.tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"a handler: {name}={value}"
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value.startswith(("data:", "#")), value
            if name == "id":
                ids.append(value)
            for part in (value or "").split("url(")[1:]:
                assert part.startswith("#"), value
    assert len(ids) == len(set(ids))
    style = "".join(element.text for element in root.find("style"))
    assert "url(" not in style
    assert "@import" not in style
    return root


def body(root: Element) -> str:
    """Return the text of the page."""
    return root.find("body")[0].words()


def step(n, per=10, **values) -> dict[str, Any]:
    defaults = {"loss": -0.5, "std": 0.9, "lr": 0.03, "pairs_per_second": 300.0}
    return {"kind": "step", "epoch": (n - 1) // per, "step": n, **defaults, **values}


def epoch(n, per=10, **values) -> dict[str, Any]:
    """Return the record at the end of epoch n, counted from 0."""
    defaults = {"loss": -0.6, "std": 0.95, "rank": 85.2, "rank_z": 40.1, "knn": 0.41, "verdict": "healthy"}
    return {"kind": "epoch", "epoch": n, "step": (n + 1) * per, "seconds": 60.0, **defaults, **values}


START = {
    "kind": "start", "pixel_knn": 0.312, "untrained_knn": 0.207, "images": 5000, "val_images": 1000,
    "parameters": 6_280_000, "device": "cpu", "precision": "bf16",
}  # fmt: skip
END = {
    "kind": "end", "verdict": "healthy", "loss": -0.91, "std": 0.97, "rank": 90.5, "knn": 0.673,
    "pixel_knn": 0.312, "untrained_knn": 0.207, "epochs": 2, "steps": 20, "seconds": 754.0,
    "pairs_per_second": 309.4,
}  # fmt: skip
WHOLE = [START, step(5), step(10), epoch(0), step(15), step(20), epoch(1, knn=0.67), END]
NO_LABELS = {"knn": None, "pixel_knn": None, "untrained_knn": None}
UNLABELED = [{name: NO_LABELS.get(name, value) for name, value in record.items()} for record in WHOLE]


def make_run(folder, records, settings=SMALL, pictures=None):
    """Write the files of a run that its page is made of. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_settings(folder, settings)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if pictures is not None:
        pictures.save(folder)
    return folder


def some_pictures(side=16, pairs=3, queries=2, neighbors=4, name="c{}/{}.jpg", seed=0):
    rng = np.random.default_rng(seed)

    def images(*shape):
        return rng.integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)

    return Pictures(
        images(pairs, 2),
        images(queries),
        images(queries, neighbors),
        [name.format(i % 2, i) for i in range(queries)],
        [[name.format(j % 2, 10 * i + j) for j in range(neighbors)] for i in range(queries)],
    )
