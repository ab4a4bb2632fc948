"""From latents to pixels: one picture, or a clip piece by piece, with the guard against NaN and blank results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffgen.contracts import Family, Latents
from diffgen.errors import NumericalError
from diffgen.families.common import in_float32
from diffgen.families.decoding import InPieces, Piece
from diffgen.media import FrameHash
from diffgen.pipelines.extent import Box

BLANK = 1e-3  # standard deviation over all pixels, in 0..1; a plain white card with one dot has more
DAMAGED = "the autoencoder gave NaN in float32 too; its weights are damaged"


def decode(family: Family, z: Latents) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels [frames, height, width, 3] in 0..1 of one picture's latents, and notes on what had to be done.

    Raises:
        NumericalError: the decoder gives NaN in float32 too.
    """
    decoding = Decoding(family=family, z=z)
    pieces = list(decoding)
    return np.concatenate(pieces), decoding.notes


def to_unit(pixels: Tensor) -> Tensor:
    """Pixels in about -1..1 to 0..1, clipped."""
    return (pixels / 2 + 0.5).clamp(0, 1)


@dataclass
class Decoding:
    """The frames of one clip's latents [1, channels, frames, h, w]: iterate once, then read what became of them.

    Gives float32 arrays [n, height, width, 3] in 0..1, cut to `box` and ended where it ends.

    Attributes:
        notes: what had to be done.
        seam: the largest difference of two tiles where they were blended, root mean square in 0..1; None where the
            family needs no tiles.
        sha256: of the frames as 8 bits a colour, see `diffgen.media.FrameHash`.
    """

    family: Family
    z: Latents
    box: Box | None = None
    notes: tuple[str, ...] = ()
    seam: float | None = None
    sha256: str = ""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises NumericalError where the decoder gives NaN in float32 too."""
        seen, done, hashed = _Spread(), 0, FrameHash()
        most = self.box.frames if self.box else None
        for pixels in self._finite():
            if self.box:
                pixels = self.box.cut(pixels)[:, :, : (most or 0) - done]
            unit = to_unit(pixels)[0].permute(1, 2, 3, 0).cpu().numpy()
            seen.add(unit)
            hashed.add(unit)
            done += len(unit)
            yield unit
            if done == most:
                break
        self.sha256 = hashed.hexdigest()
        if seen.deviation() < BLANK:
            self.notes += ("the picture is blank",)

    def _finite(self) -> Iterator[Tensor]:
        """The decoded pieces; from the first that holds NaN on, decoded again in float32."""
        done = 0
        for piece in self._pieces():
            if not bool(torch.isfinite(piece.pixels).all()):
                break
            done += piece.pixels.shape[2]
            yield piece.pixels
        else:
            return
        self.notes += ("decoding: NaN, retried with the autoencoder in float32",)
        with in_float32("vae")(self.family.components):
            # From the beginning, since a piece may need what the autoencoder remembers of those before it.
            for piece in self._pieces():
                if not bool(torch.isfinite(piece.pixels).all()):
                    raise NumericalError(DAMAGED)
                skipped = min(done, piece.pixels.shape[2])
                done -= skipped
                if skipped < piece.pixels.shape[2]:
                    yield piece.pixels[:, :, skipped:]

    def _pieces(self) -> Iterator[Piece]:
        with torch.inference_mode():
            if isinstance(self.family, InPieces) and self.z.shape[2] > 1:
                pieces = self.family.decode_pieces(self.z)
            else:
                pieces = iter([Piece(pixels=self.family.decode(self.z))])
        while True:
            # Not around the yield: the mode belongs to the thread, and would leak into the caller.
            with torch.inference_mode():
                piece = next(pieces, None)
            if piece is None:
                return
            if piece.seam is not None:
                self.seam = max(self.seam or 0.0, piece.seam / 2)
            yield piece


class _Spread:
    """The standard deviation of numbers that come in pieces."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, numbers: np.ndarray) -> None:
        self.count += numbers.size
        self.total += float(numbers.sum(dtype=np.float64))
        self.squares += float(np.square(numbers, dtype=np.float64).sum())

    def deviation(self) -> float:
        mean = self.total / max(self.count, 1)
        return float(max(self.squares / max(self.count, 1) - mean * mean, 0.0) ** 0.5)
