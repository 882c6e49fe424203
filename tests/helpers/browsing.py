"""A headless Chromium, for the tests that look at a page."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def browser():
    """Playwright's handle of a Chromium, the system's or Playwright's own; without either the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        path = found or chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: install chromium, or run `python -m playwright install chromium`")
        # Containers that run as root have no sandbox.
        with chromium.launch(executable_path=path, args=["--no-sandbox"]) as launched:
            yield launched
