"""The page in a real browser, and what it says when something is wrong."""

from __future__ import annotations

import gc
import importlib.util
import socket
import sys
import threading
import time
from urllib.parse import urlparse

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers import stand_in
from helpers.browser import browser, requested
from helpers.io_images import noise
from napari_swin2sr import apply, upscale
from napari_swin2sr.cli import main as cli
from napari_swin2sr.errors import MissingDependencyError, OptionError
from napari_swin2sr.page import app, images

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None,
    reason='Gradio is missing: the extra "page"',
)
# Inside Gradio and what it stands on.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def leftovers():
    """Collect the loops that Gradio's threads leave open while that is ignored."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)
    monkeypatch.setattr(images, "has_error_bars", lambda model: False)


def wait_for(look, what: str, seconds: float = 60):
    """Wait until the page shows something; return it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def text_of(chromium, wanted: str) -> str:
    """Wait until the page says something."""

    def look():
        text = chromium.find_element("id", "facts").text
        return text if wanted in text else ""

    return wait_for(look, wanted)


@needs_gradio
def test_a_visit(tmp_path, monkeypatch):
    """Upload, compare, take the file; then a wrong file, and a cancelled run."""
    pixels = noise((96, 120), "uint16")
    tifffile.imwrite(tmp_path / "mine.tif", pixels)
    Image.fromarray(np.zeros((900, 900), np.uint8)).save(tmp_path / "large.png")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    page = app.Page(tmp_path / "page", 0.5)
    with browser(downloads) as chromium:
        from selenium.webdriver.common.action_chains import ActionChains

        try:
            address = page.start("127.0.0.1", 0)
            assert urlparse(address).hostname == "127.0.0.1"
            chromium.implicitly_wait(20)
            chromium.get(address)
            upload = chromium.find_element("css selector", "#file input[type=file]")
            upload.send_keys(str(tmp_path / "mine.tif"))
            assert "96 x 120 (YX), uint16" in text_of(chromium, "Recommended")
            chromium.find_element("id", "run").click()
            assert "192 x 240 (YX), uint16" in text_of(chromium, "Result")

            def widths():
                pictures = chromium.find_elements("css selector", "#slider img")
                found = {p.get_property("naturalWidth") for p in pictures}
                return len(pictures) == 2 and 0 not in found and found

            (width,) = wait_for(widths, "two pictures of one size")
            assert width > 500
            handle = chromium.find_element("css selector", "#slider .inner")
            before = handle.rect["x"]
            drag = ActionChains(chromium).move_to_element(handle).click_and_hold()
            drag.move_by_offset(-90, 0).release().perform()
            assert handle.rect["x"] == pytest.approx(before - 90, abs=3)

            chromium.find_element("id", "download").click()
            found = wait_for(lambda: list(downloads.glob("*.tif")), "a download")
            assert found[0].name == "mine-default.tif"
            result = tifffile.imread(found[0])
            assert result.dtype == np.uint16
            np.testing.assert_array_equal(result, apply(pixels).compute())

            chromium.find_element(
                "css selector", "#file button[aria-label='Clear']"
            ).click()
            upload = chromium.find_element("css selector", "#file input[type=file]")
            upload.send_keys(str(tmp_path / "large.png"))
            told = text_of(chromium, "this page takes 0.5 million")
            assert told.startswith("large.png has 0.81 million pixels")

            cancelled = threading.Event()

            def forever(path, folder, model, *, cancel, **_):
                cancel.wait(30)
                cancelled.set()
                raise app.Cancelled("cancelled")

            monkeypatch.setattr(app, "super_resolve", forever)
            chromium.find_elements("css selector", "#sample input")[0].click()
            text_of(chromium, "256 x 256 x 3")
            chromium.find_element("id", "run").click()
            text_of(chromium, "Starting: 1 s")
            chromium.find_element("id", "stop").click()
            text_of(chromium, "Cancelled; nothing was written")
            assert cancelled.is_set()

            for url in requested(chromium):
                assert url.startswith(("data:", "blob:", address)), url
        finally:
            page.stop()


@needs_gradio
def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        page = app.Page(tmp_path, 1)
        with pytest.raises(OptionError, match=f"port={port}.*Choose another"):
            page.start("127.0.0.1", port)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "99999"], "--port 99999 is no port"),
        (["--limit", "0"], "--limit 0 is not allowed"),
        (["--limit", "-1"], "--limit -1 is not allowed"),
        (["--host", " "], "is no address"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_wrong_options(capsys, words, message):
    assert cli.main(["page", *words]) == 2
    assert message in capsys.readouterr().err


def test_without_gradio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[page\]"):
        app.Page(tmp_path, 1).start("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("spec", "low", "high", "wanted"),
    [
        (None, 1, 2, None),
        ("dtype", 1, 2, "dtype"),
        ("fixed", 3, 9, (3, 9)),
        ("fixed", None, 9, (0.0, 9)),
    ],
)
def test_ranges(spec, low, high, wanted):
    assert app._range(spec, low, high) == wanted


def test_what_is_shown_cannot_be_a_script():
    assert "<b>" not in app._table({"<b>": "<b>"})
    assert "&lt;b&gt;" in app._told("<b>", wrong=True)
