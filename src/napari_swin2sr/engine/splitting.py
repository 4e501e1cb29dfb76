"""Ever smaller ways to run a batch of tiles that all give the same pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_swin2sr.tiles.plan import TilePlan, plan_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to run a batch: so many tiles at once, each in these pieces."""

    batch: int
    plan: TilePlan

    @property
    def piece_shape(self) -> tuple[int, int]:
        """Height and width of the largest piece, context included [input px]."""
        rows, columns = self.plan.grid_shape
        heights = (self.plan.tile_at(i, 0).read.height for i in range(rows))
        widths = (self.plan.tile_at(0, j).read.width for j in range(columns))
        return max(heights), max(widths)

    @property
    def pixels(self) -> int:
        """Pixels in the largest single forward."""
        height, width = self.piece_shape
        return self.batch * height * width


def cuts(
    n: int, shape: tuple[int, int], *, window: int, halo: int, upscale: int
) -> Iterator[Cut]:
    """Yield ever smaller ways to run n tiles of one shape.

    First fewer tiles at once, then pieces on the window grid with the exact halo:
    nothing farther away than that can change a pixel.
    """
    pixels = float("inf")
    side = max(shape)
    for batch, core in [
        *((batch, side) for batch in _halvings(n, 1)),
        *((1, core) for core in _halvings(side, window)),
    ]:
        plan = plan_tiles(
            shape,
            core=core,
            halo=halo,
            multiple_of=window,
            upscale=upscale,
            padded=True,
        )
        cut = Cut(batch, plan)
        if cut.pixels < pixels:
            pixels = cut.pixels
            yield cut


def _halvings(start: int, unit: int) -> Iterator[int]:
    """Yield `start`, then half of it and so on, rounded up to `unit`, down to it."""
    yield start
    while start > unit:
        start = -(-start // (2 * unit)) * unit
        yield start
