"""How much an error head's half-widths have to be enlarged to hold.

The factor is chosen by conformal risk control (A. N. Angelopoulos, S. Bates, A. Fisch,
L. Lei and T. Schuster, ICLR 2024, https://arxiv.org/abs/2208.02814). The risk of an
image is the share of its pixels whose error exceeds the enlarged half-width. The
smallest factor is taken for which ``(sum of the risks + 1) / (n + 1)`` of n images is
at most ``1 - level``: the expected risk of one more image of their kind is then not
larger, whatever their distribution. Images of one source (a plate, a slide, a camera:
a cluster) are alike, so the mean over the clusters must not be larger either.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import OptionError, WeightsError
from napari_swin2sr.weights.catalog import ResolvedModel, resolve_model
from napari_swin2sr.weights.error_head import (
    CALIBRATION_NAME,
    ERROR_HEAD_NAME,
    MAKE_ANEW,
    MODEL_HASH,
    read_calibration,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

LEVELS = tuple(percent / 100 for percent in range(50, 100))
"""Shares of pixels that a calibration has factors for."""

DEFAULT_LEVEL = 0.9

FACTORS = np.geomspace(1e-2, 1e3, 1001).round(5)
"""Factors that are tried; neighbors differ by 1.2 %."""

HEAD_HASH = "error_head_sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The factors for images of one kind with one amount of noise.

    Attributes
    ----------
    kind : fluorescence, satellite, ...; "" for a person's own images
    noise : "clean", "600 photons" (at the white level), ... or "as they are"
    images, clusters : how many images they are from, of how many sources
    factors : one for each of `LEVELS`, rising
    risks : the share of pixels beyond the enlarged half-width that was measured, mean
        over the images, for each of `LEVELS`
    certified : the highest of `LEVELS` that conformal risk control can promise with so
        many images; above it a factor holds on the average over these images only.
        0.0 where there is none
    """

    kind: str
    noise: str
    images: int
    clusters: int
    factors: tuple[float, ...]
    risks: tuple[float, ...]
    certified: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How much the half-widths of a model's error head have to be enlarged.

    Attributes
    ----------
    model_sha256 : hash of the weights it was made for
    error_head_sha256 : hash of the error head
    date : when it was made, year-month-day
    groups : the factors by kind of image and noise
    """

    model_sha256: str
    error_head_sha256: str
    date: str
    groups: tuple[Group, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of images that there are factors for."""
        return tuple(dict.fromkeys(group.kind for group in self.groups))

    def factor(self, level: float = DEFAULT_LEVEL, kind: str | None = None) -> float:
        """Return what half-widths have to be multiplied by.

        Parameters
        ----------
        level : float, optional
            Share of the pixels whose truth shall lie within the bar, 0.5 to 0.99;
            between two of `LEVELS` the higher one counts.
        kind : str, optional
            One of `kinds`; by default the worst one, so that it holds for all.

        Returns
        -------
        float
            The largest of the factors for each amount of noise.

        Raises
        ------
        OptionError
            If the level is out of range, or there is no such kind.
        """
        number = level_index(level)
        if kind is not None and kind not in self.kinds:
            raise OptionError(
                f"kind={kind!r} is not one that the model was calibrated for: "
                f"{', '.join(map(repr, self.kinds))}"
            )
        groups = [g for g in self.groups if kind in (None, g.kind)]
        return max(group.factors[number] for group in groups)

    def to_dict(self) -> dict[str, Any]:
        """Return what `trust.json` holds."""
        return {
            MODEL_HASH: self.model_sha256,
            HEAD_HASH: self.error_head_sha256,
            "date": self.date,
            "levels": list(LEVELS),
            "groups": [
                {name: getattr(group, name) for name in Group.__dataclass_fields__}
                for group in self.groups
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gives; ValueError, KeyError or TypeError if it is not."""
        if list(record["levels"]) != list(LEVELS):
            raise ValueError("other levels than 0.50, 0.51, ... 0.99")
        groups = []
        for values in record["groups"]:
            factors, risks = (
                tuple(float(x) for x in values[name]) for name in ("factors", "risks")
            )
            rising = all(a <= b for a, b in itertools.pairwise(factors))
            if len(factors) != len(LEVELS) or len(risks) != len(LEVELS):
                raise ValueError("not one factor and risk for each level")
            if not rising or not 0 < factors[0] <= factors[-1] < math.inf:
                raise ValueError("factors that do not rise, or are not positive")
            groups.append(Group(**{**values, "factors": factors, "risks": risks}))
        if not groups:
            raise ValueError("no groups")
        texts = (str(record[key]) for key in (MODEL_HASH, HEAD_HASH, "date"))
        model, head, date = texts
        return cls(
            model_sha256=model,
            error_head_sha256=head,
            date=date,
            groups=tuple(groups),
        )


def level_index(level: float) -> int:
    """Return which of `LEVELS` a level is, or the next higher one.

    Raises
    ------
    OptionError
        If it is not between 0.5 and 0.99.
    """
    usable = isinstance(level, (int, float)) and not isinstance(level, bool)
    if not usable or not LEVELS[0] <= level <= LEVELS[-1]:
        raise OptionError(
            f"level={level!r} is not a share of the pixels from {LEVELS[0]} to "
            f"{LEVELS[-1]}, such as {DEFAULT_LEVEL}"
        )
    return int(np.searchsorted(LEVELS, level - 1e-9))


def load_calibration(
    model: str | PathLike[str] | ResolvedModel = "default",
) -> Calibration:
    """Return the calibration of a model.

    Parameters
    ----------
    model : str, PathLike or ResolvedModel, optional
        A name, a model folder or a weights file.

    Raises
    ------
    WeightsError
        If the model has no error head or no calibration, or they were made for other
        weights.
    """
    found = model if isinstance(model, ResolvedModel) else resolve_model(model)
    make = (
        f"Make one from your own images: napari-swin2sr calibrate IMAGES --model "
        f"{found.name} -o FOLDER, then use --model FOLDER"
    )
    if found.error_head is None:
        path = found.path.with_name(ERROR_HEAD_NAME)
        reason = "it has no error head, so nothing tells how far its results may be off"
        if path.exists():
            reason = f"{path.name} beside it was made for other weights"
        raise WeightsError(found.name, reason, make)
    record = read_calibration(found.path)
    if record is None:
        reason = f"its error head is not calibrated: there is no {CALIBRATION_NAME}"
        raise WeightsError(found.name, reason, make)
    try:
        calibration = Calibration.from_dict(record)
    except (KeyError, TypeError, ValueError) as error:
        path = found.path.with_name(CALIBRATION_NAME)
        reason = f"it is no calibration ({type(error).__name__}: {error})"
        raise WeightsError(path, reason, MAKE_ANEW) from error
    head = found.error_head.sha256
    made_for = (calibration.model_sha256, calibration.error_head_sha256)
    if made_for != (found.sha256, head):
        other = "weights" if made_for[0] != found.sha256 else "error head"
        reason = f"{CALIBRATION_NAME} beside it was made for another {other}"
        raise WeightsError(found.name, reason.replace("another we", "other we"), make)
    return calibration


# -- making one ----------------------------------------------------------------------


def risk_curve(
    error: NDArray[np.floating], half_width: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the share of pixels beyond each of `FACTORS` times their half-width.

    Parameters
    ----------
    error : ndarray
        Differences to the truth, of any shape and sign.
    half_width : ndarray
        Of the same shape, 0 or more.
    """
    wide = np.maximum(half_width, np.finfo(np.float32).tiny)
    scores = np.sort(np.abs(error, dtype=np.float64).ravel() / wide.ravel())
    beyond = scores.size - np.searchsorted(scores, FACTORS, side="right")
    return np.asarray(beyond / scores.size, np.float64)


def calibrate_group(
    curves: Sequence[NDArray[np.float64]],
    clusters: Sequence[str],
    kind: str = "",
    noise: str = "as they are",
) -> Group:
    """Choose the factors for images of one kind.

    Parameters
    ----------
    curves : sequence of ndarray
        `risk_curve` of each image.
    clusters : sequence of str
        The source of each image.
    kind, noise : str, optional
        What to call them.
    """
    risks = np.stack(curves)
    n = len(risks)
    mean = risks.mean(0)
    names, members = np.unique(list(clusters), return_inverse=True)
    by_cluster = np.stack([risks[members == k].mean(0) for k in range(len(names))])
    plain = np.maximum(mean, by_cluster.mean(0))
    bound = np.maximum(plain, (n * mean + 1) / (n + 1))
    factors: list[float] = []
    measured: list[float] = []
    certified = 0.0
    for level in LEVELS:
        allowed = 1 - level + 1e-9
        if bound[-1] <= allowed:
            certified = level
            number = int(np.argmax(bound <= allowed))
        else:
            number = int(np.argmax(plain <= allowed))
            if factors:
                number = max(number, int(np.searchsorted(FACTORS, factors[-1])))
        factors.append(float(FACTORS[number]))
        measured.append(float(mean[number]))
    return Group(
        kind=kind,
        noise=noise,
        images=n,
        clusters=len(names),
        factors=tuple(factors),
        risks=tuple(round(x, 5) for x in measured),
        certified=certified,
    )
