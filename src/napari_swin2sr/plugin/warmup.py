"""Get the slow imports over with while a person still chooses."""

from __future__ import annotations

import atexit
import logging
import threading

logger = logging.getLogger("napari_swin2sr")

_thread: threading.Thread | None = None


def warm_up() -> None:
    """Import PyTorch and load the embedded model, once, in a thread of its own."""
    global _thread
    if _thread is None:
        _thread = threading.Thread(
            target=_load, name="napari-swin2sr warm-up", daemon=True
        )
        _thread.start()


def _load() -> None:
    try:
        from napari_swin2sr.engine.upscaler import load_model

        load_model("default")
    except Exception:  # the run itself will say what is wrong
        logger.debug("warm-up failed", exc_info=True)


@atexit.register
def _finish() -> None:
    """Let the import end: an interpreter must not leave in the middle of it."""
    if _thread is not None:
        _thread.join(60)
