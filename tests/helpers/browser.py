"""A real browser without a window, where one is installed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def browser(downloads: Path, size: str = "1280,900") -> Iterator[Any]:
    """Start Chromium; skip the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={size}")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(downloads)}
    )
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chromium
    finally:
        chromium.quit()


def requested(chromium: Any) -> list[str]:
    """Return the addresses that the page has asked for."""
    lines = (json.loads(line["message"]) for line in chromium.get_log("performance"))
    events = (line["message"] for line in lines)
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
