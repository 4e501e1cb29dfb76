"""Make the pictures of what runs in a browser, for docs/images.

    python scripts/browser_pictures.py

Needs Chromium, its driver and the extra `page`. The embedded models are used.
"""

from __future__ import annotations

import io
import subprocess
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


def draw_notebook() -> None:
    """Build the documentation and draw the notebook in it."""
    from helpers.browser import browser, requested

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
        subprocess.run([*command, "--site-dir", folder], cwd=ROOT, check=True)
        page = Path(folder) / "notebooks" / "swin2sr" / "index.html"
        with browser(Path(folder), "1280,1000") as chromium:
            chromium.get(page.as_uri())
            heading = chromium.find_element("css selector", "h2[id^=look i]")
            chromium.execute_script("arguments[0].scrollIntoView()", heading)
            chromium.execute_script("window.scrollBy(0, -80)")
            time.sleep(1)
            keep(chromium, "notebook.png")
            for url in requested(chromium):
                if not url.startswith(("file:", "data:", "blob:")):
                    print("asks", url)


def draw_page() -> None:
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
    draw_notebook()
    draw_page()
