"""`napari-swin2sr page`: a page in the browser to try one image at a time."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_options, chosen
from napari_swin2sr.cli.console import EXIT_OK, interruptible, print_error
from napari_swin2sr.errors import OptionError
from napari_swin2sr.options import UpscaleOptions

if TYPE_CHECKING:
    import argparse

OPTIONS = ("device", "precision")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _option(default: Any, text: str, unit: str = "") -> Any:
    return dataclasses.field(
        default=default, metadata={"help": text, "unit": unit, "choices": None}
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """Where the page is, and how large its images may be."""

    host: str = _option(
        "127.0.0.1",
        "Address to serve at; 0.0.0.0 lets everybody in the network use the page",
    )
    port: int = _option(7860, "Port to serve at; 0 takes any that is free")
    limit: float = _option(4.0, "Largest image", "million pixels")
    browser: bool = _option(False, "Open the page in the browser")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port={self.port} is no port; choose 0 to 65535")
        if not 0 < self.limit <= 1000:
            raise OptionError(
                f"limit={self.limit:g} is not allowed; choose more than 0 and up to "
                "1000 million pixels"
            )
        if not self.host.strip():
            raise OptionError("host='' is no address; choose 127.0.0.1 or 0.0.0.0")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "page",
        help="serve a page to try images in the browser",
        description="Serve a page for this computer's browser: drop an image, compare "
        "before and after, take the result with you. Needs the extra 'page'. Nothing "
        "is sent anywhere. Ctrl-C ends it.",
    )
    add_options(parser, PageOptions, "the page")
    add_options(parser, UpscaleOptions, "how to compute", OPTIONS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted; return the exit code."""
    options = PageOptions(**chosen(args, PageOptions))
    compute = chosen(args, UpscaleOptions, OPTIONS)
    from napari_swin2sr.page.app import Page

    with tempfile.TemporaryDirectory(prefix="napari-swin2sr-page-") as name:
        page = Page(Path(name), options.limit, **compute)
        address = page.start(options.host, options.port, open_browser=options.browser)
        if options.host not in _LOOPBACK:
            print_error(
                f"warning: everybody who reaches {options.host} can use this page"
            )
        print(f"{address} (Ctrl-C ends it)", flush=True)
        try:
            with interruptible() as token:
                token.wait()
        finally:
            page.stop()
    return EXIT_OK
