"""GIF with one palette fitted to the whole clip.

A palette a frame flickers, and a fixed one bands. So the frames wait on the disk while colours are counted, and are
written at the end: median cut over pixels of every frame, then k-means, then Floyd-Steinberg dithering.
Source: GIF89a specification; the pixel coder is Pillow's.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO

from diffgen.media.containers import Encoding, Shape, Sound, changed
from diffgen.media.rates import ticks

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

CLOCK = 100  # a GIF counts in hundredths of a second
FASTEST = 50  # frames a second; browsers slow down what is faster
COLOURS = 256
SAMPLE = 1 << 21  # bytes of pixels that the palette is fitted to


class GifWriter:
    """Implements `diffgen.media.containers.Writer`; `folder` holds the waiting frames, in a file without a name."""

    def __init__(self, file: BinaryIO, shape: Shape, encoding: Encoding, folder: str) -> None:
        self.file, self.shape, self.count = file, shape, 0
        self.waiting = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`

    def add(self, pixels: np.ndarray) -> None:
        self.waiting.write(pixels.tobytes())
        self.count += 1

    def finish(self, recipe: Recipe | None, sound: Sound | None) -> tuple[str, ...]:
        from PIL import GifImagePlugin

        palette = self._palette()
        durations = ticks(self.count, self.shape.fps, CLOCK)
        previous = None
        for k, duration in enumerate(durations):
            image = _quantised(self._frame(k), palette)
            indices = _indices(image)
            if previous is None:
                info: dict[str, Any] = {"optimize": False, "loop": 0, "duration": 10 * duration}
                if recipe:
                    info["comment"] = recipe.to_json().encode()
                self.file.write(b"".join(GifImagePlugin.getheader(image.copy(), info=info)[0]))
            left, top, part = changed(previous, indices)
            box = (left, top, left + part.shape[1], top + part.shape[0])
            coded = GifImagePlugin.getdata(image.crop(box), box[:2], duration=10 * duration, optimize=False)
            self.file.write(b"".join(coded))
            previous = indices
        self.file.write(b";")
        return self._notes()

    def close(self) -> None:
        self.waiting.close()

    def _notes(self) -> tuple[str, ...]:
        if self.shape.fps > FASTEST:
            return (f"GIF players show at most {FASTEST} frames a second; this one will play slower",)
        exact = (CLOCK / self.shape.fps).denominator == 1
        return () if exact else ("GIF counts in hundredths of a second, so frames last unequally; the length is right",)

    def _frame(self, k: int) -> np.ndarray:
        import numpy as np

        size = self.shape.width * self.shape.height * 3
        self.waiting.seek(k * size)
        return np.frombuffer(self.waiting.read(size), np.uint8).reshape(self.shape.height, self.shape.width, 3)

    def _palette(self) -> Any:
        """A Pillow picture with the palette: fitted to evenly spread pixels of every frame."""
        import numpy as np
        from PIL import Image

        every = max(1, -(-self.count * self.shape.width * self.shape.height * 3 // SAMPLE))
        # Each frame begins one pixel later, so that over the clip no column is left out.
        seen = [self._frame(k).reshape(-1, 3)[k % every :: every] for k in range(self.count)]
        pixels = np.concatenate(seen)
        return Image.fromarray(pixels[None]).quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=2)


def _quantised(pixels: np.ndarray, palette: Any) -> Any:
    from PIL import Image

    return Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _indices(image: Any) -> np.ndarray:
    import numpy as np

    return np.asarray(image)[..., None]
