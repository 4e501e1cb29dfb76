"""Every error that this package raises on purpose.

None of them derives from `RuntimeError`: generator workers of GUI toolkits swallow
those, and a person would wait for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike


class Swin2SRError(Exception):
    """Base of all errors of this package; its text says what to do next."""


class InputError(Swin2SRError, ValueError):
    """The image cannot be processed as it is: shape, axes, dtype or content."""


class OptionError(Swin2SRError, ValueError):
    """An option has a value that is not allowed."""


class WeightsError(Swin2SRError):
    """A model cannot be found, downloaded, read or trusted.

    Parameters
    ----------
    path : path or str
        Path or name of the model.
    reason : str
        What is wrong with it.
    advice : str
        What to do about it.
    """

    def __init__(self, path: str | PathLike[str], reason: str, advice: str) -> None:
        super().__init__(path, reason, advice)
        self.path, self.reason, self.advice = path, reason, advice

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}. {self.advice}"


class MemoryLimitError(MemoryError, Swin2SRError):  # or it could not be unpickled
    """A tile does not fit in memory, even after splitting it."""


class InferenceError(Swin2SRError):
    """The network failed on a tile, or gave numbers that are not finite."""


class TilesFailedError(InferenceError):
    """Some tiles of a run are missing; the others are finished and kept.

    Parameters
    ----------
    message : str
        What to tell the user.
    failed : mapping of tuple to exception, optional
        Block index of each missing tile, and what happened to it.
    """

    def __init__(
        self,
        message: str,
        failed: Mapping[tuple[int, ...], BaseException] | None = None,
    ) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})


class FileError(Swin2SRError, OSError):
    """An image file cannot be read, or is not what it claims to be."""


class OutputError(Swin2SRError, OSError):
    """A result cannot be written, or must not be overwritten."""


class Cancelled(Swin2SRError):  # noqa: N818  (the word users know from futures)
    """The run was cancelled; what was finished is kept."""


class MissingDependencyError(Swin2SRError, ImportError):
    """An optional library is needed; the text names the extra that brings it."""


class CancelToken(Protocol):
    """What asks a run to end with `Cancelled`, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Tell whether the run should end; the tile in the network is given up."""


def check_cancel(cancel: CancelToken | None, what: str = "") -> None:
    """Raise `Cancelled` with a text if a run was asked to end."""
    if cancel is not None and cancel.is_set():
        raise Cancelled(f"cancelled{what}")
