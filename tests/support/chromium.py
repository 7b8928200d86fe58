"""A real Chromium for tests of pages, and what it must not say: errors, dialogs, violations of the page's policy."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
HINT = "no Chromium here: apt install chromium (or set CHROMIUM to its path), and pip install 'lamer-graph[test]'"
TIMEOUT_MS = 15_000
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


def expect(found: Any) -> Any:
    """Playwright's `expect`: pages forbid what its `wait_for_function` needs (eval)."""
    from playwright.sync_api import expect as playwrights

    playwrights.set_options(timeout=TIMEOUT_MS)
    return playwrights(found)


def chromium() -> str | None:
    """Where the browser is."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Skips the test where there is none. Not while a loop of asyncio runs: Playwright has one of its own."""
    path = chromium()
    if path is None or importlib.util.find_spec("playwright") is None:
        pytest.skip(HINT)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def a_page(browser: Browser, url: str, width: int = 1280, **context: Any) -> Iterator[Page]:
    """The page at `url`, once it shows its first view; fails at its end for what a page must not do."""
    height = 900 if width > 500 else 844
    inside = browser.new_context(viewport={"width": width, "height": height}, **context)
    page = inside.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(url.split("#")[0]) else None)
    page.add_init_script(WATCH)
    page.goto(url)
    page.wait_for_selector("html[data-open=yes]")
    try:
        yield page
        wrong += page.evaluate("window.violations")
    finally:
        inside.close()
    assert wrong == []
