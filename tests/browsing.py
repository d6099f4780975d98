"""A real browser for pages: at two sizes in both colour schemes, where nothing may be said and no network asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LOOKS = [(size, scheme) for size in SIZES for scheme in ("light", "dark")]


@contextmanager
def launched() -> Iterator[Any]:
    """The browser; without one the test is skipped."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'"
    )
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root may not use Chromium's sandbox; the page is ours.
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=args)
        yield browser
        browser.close()


@contextmanager
def visited(browser: Any, file: Path, look: tuple[str, str], name: str) -> Iterator[Any]:
    """A page at one size in one colour scheme; nothing may be said on the console or asked of a network.

    Args:
        name: of the screenshot, where EXCISE_SCREENSHOTS names a folder.
    """
    width, height = SIZES[look[0]]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=look[1])
    page.set_default_timeout(5000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else said.append(r.url))
    page.goto(file.as_uri())
    yield page
    if folder := os.environ.get("EXCISE_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
    assert said == []
    page.close()
