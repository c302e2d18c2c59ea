"""A headless browser for the tests of the page: chromium with WebGL in software, driven by Playwright."""

import shutil
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def launch():
    """Return a browser to close; skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    driver = playwright.sync_playwright().start()
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_GL])
    return driver, browser


class Tab:
    """A page open in the browser, with what it said and asked for."""

    def __init__(self, browser, address, width=1100, height=720, before="", **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on(
            "dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.page.on("request", lambda request: self.asked.append(request.url))
        if before:
            self.page.add_init_script(before)
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.context.close()

    def _dismiss(self, dialog):
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def run(self, script, *values):
        """Evaluate an expression, or call a function with one value; wait for its promise."""
        return self.page.evaluate(script, *values)

    def rest(self, row=None, zoom=None):
        """Wait until the map has stopped; first go to a row, if one is given."""
        if row is not None:
            self.run(f"siam.goTo({row}, {zoom})")
        self.until("siam.drawn().still")

    def until(self, script, seconds=20):
        """Wait until an expression is true. (Playwright's own way needs eval, which the page forbids.)"""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            self.page.wait_for_timeout(30)

    def places(self, rows):
        """The places of the rows' points in the window."""
        return [(at["x"], at["y"]) for at in self.run("rows => rows.map(siam.position)", list(rows))]

    def place(self, row):
        """The place of a row's point in the window."""
        return self.places([row])[0]

    def text(self, selector="#panel"):
        return self.page.locator(selector).inner_text()

    def outside(self):
        """The requests that left the page: not for it, or for what it made itself."""
        return [url for url in self.asked if not url.startswith(("blob:", "data:", self.page.url))]
