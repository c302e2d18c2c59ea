"""report.html: a run on one page that needs nothing else: verdict, curves, views as seen, neighbours."""

import math
from dataclasses import fields, is_dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from siam import __version__, objectives
from siam.measure.collapse import ADVICE
from siam.methods import METHODS, Method, title
from siam.report import curves
from siam.report.pictures import Pictures, neighbours_html, pairs_html
from siam.runs.folder import EVALUATIONS, REPORT, TRANSFERS, UNREADABLE, Run, open_run
from siam.runs.history import History
from siam.settings.pretraining import Settings
from siam.system.files import write_atomically

__all__ = ["Pictures", "write_report"]

FIGURE3 = {
    "predictor": {
        "learned": "learned predictor",
        "fixed": "predictor fixed as initialised",
        "none": "no predictor",
    },
    "target": {
        "stop_gradient": "stop-gradient on the target branch",
        "momentum": "slow copy of the encoder as the target branch",
        "gradient": "gradient through both branches",
    },
    "objective": {},  # in each objective's file
    "symmetry": {
        "symmetric": "in both directions",
        "asymmetric": "in one direction",
        "asymmetric_2x": "in one direction over two pairs of each image",
    },
}
"""Each choice of Figure 3 in words."""
CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser refuses whatever is not in the page itself."""


def write_report(folder: Path) -> Path:
    """Write report.html of a run, finished or not. Raises RunError where there is no run."""
    run = open_run(folder)
    history = History(run.metrics(), run.settings)
    name = escape(run.folder.resolve().name)
    header = _header(name, run, history)
    save_page(folder, name, header, _sections(run, history, Pictures.load(folder)))
    return folder / REPORT


def _sections(run: Run, history: History, pictures: Pictures | None) -> list[str]:
    sections = [_curves(history), _evaluations(run.folder), _transfers(run.folder)]
    if pictures is not None:
        sections += [pairs_html(pictures), neighbours_html(pictures)]
    return [*sections, settings_html(run.settings)]


def save_page(folder: Path, name: str, header: str, sections: list[str]) -> None:
    """Write report.html: one page that needs nothing else. All in HTML; empty sections are left out."""
    style = (files("siam.report") / "report.css").read_text(encoding="utf-8")
    body = "\n".join(section for section in sections if section)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<link rel="icon" href="data:,">
<title>{name} · siam</title>
<style>
{style}</style>
</head>
<body>
{header}
<main>
{body}
</main>
<footer>Written by siam {escape(__version__)}.</footer>
</body>
</html>
"""
    # Names of files and folders may hold anything: controls, halves of surrogate pairs, changes of direction.
    page = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in page)
    write_atomically(folder / REPORT, lambda file: file.write(page.encode()))


def _header(name: str, run: Run, history: History) -> str:
    settings, latest = run.settings, history.latest()
    pill, style, meaning, advice = _verdict(history, latest)
    advised = f'<p class="advice {style}">{escape(advice)}</p>' if advice else ""
    facts = {
        "Method": _in_words(settings.method),
        "Data": _data(settings.data, latest) + _unreadable(run.folder),
        "Backbone": _backbone(settings, latest),
        "Training": escape(
            f"{settings.epochs} epochs in batches of {settings.batch_size}, {settings.optimizer.name} at "
            f"{settings.optimizer.lr:g} × batch / 256, seed {settings.seed}"
        ),
    }
    return f"""<header>
<div class="title"><h1>{name}</h1> <span class="pill {style}">{escape(pill)}</span></div>
<p class="meaning">{escape(meaning)}</p>
{advised}
<dl>{"".join(f"<dt>{term}</dt><dd>{fact}</dd>" for term, fact in facts.items())}</dl>
{_cards(settings, history, latest)}
</header>"""


