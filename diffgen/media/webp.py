"""Animated WebP: each frame a WebP still made by Pillow, put into the animation's chunks as it comes.

Writing the container here, and not through Pillow's own animations, keeps one frame in memory instead of all of
them, and keeps every frame: the library leaves out those that do not change. Source: RFC 9649, sections 2.5 and 2.7.
"""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

from diffgen.errors import UsageError
from diffgen.media import exif
from diffgen.media.containers import Encoding, Shape, Sound, changed

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

MOST_SIDE = 16383
_EXIF, _ANIMATION = 0x08, 0x02
_REPLACE = 0x02  # do not blend with what was there


class WebpWriter:
    """Implements `diffgen.media.containers.Writer` on an open file that can be sought in."""

    def __init__(self, file: BinaryIO, shape: Shape, encoding: Encoding) -> None:
        if max(shape.width, shape.height) > MOST_SIDE:
            raise UsageError(f"WebP is at most {MOST_SIDE} pixels a side; got {shape.width}x{shape.height}")
        self.file, self.shape, self.encoding, self.count = file, shape, encoding, 0
        self.previous: np.ndarray | None = None
        self._header(0, with_exif=False)

    def add(self, pixels: np.ndarray) -> None:
        from PIL import Image

        left, top, part = changed(self.previous, pixels)
        still = io.BytesIO()
        quality, lossless = self.encoding.quality, self.encoding.lossless
        Image.fromarray(part.copy()).save(still, "webp", quality=quality, lossless=lossless, method=4)
        until, now = (round(Fraction(self.count + k) * 1000 / self.shape.fps) for k in (1, 0))
        numbers = (left // 2, top // 2, part.shape[1] - 1, part.shape[0] - 1, max(1, until - now))
        place = b"".join(number.to_bytes(3, "little") for number in numbers)
        self._chunk(b"ANMF", place + bytes([_REPLACE]) + _image_chunks(still.getvalue()))
        self.previous, self.count = pixels.copy(), self.count + 1

    def finish(self, recipe: Recipe | None, sound: Sound | None) -> tuple[str, ...]:
        if recipe:
            # Without the "Exif" mark that stands before it in a JPEG.
            self._chunk(b"EXIF", exif.encode(recipe).removeprefix(b"Exif\0\0"))
        end = self.file.tell()
        self.file.seek(0)
        self._header(end - 8, with_exif=recipe is not None)
        self.file.seek(end)
        exact = (1000 / self.shape.fps).denominator == 1
        return () if exact else ("WebP counts in whole milliseconds, so frames last unequally; the length is right",)

    def close(self) -> None:
        self.previous = None

    def _header(self, size: int, *, with_exif: bool) -> None:
        self.file.write(b"RIFF" + struct.pack("<I", size) + b"WEBP")
        sides = b"".join((side - 1).to_bytes(3, "little") for side in (self.shape.width, self.shape.height))
        self._chunk(b"VP8X", bytes([_ANIMATION | _EXIF * with_exif, 0, 0, 0]) + sides)
        # A white background, which nothing shows, and no end to the repetitions.
        self._chunk(b"ANIM", b"\xff\xff\xff\xff\0\0")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


def _image_chunks(still: bytes) -> bytes:
    """The chunks that hold the picture of a still WebP file, without the file's own headers."""
    at, kept = 12, b""
    while at + 8 <= len(still):
        length = struct.unpack_from("<I", still, at + 4)[0]
        whole = 8 + length + length % 2
        if still[at : at + 4] in (b"VP8 ", b"VP8L", b"ALPH"):
            kept += still[at : at + whole]
        at += whole
    return kept
