"""Make the pictures of what runs in a browser, for docs/images.

    python scripts/browser_pictures.py

Needs Chromium, its driver and the extra `page`. The embedded models are used.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))


def wait_for(chromium, text: str) -> None:
    """Wait until the facts on the page hold some text."""
    for _ in range(600):
        if text in chromium.find_element("id", "facts").text:
            return
        time.sleep(0.2)
    raise TimeoutError(text)


def keep(chromium, name: str) -> None:
    """Write what the browser shows, with few colors to stay small."""
    picture = Image.open(io.BytesIO(chromium.get_screenshot_as_png())).convert("RGB")
    picture.quantize(128).save(IMAGES / name, optimize=True)
    print(IMAGES / name)


def main() -> None:
    """Draw the page after a run."""
    from helpers.browser import browser
    from napari_swin2sr.page.app import Page

    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder), 4.0)
        address = page.start("127.0.0.1", 0)
        try:
            with browser(Path(folder), "1280,930") as chromium:
                chromium.implicitly_wait(30)
                chromium.get(address)
                chromium.find_elements("css selector", "#sample input")[0].click()
                wait_for(chromium, "Recommended")
                chromium.find_element("id", "run").click()
                wait_for(chromium, "Result")
                time.sleep(2)  # the pictures come after the words
                keep(chromium, "page.png")
        finally:
            page.stop()


if __name__ == "__main__":
    main()
