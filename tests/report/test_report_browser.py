"""The pages in a real browser: on a phone, in the dark, by keyboard, and with no network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regionssl import make_report, pretrain
from regionssl.report.learning_curve import Curve, CurvePoint
from regionssl.report.page import Picture, Table
from regionssl.report.proof_page import ProofPage, proof_page

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = os.environ.get("REGIONSSL_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no browser: apt-get install chromium, or name one in REGIONSSL_BROWSER")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=QUIET, timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    name = "a-run-with-a-name-that-is-much-longer-than-the-screen-of-any-phone-that-is-sold"
    run = pretrain(scenes, folder / name, recipe=TINY, steps=2)
    curves = [Curve(name, [CurvePoint(4, 0.1, 8.0, 7.0, 9.2), CurvePoint(40, 1.0, 12.0, 11.0, 13.0)]) for name in "ab"]
    table = Table("Scores", ["start", *(f"{n} images of many" for n in range(9))], [[name, *map(str, range(9))]])
    cases = [("Cases", [Picture(Image.new("RGB", (900, 300)), name)])]
    (folder / "proof.html").write_text(
        proof_page(ProofPage("Did it help?", "Yes.", [(name, name)], [name], "mIoU", curves, [table], cases))
    )
    return {"report": make_report([run], folder / "report.html", samples=2), "proof": folder / "proof.html"}


class Visit:
    """A page that is open, and what it did that it should not."""

    def __init__(self, browser: Any, path: Path, width: int = 1000, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.see(request.url))
        self.page.goto(path.as_uri())

    def see(self, url: str) -> None:
        if not url.startswith(("data:", "file:")):
            self.faults.append(url)

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def drawn(self, view: int) -> str:
        """What a canvas of the point picker shows."""
        return self.ask(f"document.getElementById('affinity-view{view}').toDataURL()")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of ``rgb(r, g, b)``."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


STYLE = """(names) => names.map((name) => { const style = getComputedStyle(document.querySelector(name));
    return [style.color, style.backgroundColor]; })"""


@pytest.mark.parametrize("name", ["report", "proof"])
def test_a_page_fits_a_phone_and_asks_for_nothing(browser: Any, pages: dict[str, Path], name: str) -> None:
    visit = Visit(browser, pages[name], width=380)
    visit.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    visit.ask("document.querySelectorAll('img').forEach((one) => { one.loading = 'eager'; })")
    assert visit.ask("document.documentElement.scrollWidth") <= 380
    visit.page.wait_for_function("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    assert visit.faults == []
    visit.context.close()


@pytest.mark.parametrize("name", ["report", "proof"])
def test_text_has_contrast_in_the_light_and_in_the_dark(browser: Any, pages: dict[str, Path], name: str) -> None:
    papers = []
    for scheme in ("light", "dark"):
        visit = Visit(browser, pages[name], scheme=scheme)
        (ink, paper), (muted, _) = visit.page.evaluate(STYLE, ["body", "figcaption"])
        assert contrast(ink, paper) >= 7
        assert contrast(muted, paper) >= 4.5
        papers.append(luminance(paper))
        if name == "report":
            (lamp, _), (_, panel) = visit.page.evaluate(STYLE, [".lamp strong", ".lamp"])
            assert contrast(lamp, panel) >= 4.5
        visit.context.close()
    assert papers[0] > 0.9
    assert papers[1] < 0.05


def test_the_keyboard_reaches_the_points_and_moves_them(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["report"])
    visit.page.wait_for_function("document.getElementById('affinity-said').textContent.includes('Most alike')")
    visit.page.focus("#affinity-image")
    visit.page.keyboard.press("Tab")
    assert visit.ask("document.activeElement.id") == "affinity-view1"
    assert visit.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before, said = (visit.drawn(1), visit.drawn(2)), visit.page.inner_text("#affinity-said")
    visit.page.keyboard.press("ArrowRight")
    after = visit.drawn(1), visit.drawn(2)
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert visit.page.inner_text("#affinity-said") != said
    visit.page.keyboard.press("ArrowLeft")
    assert (visit.drawn(1), visit.drawn(2)) == before
    visit.page.keyboard.press("Tab")
    assert visit.ask("document.activeElement.id") == "affinity-view2"
    visit.page.keyboard.press("ArrowDown")
    assert "Point: view 2" in visit.page.inner_text("#affinity-said")
    assert visit.faults == []
    visit.context.close()


def test_points_are_picked_by_a_click_and_networks_by_choice(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["report"])
    visit.page.wait_for_function("document.getElementById('affinity-said').textContent.includes('Most alike')")
    side = visit.ask("JSON.parse(document.getElementById('affinity-data').textContent).images[0].side")
    before = visit.drawn(2)
    visit.page.click("#affinity-view1", position={"x": 2, "y": 2})
    assert visit.page.inner_text("#affinity-said").startswith("Point: view 1, row 1, column 1.")
    assert visit.drawn(2) != before
    box = visit.page.locator("#affinity-view2").bounding_box()
    visit.page.click("#affinity-view2", position={"x": box["width"] - 3, "y": box["height"] - 3})
    assert visit.page.inner_text("#affinity-said").startswith(f"Point: view 2, row {side}, column {side}.")
    trained = visit.drawn(1)
    visit.page.select_option("#affinity-network", "0")
    assert visit.drawn(1) != trained
    visit.page.select_option("#affinity-image", "1")
    assert visit.page.inner_text("#affinity-said").startswith("Point: view 1")
    assert visit.faults == []
    visit.context.close()
