"""A real browser for tests: Debian's Chromium without a window, which may reach no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One window, with what a test asks of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, *, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        """Load a file and, where it has a figure, wait until that is drawn."""
        self.media(dark=dark)
        self.driver.set_window_size(width, height)
        self.driver.get(page.resolve().as_uri())
        if self.run("return document.getElementById('viewer') !== null"):
            self.wait("return document.querySelector('canvas').dataset.ready === 'yes'")

    def media(self, *, dark: bool) -> None:
        """What the reader's system is set to."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        """Until a script returns something true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20).until(lambda _: self.run(script))

    def find(self, selector: str) -> Any:
        """The first element."""
        return self.driver.find_element("css selector", selector)

    def pixel(self, x: float, y: float) -> tuple[int, int, int]:
        """RGB of the figure's canvas, at shares of its width and height."""
        script = (
            "const c = document.querySelector('canvas'), [x, y] = arguments;"
            "const one = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');"
            "one.drawImage(c, -Math.floor(x * c.width), -Math.floor(y * c.height));"
            "return [...one.getImageData(0, 0, 1, 1).data]"
        )
        red, green, blue, _ = self.run(script, x, y)
        return red, green, blue

    def logged(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the last call, those inside a page left out."""
        import json

        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        addresses = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [address for address in addresses if not address.startswith("data:")]

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        import base64

        options: Mapping[str, Any] = {"preferCSSPageSize": True, "printBackground": True}
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", dict(options))["data"])

    def screenshot(self, path: Path) -> None:
        """All of the page as a PNG."""
        import base64

        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def started() -> Iterator[Browser]:
    """A browser, closed at the end. Skips the test where none is installed."""
    pytest.importorskip("selenium", reason="selenium, of the extra [test], is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = Chrome(options=options, service=Service(driver))
    try:
        yield Browser(window)
    finally:
        window.quit()