def _verdict(history: History, latest: dict[str, Any]) -> tuple[str, str, str, str | None]:
    """What the pill says, its style, what that means, and what to do about it."""
    if not all(math.isfinite(latest.get(name, 0.0)) for name in ("loss", "std")):
        meaning = "The loss is no longer a finite number: from there on nothing is learnt."
        return "diverged", "collapsed", meaning, "Lower optimizer.lr, or set precision float32."
    if "verdict" not in latest:
        return "no verdict yet", "", "The first epoch has not ended; the verdict comes with its end.", None
    verdict, so_far = latest["verdict"], "" if history.records[-1]["kind"] == "end" else " so far"
    meaning = f"std × √d is {latest['std']:.3f}, where 1 is an even spread of directions and 0 is collapse."
    if verdict in ADVICE:
        advice = ADVICE[verdict]
        style = "risk" if verdict == "at risk" else "collapsed"
        return verdict + so_far, style, meaning, advice[0].upper() + advice[1:]
    return (
        verdict + so_far,
        "healthy",
        f"The images get vectors of their own: {meaning}{_not_better(latest)}",
        None,
    )


def _not_better(latest: dict[str, Any]) -> str:
    """A healthy spread is not yet a good representation: what kNN says against it, if anything."""
    rivals = {"raw pixels": "pixel_knn", "random initialisation": "untrained_knn"}
    better = [
        name for name, key in rivals.items() if "knn" in latest and latest.get(key, -1.0) >= latest["knn"]
    ]
    return f" Yet kNN is no better than with {' or '.join(better)}." if better else ""


def _in_words(method: Method) -> str:
    """The method as Figure 3 has it; what differs from the published one is marked."""
    name, published = method.name, METHODS.get(method.name, method)
    parts = []
    for field, words in FIGURE3.items():
        value = getattr(method, field)
        word = escape(objectives.words(value) if field == "objective" else words.get(value, value))
        same = value == getattr(published, field)
        parts.append(word if same else f'<span class="changed">{word} (changed)</span>')
    return f"{escape(title(name))}: {', '.join(parts)}"


def _data(data: str, latest: dict[str, Any]) -> str:
    words = escape("the built-in demo set" if data == "demo" else data)
    if "images" in latest:
        words += f", {latest['images']:,} images"
    return words + (f" and {latest['val_images']:,} to validate" if latest.get("val_images") else "")


def _unreadable(folder: Path) -> str:
    """How many lines unreadable.txt has, where there is one."""
    file = folder / UNREADABLE
    count = file.read_bytes().count(b"\n") if file.exists() else 0
    return f"; not all could be read: {UNREADABLE} lists {count:,}" if count else ""


def _backbone(settings: Settings, latest: dict[str, Any]) -> str:
    words = escape(settings.backbone) + (f" × {settings.width:g}" if settings.width != 1 else "")
    if "parameters" in latest:
        words += f", {latest['parameters'] / 1e6:.1f} million parameters"
    return f"{words}, views of {settings.views.size} × {settings.views.size} pixels"


