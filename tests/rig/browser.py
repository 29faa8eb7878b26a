"""A headless Chromium for tests of pages. Where there is none (or no playwright), the test is skipped and says so.

    with browser() as open_page:
        page = open_page()
        page.goto(url)

Each block has a browser of its own: playwright's blocking face keeps an event loop in the thread while it is open.
An error in a page's script fails the test.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: A page on a busy machine, in milliseconds: nothing depends on it.
PATIENCE = 60_000
#: Root may not use Chromium's sandbox; small containers have a small /dev/shm.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


@contextlib.contextmanager
def browser() -> Iterator[Callable[[], Page]]:
    """A browser; what is yielded opens a page, in a context (cookies, storage) of its own."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    errors: list[str] = []
    with (
        sync_api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=FLAGS) as chromium,
    ):

        def open_page() -> Page:
            page: Page = chromium.new_context().new_page()
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: errors.append(str(error)))
            return page

        yield open_page
    assert errors == []
