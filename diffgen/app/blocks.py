"""A picture drawn with characters: each cell is an upper half block, so it shows two pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style


def cells_for(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """(columns, rows) at most as many as given, for a picture of this shape. A cell is twice as high as wide."""
    scale = min(columns / width, 2 * rows / height)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))


class HalfBlocks:
    """A rich renderable of uint8 pixels [height, width, 3], made to fit `columns` and `rows` of a terminal."""

    def __init__(self, pixels: np.ndarray, columns: int, rows: int) -> None:
        from PIL import Image

        height, width = pixels.shape[:2]
        self.columns, self.rows = cells_for(width, height, columns, rows)
        image = Image.fromarray(pixels)
        kind = Image.Resampling.BICUBIC if self.columns > width else Image.Resampling.BOX
        self.pixels = np.asarray(image.resize((self.columns, 2 * self.rows), kind))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in range(self.rows):
            yield from self._line(self.pixels[2 * row], self.pixels[2 * row + 1])
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.columns, self.columns)

    def _line(self, upper: np.ndarray, lower: np.ndarray) -> Iterator[Segment]:
        # Neighbours of one colour become one segment: plain backgrounds are most of a picture.
        start, pairs = 0, np.concatenate([upper, lower], axis=1)
        for end in range(1, self.columns + 1):
            if end == self.columns or (pairs[end] != pairs[start]).any():
                top, bottom = (Color.from_rgb(*map(int, half)) for half in (pairs[start, :3], pairs[start, 3:]))
                yield Segment("▀" * (end - start), Style(color=top, bgcolor=bottom))
                start = end
