"""`Box`: a rectangle of pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """Rectangle [y0, y1) x [x0, x1) of pixels; which pixels, the owner says."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        """Rows in the box."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Columns in the box."""
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index of a (Y, X) array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def scaled(self, upscale: int) -> Box:
        """Return the same area on a grid that is `upscale` times as fine."""
        return Box(
            self.y0 * upscale, self.x0 * upscale, self.y1 * upscale, self.x1 * upscale
        )

    def shifted(self, dy: int, dx: int) -> Box:
        """Return the box moved by (dy, dx)."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def grown(self, margin: int) -> Box:
        """Return the box with `margin` more pixels on every side."""
        return Box(
            self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin
        )

    def intersect(self, other: Box) -> Box | None:
        """Return what both boxes share, or None when that is nothing."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Box(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None
