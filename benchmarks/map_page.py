"""The page of a map in a headless browser with WebGL in software: time to open, and frames per second.

    python benchmarks/map_page.py --out docs/results/map-page-cpu.json

Frames are counted while the map is dragged for some seconds. `every point` forces all points into each frame;
the page itself draws a part of a large map while it moves, as much as stays smooth, and all of it at rest.
The CPU time of a frame tells how fast an idle machine would be: 30 frames per second on two cores need less
than 66 ms.
Needs chromium, and playwright from siam[dev].
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from siam.atlas.page import PAGE, write_page
from siam.atlas.table import SCHEMA, Map

K = 10
DRAG = """async ([seconds, all]) => {
  const canvas = document.getElementById('points')
  const send = (kind, x) => canvas.dispatchEvent(new PointerEvent(kind, {
    clientX: x, clientY: 400, pointerId: 1, isPrimary: true, button: 0, bubbles: true }))
  canvas.setPointerCapture = () => {}
  siam.drawAll(all)
  send('pointerdown', 300)
  const begun = performance.now()
  const before = siam.drawn().frames
  let points = 0
  while (performance.now() - begun < 1000 * seconds) {
    send('pointermove', 300 + 150 * Math.sin((performance.now() - begun) / 400))
    await new Promise(requestAnimationFrame)
    points = siam.drawn().points
  }
  const frames = siam.drawn().frames - before
  const fps = (siam.drawn().frames - before) / ((performance.now() - begun) / 1000)
  send('pointerup', 300)
  siam.drawAll(false)
  return { frames_per_second: Math.round(10 * fps) / 10, points_per_frame: points, frames }
}"""

WITHOUT = """const open = HTMLCanvasElement.prototype.getContext
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === 'webgl2' ? null : open.call(this, kind, ...more)
}"""


def made_up(n: int) -> Map:
    """A map of n images in 40 clusters, whose thumbnails are one small JPEG."""
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 40, n).astype(np.int32)
    xy = (rng.normal(size=(40, 2)) * 6)[clusters] + rng.normal(size=(n, 2))
    rows = ((np.arange(n)[:, None] + np.arange(1, K + 1)) % n).astype(np.int32)
    offsets = np.arange(0, n * K + 1, K, dtype=np.int32)
    jpeg = b"\xff\xd8" + bytes(1500)
    columns = [
        pa.array([f"train/class {c}/{i:07d}.jpg" for i, c in enumerate(clusters)]),
        pa.array([f"class {c}" for c in clusters]),
        pa.array(xy[:, 0].astype(np.float32)), pa.array(xy[:, 1].astype(np.float32)), pa.array(clusters),
        pa.array(np.zeros(n, bool)), pa.nulls(n, pa.string()), pa.array(rng.random(n, np.float32)),
        pa.ListArray.from_arrays(offsets, pa.array(rows.ravel())),
        pa.ListArray.from_arrays(offsets, pa.array(np.full(n * K, 0.5, np.float32))),
        pa.nulls(n, pa.binary()) if n > 200_000 else pa.array([jpeg] * n),
    ]  # fmt: skip
    sizes = np.bincount(clusters, minlength=40)
    facts = {
        "data": None, "run": None, "k": K, "duplicates": [],
        "clusters": [{"cluster": c, "size": int(sizes[c]), "representatives": [c]} for c in range(40)],
    }  # fmt: skip
    return Map(pa.table(columns, schema=SCHEMA), facts)


def cpu_seconds() -> float:
    """Return the CPU time of the browser's processes, which are children of this one."""
    parents, times = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        parents[pid], times[pid] = (
            int(fields[1]),
            (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        )

    def is_own(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_own(parents[pid]))

    return sum(time for pid, time in times.items() if pid != os.getpid() and is_own(pid))


def drag(page: object, seconds: float, every_point: bool) -> dict[str, float]:
    before = cpu_seconds()
    found = page.evaluate(DRAG, [seconds, every_point])
    used = cpu_seconds() - before
    return {**found, "cpu_milliseconds_per_frame": round(1000 * used / max(1, found["frames"]), 1)}


def measure(browser: object, n: int, seconds: float, without_webgl: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        whole, started = made_up(n), time.perf_counter()
        write_page(whole, folder)
        wrote = time.perf_counter() - started
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        if without_webgl:
            page.add_init_script(WITHOUT)
        started = time.perf_counter()
        page.goto(f"file://{folder}/{PAGE}", timeout=300_000)
        page.wait_for_selector("html[data-ready]", state="attached", timeout=300_000)
        opened = time.perf_counter() - started
        page.wait_for_timeout(1000)
        found = {
            "images": n,
            "renderer": page.evaluate("siam.renderer"),
            "seconds_to_write": round(wrote, 2),
            "page_megabytes": round(Path(folder, PAGE).stat().st_size / 1e6, 1),
            "seconds_to_open": round(opened, 2),
            "dragging": drag(page, seconds, False),
            "dragging_every_point": drag(page, seconds, True),
        }
        page.close()
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--without-webgl", action="store_true", help="as on a machine that has none")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        facts = {
            "load": os.getloadavg()[0],
            "cores": os.cpu_count(),
            "machine": platform.processor() or platform.machine(),
            "browser": f"Chromium {browser.version}",
        }
        results = [measure(browser, n, options.seconds, options.without_webgl) for n in options.images]
        browser.close()
    if options.out:
        options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
