"""Pages in a real browser: they run without a word of complaint, fetch nothing, and do what their controls say."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.export.results import make_result
from tests.report.browser import Browser
from wsi_magnet.report.write import write_report


@pytest.fixture(scope="module")
def report(graded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a real slide."""
    return write_report([graded], tmp_path_factory.mktemp("report") / "report.html").files[0]


@pytest.fixture(scope="module")
def cohort(graded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    made = [folder / name for name in ("b", "a")]
    for label, path in enumerate(made, start=3):
        make_result(path, np.full((40 * label, 64), label, np.uint8))
    return write_report([graded, *made], folder / "all.html").files[0]


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Browser]:
    """The report, freshly opened; at the end nothing may have gone wrong in it."""
    browser.requested()
    browser.logged()
    browser.open(report)
    yield browser
    assert browser.logged() == []
    assert browser.requested() == [report.as_uri()]


def choose(browser: Browser, value: str) -> None:
    browser.run("document.querySelector(arguments[0]).click()", f'[value="{value}"]')


def zoom(browser: Browser) -> float:
    return float(browser.find("canvas").get_attribute("data-zoom"))


def coloured_place(browser: Browser) -> tuple[float, float]:
    """A place of the canvas where the mask is some class, as shares of its width and height."""
    choose(browser, "none")
    bare = {(x, y): browser.pixel(x, y) for x in np.linspace(0.35, 0.65, 7) for y in np.linspace(0.2, 0.8, 7)}
    choose(browser, "classes")
    return next(place for place, color in bare.items() if browser.pixel(*place) != color)


def test_markup_in_names_is_not_run(page: Browser) -> None:
    assert "taken over" not in page.driver.title


def test_a_class_that_is_switched_off_is_not_drawn(page: Browser) -> None:
    place = coloured_place(page)
    drawn = page.pixel(*place)
    page.run("document.querySelectorAll('input[name=class]').forEach((box) => box.click())")
    bare = page.pixel(*place)
    choose(page, "none")
    assert drawn != bare == page.pixel(*place)


def test_opacity_of_nothing_is_the_slide(page: Browser) -> None:
    place = coloured_place(page)
    page.run(
        "const o = document.querySelector('[name=opacity]'); o.value = 0;"
        "o.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    bare = page.pixel(*place)
    choose(page, "none")
    assert bare == page.pixel(*place)


@pytest.mark.parametrize("value", ["uncertainty", "refined", "outline", "none"])
def test_layers_look_different(page: Browser, value: str) -> None:
    picture = "return document.querySelector('canvas').toDataURL()"
    before = page.run(picture)
    choose(page, value)
    assert page.run(picture) != before


def test_only_the_legend_of_the_layer_is_shown(page: Browser) -> None:
    choose(page, "uncertainty")
    shown = (
        "return [...document.querySelectorAll('[data-legend]')].filter(e => e.offsetHeight).map(e => e.dataset.legend)"
    )
    assert page.run(shown) == ["uncertainty"]


def test_buttons_zoom_and_the_scale_bar_follows(page: Browser) -> None:
    def micrometres_per_px() -> float:
        text = page.find(".length").text
        um = float(text.split()[0]) * (1000 if text.endswith("mm") else 1)
        return um / float(page.run("return document.querySelector('.rule').getBoundingClientRect().width"))

    before = micrometres_per_px()
    for _ in range(4):
        page.find("[data-do=in]").click()
    assert zoom(page) == pytest.approx(1.4**4, rel=1e-3)
    assert micrometres_per_px() == pytest.approx(before / 1.4**4, rel=0.03)
    page.find("[data-do=fit]").click()
    assert zoom(page) == 1


def test_wheel_drag_and_keys_move_the_picture(page: Browser) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    canvas = page.find("canvas")
    picture = "return document.querySelector('canvas').toDataURL()"
    seen = [page.run(picture)]
    ActionChains(page.driver).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, -400).perform()
    page.wait("return Number(document.querySelector('canvas').dataset.zoom) > 1.2")
    seen.append(page.run(picture))
    ActionChains(page.driver).drag_and_drop_by_offset(canvas, 60, 40).perform()
    seen.append(page.run(picture))
    canvas.send_keys(Keys.ARROW_DOWN)
    seen.append(page.run(picture))
    canvas.send_keys("+")
    seen.append(page.run(picture))
    assert len(set(seen)) == len(seen)
    canvas.send_keys("0")
    assert zoom(page) == 1


def test_a_fitted_picture_stays_whole_when_the_window_changes(page: Browser) -> None:
    page.driver.set_window_size(500, 800)
    page.wait("return document.querySelector('canvas').clientWidth < 500")
    page.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert zoom(page) == 1


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(browser: Browser, report: Path, cohort: Path, width: int) -> None:
    for address in (report, cohort):
        browser.open(address, width=width)
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_dark_readers_get_a_dark_page(browser: Browser, report: Path) -> None:
    color = "return getComputedStyle(document.documentElement).backgroundColor"
    browser.open(report, dark=True)
    dark = browser.run(color)
    browser.media(dark=False)
    assert browser.run(color) != dark


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext of poppler-utils is not installed")
def test_on_paper_there_are_the_picture_the_tables_and_the_warning(page: Browser, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    pdf.write_bytes(page.pdf())
    text = subprocess.run(["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    for part in ("Not for diagnosis.", "Gleason 3", "grade group", "Refinement", "SHA-256"):
        assert part in text
    assert "Wheel or pinch" not in text
    assert len(text.split("\f")) - 1 <= 3


def test_the_index_sorts_by_a_heading_that_is_clicked(browser: Browser, cohort: Path) -> None:
    browser.logged()
    browser.open(cohort)
    areas = "return [...document.querySelectorAll('tbody tr')].map((row) => Number(row.cells[3].dataset.sort))"
    heading = "document.querySelector('thead th:nth-child(4) button').click()"
    browser.run(heading)
    up = browser.run(areas)
    browser.run(heading)
    assert up == sorted(up)
    assert browser.run(areas) == up[::-1]
    assert browser.logged() == []


def test_a_page_without_scripts_still_shows_its_picture(browser: Browser, report: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(report.as_uri())
        shot = browser.driver.get_screenshot_as_png()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    from PIL import Image

    with Image.open(io.BytesIO(shot)) as picture:
        colours = np.asarray(picture.convert("RGB"))
    assert np.count_nonzero(np.ptp(colours.astype(int), axis=2) > 40) > 10_000


def test_an_odd_number_of_layers_leaves_no_empty_box(browser: Browser, report: Path) -> None:
    browser.open(report)
    filled = browser.run(
        "const box = document.querySelector('[data-of=layer] .choices');"
        "const before = box.lastElementChild.offsetWidth;"
        "box.children[1].remove();"
        "return [before < 0.6 * box.clientWidth, box.lastElementChild.offsetWidth > 0.9 * box.clientWidth]"
    )
    assert filled == [True, True]
