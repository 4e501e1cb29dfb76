"""`napari-swin2sr inspect`: what an image is like, and which model suits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_options, add_output_flags, chosen
from napari_swin2sr.cli.console import EXIT_OK, write_json_line
from napari_swin2sr.options import RunOptions, UpscaleOptions

if TYPE_CHECKING:
    import argparse

    from napari_swin2sr.trust.suitability import Inspection


_OPTIONS = ("axes", "rgb", "value_range", "nodata")
_PARTS = ("series", "level")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inspect",
        help="tell noise, range and the model that suits an image",
        description="Look at a bounded sample of an image and tell its noise, value "
        "range and bandwidth, and what each embedded model can be expected to gain "
        "over interpolation. Nothing is super-resolved.",
    )
    parser.add_argument("source", metavar="FILE", help="image file, folder or URL")
    add_options(parser, UpscaleOptions, "what it is", _OPTIONS)
    add_options(parser, RunOptions, "which part of the file", _PARTS)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the inspection; return the exit code."""
    from napari_swin2sr.formats import open_image
    from napari_swin2sr.trust.suitability import assess

    options = chosen(args, UpscaleOptions, _OPTIONS)
    part = chosen(args, RunOptions, _PARTS)
    image = open_image(args.source, axes=options["axes"], rgb=options["rgb"], **part)
    found = assess(image, options["value_range"], options["nodata"])
    if args.json:
        record = {"event": "inspection", "source": args.source}
        write_json_line(record | found.to_dict())
    else:
        print("\n".join(lines(found, image.channel_names)))
    return EXIT_OK


def lines(found: Inspection, names: tuple[str, ...] = ()) -> list[str]:
    """Return an inspection in words."""
    text = [f"{found.dtype} {found.axes} {' x '.join(map(str, found.shape))}"]
    for number, channel in enumerate(found.channels):
        name = names[number] if number < len(names) else f"channel {number}"
        photons = channel.photons
        shot = "no shot noise" if photons is None else f"{photons:.3g} photons at white"
        text += [
            f"{name}: values {channel.low:.6g} to {channel.high:.6g}, "
            f"mean {channel.mean:.4g}",
            f"  noise {channel.sigma:.3g} at the mean ({shot}, "
            f"{channel.read_noise:.3g} without light)",
            f"  detail up to {100 * channel.bandwidth:.0f} % of the Nyquist frequency, "
            f"{100 * channel.saturated:.2g} % saturated, "
            f"{100 * channel.missing:.2g} % missing",
        ]
    for model, gain in found.expected_gain.items():
        text.append(
            f"{model}: {gain.mean:+.1f} dB over interpolation expected "
            f"({gain.low:+.1f} to {gain.high:+.1f})"
        )
    return [*text, found.reason]
