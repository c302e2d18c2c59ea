"""The page in a real browser: from the disk, drawing, pointing and choosing; from the server, labels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siam.atlas import packing
from siam.atlas import page as pages
from siam.atlas.embedded import Located
from siam.atlas.page import write_page
from siam.atlas.studio import Studio
from siam.data.label_file import relabel
from siam.data.sources import open_images
from tests.atlas.browser import Tab, launch
from tests.atlas.maps import Colors, blobs, colors_of, jpeg, map_of, map_of_sets, serving

pytestmark = pytest.mark.slow

N = 10_000


@pytest.fixture(scope="module")
def browser():
    driver, found = launch()
    yield found
    found.close()
    driver.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page of 10,000 images in five clusters, some of them in groups of duplicates."""
    vectors, kinds = blobs(N, 5)
    paths = [f"{'train' if i % 4 else 'val'}/kind {kind}/{i:05d}.jpg" for i, kind in enumerate(kinds)]
    colors = [jpeg(np.array([200, 60 + 30 * kind, 90])) for kind in range(5)]
    thumbnails = [colors[kind] for kind in kinds]
    labels = [f"kind {kind}" for kind in kinds]
    folder = tmp_path_factory.mktemp("map")
    write_page(map_of(paths, vectors, labels, "/x/photos", [[0, 5], [10, 15, 20]], thumbnails), folder)
    return folder


@pytest.fixture(scope="module")
def shared(browser, folder):
    with Tab(browser, f"file://{folder}/map.html") as tab:
        yield tab


@pytest.fixture
def tab(shared):
    """The page, with nothing chosen and all of it in view."""
    shared.page.keyboard.press("Escape")
    shared.page.keyboard.press("Escape")
    shared.run("siam.fit()")
    shared.page.locator("#tab-image").click()
    shared.page.mouse.move(5, 5)
    shared.rest()
    return shared


def colored(tab):
    """How many pixels of the map are not of its background."""
    image = Image.open(io.BytesIO(tab.page.locator("#map").screenshot())).convert("RGB")
    pixels = np.asarray(image).astype(int)
    return int((np.ptp(pixels, axis=2) > 30).sum())


def test_it_opens_from_the_disk_without_a_request_or_a_word(tab):
    assert tab.run("siam.renderer") == "webgl"
    assert tab.run("siam.drawn().points") == N
    assert tab.text("#count") == "10,000 images"
    assert colored(tab) > 3000
    assert tab.outside() == []
    assert tab.said == []


def test_hover_shows_the_image_and_click_opens_it_with_its_neighbors(tab):
    tab.rest(7, 40)
    tab.page.mouse.move(*tab.place(7))
    tab.page.wait_for_selector("#card:not([hidden])")
    assert tab.text("#card").startswith("train/kind 2/00007.jpg")
    assert tab.run("document.querySelector('#card img').naturalWidth") == 16
    tab.page.mouse.click(*tab.place(7))
    tab.page.wait_for_selector("#panel .tile >> nth=5")
    assert "train/kind 2/00007.jpg" in tab.text()
    neighbors = [int(tile.get_attribute("data-row")) for tile in tab.page.locator("#panel .tile").all()]
    assert neighbors == [8, 9, 10, 11, 12, 13]
    tab.page.locator("#panel .tile").first.click()
    assert "val/kind 3/00008.jpg" in tab.text()
    tab.page.keyboard.press("n")
    assert tab.said == []


def test_pictures_are_drawn_at_high_zoom(tab):
    assert tab.run("siam.drawn().pictures") == 0
    tab.rest(7, 40)
    tab.until("siam.drawn().pictures > 5")
    tab.page.locator("#pictures").click()
    tab.rest()
    assert tab.run("siam.drawn().pictures") == 0
    tab.page.locator("#pictures").click()


def lasso(tab, corners, key="Shift"):
    tab.page.keyboard.down(key)
    tab.page.mouse.move(*corners[0])
    tab.page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        tab.page.mouse.move(*corner, steps=4)
    tab.page.mouse.up()
    tab.page.keyboard.up(key)


