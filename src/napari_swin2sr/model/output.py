"""What a forward pass returns: fields by name, by key or by position."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class Output:
    """Fields that are not None, also as a mapping and as a sequence.

    `output.name`, `output["name"]` and `output[0]` all work, as they do for the
    results of the models in transformers.
    """

    def keys(self) -> list[str]:
        """Return the names of the fields that are there, in order."""
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        return [name for name in names if getattr(self, name) is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are there, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class FeatureOutput(Output):
    """Result of `Swin2SRModel`.

    Parameters
    ----------
    last_hidden_state : (N, C, H, W) features that the reconstruction head takes
    hidden_states : (N, H * W, C) before the first and after each stage, if asked for
    attentions : (N * windows, heads, L, L) of each stage's last layer, if asked for
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SuperResolutionOutput(Output):
    """Result of `Swin2SRForImageSuperResolution`.

    Parameters
    ----------
    loss : mean absolute difference to the labels, if they were given
    reconstruction : (N, C, upscale * H, upscale * W), about 0 to 1, not clipped
    hidden_states, attentions : as in `FeatureOutput`
    auxiliary : (N, C, H, W) first guess of the `pixelshuffle_aux` head, input size
    """

    loss: Tensor | None = None
    reconstruction: Tensor = None  # type: ignore[assignment]  # always given
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    auxiliary: Tensor | None = None