def _cards(settings: Settings, history: History, latest: dict[str, Any]) -> str:
    """The key numbers, as far as they are known."""
    cards = []
    if "knn" in latest:
        rows = (
            ("this run", "knn", "own"),
            ("raw pixels", "pixel_knn", ""),
            ("random init", "untrained_knn", ""),
        )
        bars = "".join(_bar(label, latest[name], style) for label, name, style in rows if name in latest)
        label = f"kNN accuracy, k = {settings.monitor.knn_k}"
        cards.append(_card(f"{100 * latest['knn']:.1f} %", label, f'<div class="bars">{bars}</div>'))
    if "std" in latest:
        cards.append(_card(_number(latest["std"], 3), "std of z/|z|, × √d"))
    if "rank" in latest:
        of_z = f"; of z {latest['rank_z']:.1f}" if "rank_z" in latest else ""
        most = f", at most {latest['features']}" if "features" in latest else ""
        cards.append(_card(f"{latest['rank']:.1f}", f"effective rank of the features{most}{of_z}"))
    if "loss" in latest:
        floor = ", between −1 and 1" if settings.method.objective == "cosine" else ""
        cards.append(_card(_number(latest["loss"], 3), f"loss{floor}"))
    epochs = sum(record["kind"] == "epoch" for record in history.records)
    if "step" in latest or "steps" in latest:
        steps = latest.get("steps", latest.get("step"))
        took = _duration(latest["seconds"]) if "seconds" in latest else "running"
        cards.append(_card(took, f"{epochs} of {settings.epochs} epochs, {steps:,} steps"))
    if "pairs_per_second" in latest:
        where = ", ".join(latest[name] for name in ("device", "precision") if name in latest)
        label = f"pairs per second on {where}" if where else "pairs per second"
        rate = latest["pairs_per_second"]
        cards.append(_card(f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}", escape(label)))
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _card(value: str, label: str, more: str = "") -> str:
    return f'<div class="card{" wide" if more else ""}"><b>{value}</b><span>{label}</span>{more}</div>'


def _bar(label: str, share: float, style: str) -> str:
    percent = f"{100 * share:.1f}"
    return f'<span>{label}</span><i class="{style}" style="width:{percent}%"></i><span>{percent} %</span>'


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "not finite"


def _duration(seconds: float) -> str:
    """754 -> '12.6 min'."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _curves(history: History) -> str:
    """Figure 2, then what else was logged; without labels the effective rank takes the place of kNN."""
    labelled = history.has("knn")
    panels: list[tuple[str, curves.Draw, str]] = [
        ("loss", curves.loss, "Low is not good in itself: a collapsed run reaches the floor."),
        ("std", curves.std, "At 1/√d the directions of z are spread evenly; at 0 all images share one."),
        ("knn", curves.knn, "Validation images named by their nearest training images."),
        ("rank", curves.rank, "How many dimensions carry the features; needs no labels."),
        ("lr", curves.learning_rate, _predictor_lr(history.settings)),
        ("pairs_per_second", curves.rate, ""),
    ]
    drawn = []
    for name, draw, caption in panels:
        if history.has(name):
            large = name in ("loss", "std", "knn" if labelled else "rank")
            svg = curves.inline_svg(curves.panel(draw, history, 3.0 if large else 1.9), name)
            drawn.append(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>")
    if not drawn:
        return '<h2>Curves</h2>\n<p class="note">Nothing has been logged yet.</p>'
    return f'<h2>Curves</h2>\n{_without_knn(history)}<div class="curves">{"".join(drawn)}</div>'


def _predictor_lr(settings: Settings) -> str:
    constant = settings.optimizer.predictor_lr == "constant" and settings.method.predictor == "learned"
    return "The predictor's own stays as it starts." if constant else ""


def _without_knn(history: History) -> str:
    """Why there is no kNN curve, once there could be one."""
    if history.has("knn") or history.steps_per_epoch is None:
        return ""
    off = history.settings.monitor.knn_every == 0
    reason = "monitor.knn_every is 0" if off else "these images have no labels"
    return f'<p class="note">There is no kNN curve: {reason}.</p>\n'


def _evaluations(folder: Path) -> str:
    """What `siam evaluate` found, as it words it."""
    if not (folder / EVALUATIONS).exists():
        return ""
    from siam.protocols.result import evaluation_html

    return f'<h2>Evaluation</h2>\n<div class="evaluation">{evaluation_html(folder)}</div>'


def _transfers(folder: Path) -> str:
    """What `siam transfer` found, as it words it."""
    if not (folder / TRANSFERS).is_dir():
        return ""
    from siam.report.transfer import transfers_html

    return transfers_html(folder / TRANSFERS)


def settings_html(settings: Any) -> str:
    """All of them, in a table that opens on demand."""
    groups: dict[str, list[str]] = {"": []}
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            groups[f.name] = [_row(inner.name, getattr(value, inner.name)) for inner in fields(value)]
        else:
            groups[""].append(_row(f.name, value))
    body = "".join(
        (f'<tr><th colspan="2">{escape(group)}</th></tr>' if group else "") + "".join(rows)
        for group, rows in groups.items()
    )
    return (
        "<details><summary>All settings</summary>\n"
        f'<div class="scroll"><table><tbody>{body}</tbody></table></div></details>'
    )


def _row(name: str, value: Any) -> str:
    shown = " to ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value
    return f"<tr><th>{escape(name)}</th><td>{escape(str(shown))}</td></tr>"