def test_a_lasso_selects_what_it_encloses_and_the_list_can_be_saved(tab):
    tab.rest(0, 6)
    x, y = tab.place(0)
    left, right, top, bottom = x - 60, x + 70, y - 50, y + 40

    def is_within(row, by):
        u, v = places[row]
        return left - by < u < right + by and top - by < v < bottom + by

    places = dict(zip(rows := range(0, 400, 5), tab.places(rows), strict=True))
    inside = [row for row in rows if is_within(row, -2)]
    outside = [row for row in rows if not is_within(row, 2)]
    assert inside
    assert outside
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    lasso(tab, corners)
    chosen = tab.run("siam.selection()")
    assert set(inside) <= set(chosen)
    assert not set(outside) & set(chosen)
    assert f"{len(chosen):,} images selected" in tab.text()
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Save list").click()
    saved = Path(download.value.path()).read_text().splitlines()
    assert saved == [tab.run(f"siam.path({row})") for row in chosen]
    lasso(tab, corners, "Alt")
    assert tab.run("siam.selection()") == []


def test_the_lasso_tool_needs_no_key(tab):
    tab.page.locator("#lasso").click()
    box = tab.page.locator("#points").bounding_box()
    left, top = box["x"] + 4, box["y"] + 4
    right, bottom = left + box["width"] - 8, top + box["height"] - 60
    tab.page.mouse.move(left, top)
    tab.page.mouse.down()
    for corner in ((right, top), (right, bottom), (left + 200, bottom), (left + 200, top)):
        tab.page.mouse.move(*corner, steps=3)
    tab.page.mouse.up()
    assert len(tab.run("siam.selection()")) > 5000


def test_find_in_paths(tab):
    tab.page.locator("#query").fill("VAL/kind 1")
    tab.page.wait_for_selector("#hits:not(:empty)")
    assert tab.text("#hits") == "500 matches"
    tab.page.locator("#query").press("Enter")
    tab.page.wait_for_selector("#tab-selection[aria-selected=true]")
    assert tab.run("siam.selection().length") == 500
    tab.page.locator("#query").fill("00123.jpg")
    tab.page.locator("#query").press("Enter")
    tab.page.wait_for_selector("#panel .path")
    assert "train/kind 3/00123.jpg" in tab.text()
    tab.page.locator("#query").press("Escape")


def test_colors_and_their_legend(tab):
    names = ["Cluster", "Label", "Duplicate", "Outlier score"]
    assert tab.page.locator("#color option").all_inner_texts() == names
    before = colored(tab)
    tab.page.locator("#color").select_option("duplicate")
    tab.rest()
    assert colored(tab) < before / 20  # five of 10,000
    tab.page.locator("#color").select_option("label")
    assert tab.page.locator("#legend button").count() == 5
    tab.page.locator("#legend button", has_text="kind 3").click()
    tab.rest()
    assert colored(tab) < before / 2
    tab.page.locator("#color").select_option("outlier")
    assert tab.page.locator("#legend .ramp").count() == 1
    tab.page.locator("#color").select_option("cluster")


def test_panels_of_clusters_duplicates_and_outliers(tab):
    tab.page.locator("#tab-clusters").click()
    assert "5 clusters" in tab.text()
    tab.page.get_by_role("button", name="Select cluster 2").click()
    assert tab.run("siam.selection().length") == N / 5
    tab.page.locator("#tab-duplicates").click()
    assert "2 groups; 3 images could go" in tab.text()
    tab.page.get_by_role("button", name="Select all but the first").click()
    assert tab.run("siam.selection()") == [5, 15, 20]
    tab.page.locator("#tab-outliers").click()
    tab.page.get_by_role("button", name="Select first 20").click()
    scores = tab.run("siam.selection().map(row => siam.value('outlier', row))")
    assert len(scores) == 20
    every = tab.run("siam.find('jpg').map(row => siam.value('outlier', row))")
    assert sorted(scores) == sorted(every)[-20:]


