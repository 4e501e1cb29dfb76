"""The page itself: its parts, and what happens when they are used. Gradio only here.

One run at a time; others wait in the queue. A run computes in a thread of its own, so
that the page can tell how far it is, and stop it: also when its browser goes away.
"""

from __future__ import annotations

import html
import os
import queue
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import (
    Cancelled,
    MissingDependencyError,
    OptionError,
    Swin2SRError,
)
from napari_swin2sr.options import DEFAULT_TRUST
from napari_swin2sr.page.images import (
    Found,
    Result,
    look_at,
    super_resolve,
    write_samples,
)
from napari_swin2sr.replace import remove_own_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = {
    "recommended for this image": "auto",
    "x2": "default",
    "x2, for images without noise": "default-clean",
    "x4": "default-x4",
}
RANGES = {
    "automatic": None,
    "all the type can hold": "dtype",
    "what the image holds": "data",
    "from ... to ...": "fixed",
}
BY_HAND = "from ... to ..."
DETAIL, WHOLE, BARS = "a detail", "the whole image", "after | error bars"

QUEUE_SIZE = 20
"""Runs that may wait."""

_SUFFIXES = [".tif", ".tiff", ".png", ".jpg", ".jpeg"]
_MEGABYTES = 16
"""Largest file per million pixels: four channels of 32 bits."""

_STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
#title h1 { font-size: 1.35rem; margin: 0; }
#title p { margin: .1rem 0 0; opacity: .8; }
#facts { min-height: 1.6rem; }
#facts table { width: 100%; font-size: .9rem; border-collapse: collapse; }
#facts :is(table, tr, td) { border: 0 !important; }
#facts td { padding: .1rem .6rem .1rem 0; vertical-align: top; }
#facts td:first-child { opacity: .7; white-space: nowrap; }
#facts .wrong { color: #c0392b; font-weight: 600; }
#sample label, #view label { padding: .3rem .7rem; }
#view .wrap { flex-wrap: nowrap; }
footer { display: none !important; }
"""


class Page:
    """A page with its folder for files, which goes with it.

    `limit` is the largest image [million pixels]; `options` are those of
    `upscale_file` for every run.
    """

    def __init__(self, folder: Path, limit: float, **options: Any) -> None:
        self.folder, self.limit, self.options = folder, limit, options
        self.samples = write_samples(folder / "samples")
        self._cancel: dict[str, threading.Event] = {}
        self._app: Any = None

    def start(self, host: str, port: int, *, open_browser: bool = False) -> str:
        """Serve the page; return its address.

        Port 0 takes any that is free.
        """
        gradio = _import_gradio(self.folder)
        self._app = self._build(gradio)
        self._app.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)
        theme = gradio.themes.Default(
            primary_hue="indigo",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        )
        try:
            _, address, _ = self._app.launch(
                server_name=host,
                server_port=port or None,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                inbrowser=open_browser,
                ssr_mode=False,
                max_file_size=int(self.limit * _MEGABYTES * 2**20),
                footer_links=[],
                theme=theme,
                css=_STYLE,
                enable_monitoring=False,
            )
        except OSError as error:
            self.stop()
            raise OptionError(
                f"no page can be served at host={host!r}, port={port}: {error}. "
                "Choose another port=8080, or port=0 for any that is free"
            ) from error
        return str(address)

    def stop(self) -> None:
        """End all runs, and the page."""
        for token in self._cancel.values():
            token.set()
        if self._app is not None:
            self._app.close(verbose=False)

    # -- what is on it ----------------------------------------------------------------

    def _build(self, gr: Any) -> Any:
        with gr.Blocks(
            title="Swin2SR", analytics_enabled=False, delete_cache=(3600, 3600)
        ) as app:
            gr.Markdown(
                "# Super-resolution with Swin2SR\n"
                "Drop an image or take a sample; compare; take the file with you. "
                "Nothing leaves this computer.",
                elem_id="title",
            )
            pairs = gr.State()
            session = gr.State(lambda: uuid.uuid4().hex, delete_callback=self._forget)
            with gr.Row():
                with gr.Column(scale=4, min_width=320):
                    file = gr.File(
                        label=f"TIFF, PNG or JPEG, up to {self.limit:g} megapixels",
                        file_types=_SUFFIXES,
                        height=140,
                        elem_id="file",
                    )
                    sample = gr.Radio(
                        list(self.samples), label="or a sample", elem_id="sample"
                    )
                    model = gr.Dropdown(
                        list(MODELS),
                        value=next(iter(MODELS)),
                        label="Model",
                        elem_id="model",
                    )
                    spread = gr.Dropdown(
                        list(RANGES),
                        value=next(iter(RANGES)),
                        label="Intensities from black to white",
                        elem_id="range",
                    )
                    with gr.Row(visible=False) as by_hand:
                        low = gr.Number(label="black", value=0, min_width=80)
                        high = gr.Number(label="white", value=65535, min_width=80)
                    with gr.Row():
                        run = gr.Button(
                            "Super-resolve", variant="primary", elem_id="run"
                        )
                        stop = gr.Button("Cancel", elem_id="stop", min_width=80)
                with gr.Column(scale=8, min_width=480):
                    slider = gr.ImageSlider(
                        label="before | after",
                        type="filepath",
                        format="png",
                        max_height=400,
                        height=420,
                        interactive=False,
                        buttons=["fullscreen"],
                        elem_id="slider",
                    )
                    with gr.Row(equal_height=True):
                        view = gr.Radio(
                            [DETAIL, WHOLE, BARS],
                            value=DETAIL,
                            show_label=False,
                            container=False,
                            scale=2,
                            elem_id="view",
                        )
                        download = gr.DownloadButton(
                            "Download the TIFF",
                            interactive=False,
                            elem_id="download",
                            scale=1,
                            size="md",
                        )
                        errors = gr.DownloadButton(
                            "Error bars", visible=False, scale=1, size="md"
                        )
                    facts = gr.HTML(
                        _told("Nothing has been chosen yet."), elem_id="facts"
                    )
            hidden = {"api_visibility": "private"}
            spread.change(
                lambda name: gr.Row(visible=name == BY_HAND), spread, by_hand, **hidden
            )
            sample.input(self._take, sample, file, **hidden)
            file.upload(lambda: None, None, sample, **hidden)
            file.change(self._look, [file], [facts], concurrency_limit=2, **hidden)
            view.change(_pair, [pairs, view], slider, **hidden)
            run.click(self._get_ready, session, facts, queue=False, **hidden).then(
                self._run,
                [session, file, model, spread, low, high, view],
                [slider, pairs, download, errors, facts],
                concurrency_limit=1,
                show_progress="hidden",
                **hidden,
            )
            stop.click(self._stop_run, session, facts, queue=False, **hidden)
        return app

    # -- what happens -----------------------------------------------------------------

    def _take(self, name: str) -> str:
        return str(self.samples[name])

    def _look(self, file: str | None) -> str:
        if file is None:
            return _told("Nothing has been chosen yet.")
        try:
            return _table(_facts(look_at(Path(file), self.limit)))
        except Swin2SRError as error:
            return _told(_plain(error, file), wrong=True)

    def _get_ready(self, session: str) -> str:
        self._cancel[session] = threading.Event()
        return _told("Waiting: one image at a time.")

    def _stop_run(self, session: str) -> str:
        token = self._cancel.get(session)
        if token is None:
            return _told("There is nothing to cancel.")
        token.set()
        return _told("Stopping ...")

    def _forget(self, session: str) -> None:
        token = self._cancel.pop(session, None)
        if token is not None:
            token.set()
        remove_own_folder(self._place(session))

    def _place(self, session: str) -> Path:
        return self.folder / "runs" / session

    def _run(
        self,
        session: str,
        file: str | None,
        model: str,
        spread: str,
        low: float | None,
        high: float | None,
        view: str,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what the parts of the page show, as the run goes on."""
        keep = _skip()
        token = self._cancel.setdefault(session, threading.Event())
        if file is None:
            yield (
                keep,
                keep,
                keep,
                _told("Drop an image, or take a sample.", wrong=True),
            )
            return
        start, events = time.perf_counter(), queue.SimpleQueue[Any]()
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(
                self._compute,
                Path(file),
                self._place(session),
                MODELS[model],
                _range(RANGES[spread], low, high),
                events.put,
                token,
            )
            try:
                state = "Starting"
                while not job.done():
                    state = _state(events, state)
                    seconds = time.perf_counter() - start
                    yield keep, keep, keep, keep, _told(f"{state}: {seconds:.0f} s")
                    time.sleep(0.25)
            finally:  # also when the browser has gone
                if not job.done():
                    token.set()
        try:
            found, result = job.result()
        except Cancelled:
            yield keep, keep, keep, keep, _told("Cancelled; nothing was written.")
        except (Swin2SRError, OSError) as error:
            yield keep, keep, keep, keep, _told(_plain(error, file), wrong=True)
        else:
            pairs = _saved(result)
            rows = _facts(found) | _numbers(found, result, MODELS[model])
            bars = None if result.bars is None else result.bars.path
            yield (
                _pair(pairs, view),
                pairs,
                _offer(result.path, "Download"),
                _offer(bars, "Error bars:"),
                _table(rows),
            )

    def _compute(
        self,
        path: Path,
        folder: Path,
        model: str,
        value_range: Any,
        progress: Any,
        cancel: threading.Event,
    ) -> tuple[Found, Result]:
        if cancel.is_set():
            raise Cancelled("cancelled")
        found = look_at(path, self.limit)
        remove_own_folder(folder)
        folder.mkdir(parents=True)
        result = super_resolve(
            path,
            folder,
            found.model if model == "auto" else model,
            value_range=value_range,
            progress=progress,
            cancel=cancel,
            **self.options,
        )
        return found, result


