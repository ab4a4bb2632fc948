"""Animated PNG: lossless, with exact frame times.

Each frame is a PNG of its own, made by Pillow, whose pixel data is moved into the animation's chunks; of a frame
that differs from the one before only in a part, that part alone is stored. Source: PNG, third edition, sections
11.3.6 (acTL, fcTL, fdAT).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

from diffgen.media.containers import Encoding, Shape, Sound, changed

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST = 65535  # of a delay's numerator and denominator


class ApngWriter:
    """Implements `diffgen.media.containers.Writer` on an open file that can be sought in."""

    def __init__(self, file: BinaryIO, shape: Shape, encoding: Encoding) -> None:
        self.file, self.shape, self.count, self.chunks = file, shape, 0, 0
        self.previous: np.ndarray | None = None
        delay = 1 / shape.fps
        fits = max(delay.numerator, delay.denominator) <= _MOST
        self.delay = delay if fits else _nearest(delay)
        self.notes = () if fits else (f"APNG shows each frame for {float(self.delay):.6f} s, not {float(delay):.6f} s",)

    def add(self, pixels: np.ndarray) -> None:
        left, top, part = changed(self.previous, pixels)
        header, data = _encoded(part)
        if self.previous is None:
            self.file.write(SIGNATURE)
            self._chunk(b"IHDR", header)
            self.place = self.file.tell()
            self._chunk(b"acTL", struct.pack(">II", 0, 0))
        size = (part.shape[1], part.shape[0], left, top)
        # Neither disposed of nor blended: the part replaces what was there.
        control = struct.pack(">IIIIHHBB", *size, self.delay.numerator, self.delay.denominator, 0, 0)
        self._chunk(b"fcTL", struct.pack(">I", self._next()) + control)
        for block in data:
            if self.previous is None:
                self._chunk(b"IDAT", block)
            else:
                self._chunk(b"fdAT", struct.pack(">I", self._next()) + block)
        self.previous, self.count = pixels.copy(), self.count + 1

    def finish(self, recipe: Recipe | None, sound: Sound | None) -> tuple[str, ...]:
        for name, text in (("parameters", recipe.to_parameters()), ("diffgen", recipe.to_json())) if recipe else ():
            # Keyword, not compressed, no language, no translation; then UTF-8.
            self._chunk(b"iTXt", name.encode() + b"\0\0\0\0\0" + text.replace("\0", "").encode())
        self._chunk(b"IEND", b"")
        end = self.file.tell()
        self.file.seek(self.place)
        self._chunk(b"acTL", struct.pack(">II", self.count, 0))
        self.file.seek(end)
        return self.notes

    def close(self) -> None:
        self.previous = None

    def _next(self) -> int:
        self.chunks += 1
        return self.chunks - 1

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _nearest(delay: Fraction) -> Fraction:
    """The nearest delay that fits two numbers of 16 bits."""
    fitted = delay.limit_denominator(min(_MOST, max(1, int(_MOST / max(delay, Fraction(1))))))
    return min(max(fitted, Fraction(1, _MOST)), Fraction(_MOST))


def _encoded(pixels: np.ndarray) -> tuple[bytes, list[bytes]]:
    """(the IHDR chunk's data, the IDAT chunks' data) of a still."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png")
    found = list(chunks(buffer.getvalue()))
    return found[0][1], [data for kind, data in found if kind == b"IDAT"]


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of each chunk of a PNG file."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12