def test_the_keyboard_does_what_the_mouse_does(tab):
    tab.page.locator("#points").focus()
    x, y = tab.place(0)
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("+")
    tab.rest()
    assert tab.place(0) != (x, y)
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#panel .path")
    tab.page.keyboard.press("0")
    tab.rest()
    assert tab.place(0) == pytest.approx((x, y), abs=1)
    tab.page.keyboard.press("?")
    assert "Keyboard and mouse" in tab.text("#keys")
    tab.page.keyboard.press("Escape")
    tab.page.locator("#tab-image").focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("#tab-clusters").get_attribute("aria-selected") == "true"
    theme = tab.run("document.documentElement.dataset.theme")
    tab.page.keyboard.press("d")
    assert tab.run("document.documentElement.dataset.theme") == {"light": "dark", "dark": "light"}[theme]
    tab.page.keyboard.press("d")


def test_without_webgl_a_canvas_draws_the_same_points(browser, folder, tab):
    without = """const open = HTMLCanvasElement.prototype.getContext
    HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
      return kind === 'webgl2' ? null : open.call(this, kind, ...more) }"""
    with Tab(browser, f"file://{folder}/map.html", before=without) as plain:
        plain.rest()
        assert plain.run("siam.renderer") == "canvas"
        assert plain.run("siam.drawn().points") == N
        assert colored(plain) == pytest.approx(colored(tab), rel=0.3)
        assert plain.said == []