def _import_gradio(folder: Path) -> Any:
    """Import Gradio so that it reports to nobody and keeps its files in `folder`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise MissingDependencyError(
            'the page needs Gradio: pip install "napari-swin2sr[page]"'
        ) from error
    return gradio


def _skip() -> Any:
    import gradio

    return gradio.skip()


def _offer(path: Path | None, text: str) -> Any:
    """Return a button for a file; none is shown where there is no file."""
    import gradio

    if path is None:
        return gradio.DownloadButton(visible=False)
    return gradio.DownloadButton(
        f"{text} {path.name}", value=str(path), interactive=True, visible=True
    )


def _range(spec: str | None, low: float | None, high: float | None) -> Any:
    if spec != "fixed":
        return spec
    return (0.0 if low is None else low, 0.0 if high is None else high)


def _state(events: queue.SimpleQueue[Any], state: str) -> str:
    """Return in words how far a run is."""
    done = total = None
    while not events.empty():
        event = events.get()
        kind = type(event).__name__
        if kind == "RunStarted":
            done, total = event.done, event.total
            stage = "Super-resolving" if event.stage == "tiles" else "Writing the file"
            state = f"{stage}, {done} of {total}"
        elif kind == "TileDone":
            head, _, rest = state.rpartition(", ")
            number, _, total = rest.partition(" of ")
            state = f"{head}, {int(number) + 1} of {total}"
    return state


def _saved(result: Result) -> dict[str, tuple[str, str]]:
    """Write the pictures to look at; return what they show and their files."""
    from PIL import Image

    pairs: dict[str, tuple[str, str]] = {}
    shown = {DETAIL: result.detail, WHOLE: result.whole}
    if result.bars is not None:
        bars = result.bars.picture
        after = result.detail[1]
        if after.ndim == 3:
            bars = np.repeat(bars[..., None], 3, axis=-1)
        shown[BARS] = (after, bars)
    for name, pictures in shown.items():
        paths = []
        for side, pixels in zip(("before", "after"), pictures, strict=True):
            path = result.path.with_name(f"{side} {len(pairs)}.png")
            Image.fromarray(np.ascontiguousarray(pixels)).save(path)
            paths.append(str(path))
        pairs[name] = (paths[0], paths[1])
    return pairs


def _pair(pairs: dict[str, tuple[str, str]] | None, view: str) -> Any:
    return None if pairs is None else pairs.get(view)


# -- words ----------------------------------------------------------------------------


def _plain(error: BaseException, file: str) -> str:
    """Return an error without the folder of an upload, which tells nobody anything."""
    return str(error).replace(str(Path(file).parent) + os.sep, "")


def _told(text: str, *, wrong: bool = False) -> str:
    return f'<p class="{"wrong" if wrong else "told"}">{html.escape(text)}</p>'


def _table(rows: dict[str, str]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f"<table>{cells}</table>"


def _size(image: Any) -> str:
    sides = " x ".join(map(str, image.shape))
    return f"{sides} ({image.axes}), {image.data.dtype}"


def _facts(found: Found) -> dict[str, str]:
    inspection = found.inspection
    levels = [f"{c.low:.5g} to {c.high:.5g}" for c in inspection.channels]
    noise = max(c.noise_level for c in inspection.channels)
    return {
        "Image": _size(found.image),
        "Intensities": f"{', '.join(dict.fromkeys(levels))}; noise {noise:.2%} of that",
        "Recommended": inspection.reason,
    }


def _numbers(found: Found, result: Result, asked: str) -> dict[str, str]:
    model = found.model if asked == "auto" else asked
    rows = {
        "Result": f"{_size(result.output)}; model {model}, {result.seconds:.1f} s",
    }
    gain = found.inspection.expected_gain.get(model)
    if gain is not None:
        rows["To expect"] = (
            f"{gain.mean:+.1f} dB over interpolation ({gain.low:+.1f} to "
            f"{gain.high:+.1f}); what is finer than a pixel of the image is a guess"
        )
    bars = result.bars
    rows["Error bars"] = (
        "this model has none"
        if bars is None
        else f"{DEFAULT_TRUST:.0%} of the pixels lie within them in images like those "
        f"of its calibration; half of them are below ±{bars.median:.3g}, and "
        f"±{bars.white:.3g} is shown white"
    )
    return rows
