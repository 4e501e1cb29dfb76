"""What an image is like, and which model suits it, before anything is computed."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import fit_ranges
from napari_swin2sr.trust.noise import NoiseModel, estimate_noise, sampled_planes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_swin2sr.image.intensity import ValueRange
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import RangeSpec

INTERPOLATION = "interpolation"
"""The recommendation where no embedded model is expected to help."""

CLEAN_ONLY = ("default-clean", "lightweight-x2", "classical-x2", "classical-x4")
"""Models that were trained on clean images and amplify the noise of others."""

_CLEAN = 0.005  # estimated noise that smooth structure alone can cause

_FULL_BANDWIDTH = 0.5  # of the Nyquist frequency: below it, pixels are small enough


class Gain(NamedTuple):
    """PSNR over bicubic interpolation to expect, in dB.

    `low` and `high` hold 90 % of the images of the calibration whose noise was alike.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReport:
    """What a bounded sample of one channel shows.

    Attributes
    ----------
    low, high : black and white level of the value range, in the units of the image
    mean : of the pixels, in the units of the image
    sigma : standard deviation of the noise at the mean, in the units of the image
    noise_level : the same in the scale of the network, 0 to 1
    photons : photons at the white level that this noise corresponds to; None where no
        shot noise was found
    read_noise : standard deviation without light, in the units of the image
    bandwidth : highest frequency above the noise, as a share of the Nyquist frequency;
        well below 1, the pixels are smaller than the optics need
    saturated, missing : shares of the pixels
    """

    low: float
    high: float
    mean: float
    sigma: float
    noise_level: float
    photons: float | None
    read_noise: float
    bandwidth: float
    saturated: float
    missing: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What an image is like, and what super-resolution can be expected to do for it.

    Attributes
    ----------
    axes, shape, dtype : of the image
    channels : one report per channel
    expected_gain : model -> gain over interpolation, for the noisiest channel
    recommendation : name of a model, or "interpolation"
    reason : the recommendation in words
    """

    axes: str
    shape: tuple[int, ...]
    dtype: str
    channels: tuple[ChannelReport, ...]
    expected_gain: dict[str, Gain]
    recommendation: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, as JSON can hold it."""
        gains = {name: gain._asdict() for name, gain in self.expected_gain.items()}
        return asdict(self) | {"expected_gain": gains}


def assess(
    image: SpatialImage, value_range: RangeSpec = None, nodata: float | None = None
) -> Inspection:
    """Look at a bounded sample of an image; see `napari_swin2sr.inspect`."""
    layout = resolve_axes(image.shape, image.axes)
    nodata = image.nodata if nodata is None else nodata
    ranges = fit_ranges(image.data, layout, value_range, nodata=nodata)
    channels = []
    for number, values in enumerate(ranges):
        planes = list(sampled_planes(image.data, layout, number, nodata))
        channels.append(_report(planes, values, np.dtype(image.data.dtype)))
    worst = max(channels, key=lambda c: c.noise_level)
    level = worst.noise_level
    gains = {name: expected_gain(name, level) for name in _table()["models"]}
    best = max(gains, key=lambda name: gains[name].mean)
    if gains[best].mean <= 0:
        best = INTERPOLATION
    return Inspection(
        axes=image.axes,
        shape=image.shape,
        dtype=str(np.dtype(image.data.dtype)),
        channels=tuple(channels),
        expected_gain=gains,
        recommendation=best,
        reason=_reason(worst, best, gains),
    )


def expected_gain(model: str, noise_level: float) -> Gain:
    """Return what a model gained on calibration images with as much noise.

    Parameters
    ----------
    model : str
        Name of an embedded model.
    noise_level : float
        Standard deviation of the noise in the scale of the network, 0 to 1.
    """
    table = _table()
    place = np.log(max(noise_level, 1e-6))
    nodes = np.log(table["noise_level"])
    return Gain(
        *(
            round(float(np.interp(place, nodes, table["models"][model][key])), 2)
            for key in Gain._fields
        )
    )


@functools.cache
def _table() -> dict[str, Any]:
    """Return what `scripts/expected_gain.py` measured."""
    file = resources.files("napari_swin2sr.trust") / "expected_gain.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table


def _report(
    planes: list[NDArray[np.float64]], values: ValueRange, dtype: np.dtype[Any]
) -> ChannelReport:
    pixels = np.concatenate([plane.ravel() for plane in planes] or [np.empty(0)])
    there = pixels[np.isfinite(pixels)]
    mean = float(there.mean()) if there.size else math.nan
    span = values.high - values.low or 1.0
    # light is counted from the black level, which no photon reaches
    noise = estimate_noise(plane - values.low for plane in planes)
    noise = noise or NoiseModel(0.0, 0.0)
    sigma = float(noise.sigma(mean - values.low)) if there.size else 0.0
    top = np.iinfo(dtype).max if dtype.kind in "iu" else None
    return ChannelReport(
        low=values.low,
        high=values.high,
        mean=mean,
        sigma=sigma,
        noise_level=sigma * values.top / span,
        photons=span / noise.gain if noise.gain > 0 else None,
        read_noise=math.sqrt(noise.offset),
        bandwidth=_bandwidth(planes, sigma),
        saturated=float(np.mean(there >= top)) if top and there.size else 0.0,
        missing=1 - there.size / max(pixels.size, 1),
    )


def _bandwidth(planes: list[NDArray[np.float64]], sigma: float) -> float:
    """Return the highest frequency with more power than the noise [1 / Nyquist]."""
    power = np.zeros(_RINGS)
    for plane in planes:
        if min(plane.shape) < 2 * _RINGS or not np.isfinite(plane).all():
            continue
        window = np.outer(*(np.hanning(n) for n in plane.shape))
        spectrum = np.abs(np.fft.rfft2((plane - plane.mean()) * window)) ** 2
        spectrum /= np.square(window).sum()
        ring = np.hypot(
            np.fft.fftfreq(plane.shape[0])[:, None], np.fft.rfftfreq(plane.shape[1])
        )
        ring = (ring * 2 * _RINGS).astype(int)
        inside = ring < _RINGS
        total = np.bincount(ring[inside], spectrum[inside], _RINGS)
        power += total / np.bincount(ring[inside], minlength=_RINGS)
    floor = max(2 * sigma**2 * len(planes), 1e-6 * power[1:].max())
    above = np.flatnonzero(power > floor)
    return float((above[-1] + 1) / _RINGS) if above.size else 0.0


_RINGS = 32  # of frequencies, up to Nyquist


def _reason(channel: ChannelReport, best: str, gains: dict[str, Gain]) -> str:
    if channel.photons is not None and channel.photons < 5000:
        noise = f"noisy (about {_round(channel.photons)} photons at the white level)"
    elif channel.noise_level > _CLEAN:
        noise = f"noisy ({100 * channel.noise_level:.1f} % of the value range)"
    else:
        noise = "clean"
    if best == INTERPOLATION:
        return f"{noise}: no embedded model is expected to beat interpolation"
    gain = gains[best]
    text = (
        f"{noise}: {best} is expected to gain {gain.mean:.1f} dB over interpolation "
        f"({gain.low:.1f} to {gain.high:.1f})"
    )
    if noise == "clean" and channel.bandwidth < _FULL_BANDWIDTH:
        text += (
            f"; detail ends at {100 * channel.bandwidth:.0f} % of what the pixels "
            "could hold, so there is little to add"
        )
    return text


def _round(value: float) -> int:
    """Return a number with two digits that count."""
    digits = max(0, math.floor(math.log10(max(value, 1))) - 1)
    return int(round(value, -digits))