def test_large_sets_load_files_beside_the_page(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 64)
    monkeypatch.setattr(pages, "CHUNK", 64)
    monkeypatch.setattr(pages, "INSIDE", 2**15)
    vectors, _ = blobs(400, 2)
    write_page(map_of([f"{i}.jpg" for i in range(400)], vectors), tmp_path)
    assert len(list(tmp_path.glob("map-*.js"))) == 6
    with Tab(browser, f"file://{tmp_path}/map.html") as tab:
        details = tab.run("siam.details(399).then(({jpeg, neighbors}) => [jpeg.length, neighbors.length])")
        assert details == [len(jpeg((90, 140, 200))), 6]
        assert tab.said == []
        assert all(url.startswith(f"file://{tmp_path}/map-") for url in tab.outside())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_and_nothing_overflows(browser, folder, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    width = 1280 if theme == "light" else 400
    with Tab(browser, f"file://{folder}/map.html", width, 800, color_scheme=theme) as tab:
        assert tab.run("document.documentElement.dataset.theme") == theme
        tab.run("siam.open(12)")
        tab.page.wait_for_selector("#panel .tile >> nth=5")
        assert tab.run("document.documentElement.scrollWidth") <= width
        for panel in ("image", "duplicates", "selection"):
            tab.page.locator(f"#tab-{panel}").click()
            faults = axe.Axe().run(tab.page).response["violations"]
            serious = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
            assert [(fault["id"], fault["nodes"][0]["html"]) for fault in serious] == []


HOSTILE = [
    "<img src=x onerror=alert(1)>.jpg",
    "<script>alert(1)<script>.jpg",
    "'\"&quot;.jpg",
    "new\nline.jpg",
    "a..%2f..%2fsecret.jpg",
    "javascript:alert(1).jpg",
    "\u202egpj.exe.jpg",
    "{{data}}.jpg",
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A folder of 400 images in four colors with hostile names, and a link out of it."""
    top = tmp_path_factory.mktemp("live")
    root = top / "<b onclick=alert(1)>photos"
    rng = np.random.default_rng(0)
    colors = {"red": (200, 40, 40), "green": (40, 170, 60), "<i>blue": (50, 70, 210), "gray": (90, 90, 90)}
    for name, color in colors.items():
        (root / name).mkdir(parents=True)
        for i in range(100):
            file = HOSTILE[i] if name == "red" and i < len(HOSTILE) else f"{i:03d}.jpg"
            (root / name / file).write_bytes(
                jpeg(np.clip(np.array(color) + rng.normal(0, 14, 3), 0, 255), 32)
            )
    (top / "secret.jpg").write_bytes(jpeg((255, 255, 255), 48))
    (root / "gray" / "link.jpg").symlink_to(top / "secret.jpg")
    sets = open_images(root)
    vectors = colors_of(sets)
    whole = map_of_sets(sets, vectors, root)
    return Studio(whole, top / "out", Located(sets, whole.table["path"].to_pylist()), vectors, Colors())


@pytest.fixture(scope="module")
def live(browser, studio):
    with serving(studio) as server, Tab(browser, server.address) as tab:
        yield tab


def test_hostile_names_are_text_and_are_not_run(live, studio):
    rows = {path: row for row, path in enumerate(studio.paths)}
    for name in HOSTILE:
        live.run(f"siam.open({rows[f'red/{name}']})")
        live.page.wait_for_selector("#panel .tile >> nth=5")
        shown_name = name.replace("\n", "\\n").replace("\u202e", "\\u202e")
        assert live.page.locator("#panel .path").inner_text() == f"red/{shown_name}"
    assert live.page.locator("#panel img[src=x], #panel i, #panel b, #name b").count() == 0
    assert live.text("#name") == "<b onclick=alert(1)>photos"
    assert live.run("document.scripts.length") == len(live.page.locator("script").all())
    live.run("siam.color('label')")
    assert "<i>blue" in live.text("#legend")
    assert live.said == []
    origin = live.page.url.rstrip("/")
    assert all(url.startswith((f"{origin}/image/", f"{origin}/api/")) for url in live.outside())


def test_full_size_images_but_not_those_of_links_out_of_the_folder(live, studio):
    live.run(f"siam.open({studio.paths.index('green/000.jpg')})")
    live.until("document.querySelector('#panel .picture').naturalWidth === 32")
    live.run(f"siam.open({studio.paths.index('gray/link.jpg')})")
    live.until("document.querySelector('#panel .picture').naturalWidth === 16")  # the thumbnail
    assert "404" in live.said.pop()
    assert live.said == []


def test_search_by_a_dropped_image(live):
    live.page.locator("input[type=file]").set_input_files(
        {"name": "<b>new.jpg", "mimeType": "image/jpeg", "buffer": jpeg((55, 65, 205), 80)}
    )
    live.page.wait_for_selector("#panel .tile >> nth=40")
    assert "<b>new.jpg" in live.text()
    tiles = live.page.locator("#panel .tile").all()[:20]
    assert all("<i>blue/" in tile.get_attribute("title") for tile in tiles)
    assert live.run("siam.search({path: 'green/005.jpg'}, 3).then(({rows}) => rows.map(siam.path))") != []


def test_labels_by_hand_then_a_probe_then_labels_csv(live, studio):
    """From 20 labels the probe is right for nearly all images, and what it is sure of becomes labels."""
    kinds = [path.partition("/")[0] for path in studio.paths]
    for kind in ("red", "green", "<i>blue"):
        rows = [row for row, one in enumerate(kinds) if one == kind][10::18][:5]
        live.run("([rows, name]) => siam.label(rows, name)", [rows, kind])
    rows = [row for row, kind in enumerate(kinds) if kind == "gray"]
    live.run("rows => siam.select(rows)", rows[10::18][:5])
    live.page.locator("#label-name").fill("gray")
    live.page.get_by_role("button", name="Label", exact=True).click()
    live.until("Object.values(siam.labels()).length === 4")
    assert live.run("siam.labels()") == {"red": 5, "green": 5, "<i>blue": 5, "gray": 5}
    live.page.locator("#tab-labels").click()
    live.page.get_by_role("button", name="Train probe").click()
    live.page.wait_for_selector("#threshold")
    guesses = live.run("siam.find('jpg').map(row => siam.value('suggested', row))")
    assert np.mean([guess == kind for guess, kind in zip(guesses, kinds, strict=True)]) > 0.95
    uncertain = live.run("siam.uncertain(10)")
    margins = studio.suggestions.margins
    assert max(margins[uncertain]) <= np.median(margins)
    accepted = live.run("siam.accept(0.6)")
    assert accepted > 100
    live.page.get_by_role("button", name="Save labels.csv").click()
    live.page.get_by_text(f"{20 + accepted} labels in").wait_for()
    again = relabel(open_images(studio.page.whole.facts["data"]), studio.folder / "labels.csv").train
    assert again.classes == ("<i>blue", "gray", "green", "red")
    assert (again.labels >= 0).sum() == 20 + accepted
    assert live.said == []
