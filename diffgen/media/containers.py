"""The seam between clips and their containers: what all writers are told, and what all readers give.

| format | container | frame times | recipe |
|---|---|---|---|
| .mp4 | H.264, H.265 or AV1 by PyAV | exact | metadata `comment` |
| .webm | VP9 or AV1 by PyAV | whole milliseconds, the rate beside them exact | tag `COMMENT` |
| .gif | `diffgen.media.gif` | hundredths of a second | comment extension |
| .webp | `diffgen.media.webp` | whole milliseconds | EXIF ImageDescription |
| .apng | `diffgen.media.apng` | exact | iTXt chunk `diffgen` |
| a folder | PNG files and recipe.json | in recipe.json | recipe.json |
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The audio track of another clip.

    Attributes:
        path: the clip it is taken from.
        start: seconds of that clip at which the track begins.
    """

    path: Path
    start: Fraction = Fraction(0)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a clip is written. What a format has no use for is ignored there.

    Attributes:
        codec: "h264", "h265", "av1" or "vp9"; None is the container's own.
        crf: constant quality, lower is better; None is the codec's default here.
        bitrate: bits a second instead of constant quality.
        quality: 1 to 100, of WebP.
        lossless: of WebP.
    """

    codec: str | None = None
    crf: int | None = None
    bitrate: int | None = None
    quality: int = 90
    lossless: bool = False


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is known of a clip before its first frame: pixels, and frames a second."""

    width: int
    height: int
    fps: Fraction


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame that was read: its `time` in seconds from the first one, and uint8 pixels [height, width, 3]."""

    time: Fraction
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What a clip says of itself.

    Attributes:
        width, height: pixels, upright.
        fps: frames a second, on average where they last unequally.
        frames: their number; None where only decoding would tell.
        codec, pixel_format: of a movie, as FFmpeg names them.
        sound: there is an audio track.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    codec: str = ""
    pixel_format: str = ""
    sound: bool = False


class Writer(Protocol):
    """Takes frames one by one and writes a container. Nothing is kept of a frame after `add`."""

    def add(self, pixels: np.ndarray) -> None:
        """The next frame, uint8 [height, width, 3]."""

    def finish(self, recipe: Recipe | None, sound: Sound | None) -> tuple[str, ...]:
        """Writes what belongs at the end, and gives notes on what the format could not keep."""

    def close(self) -> None:
        """Lets go of everything, finished or not."""


def changed(previous: np.ndarray | None, pixels: np.ndarray) -> tuple[int, int, np.ndarray]:
    """(left, top, part) of the smallest rectangle that differs, at even places; one corner where nothing does."""
    import numpy as np

    if previous is None:
        return 0, 0, pixels
    differs = (previous != pixels).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return 0, 0, pixels[:1, :1]
    # WebP can only name even places.
    top, left = int(rows[0]) // 2 * 2, int(columns[0]) // 2 * 2
    return left, top, pixels[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
