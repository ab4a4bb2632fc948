"""Clips to disk: whole or not at all, frame by frame, at exactly the size, length and rate that was asked.

`new_clip` takes frames as they come; `save_clip` takes them all. Nothing is rescaled, repeated or dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from diffgen.errors import UsageError, unknown
from diffgen.media.apng import ApngWriter
from diffgen.media.containers import Encoding as Encoding
from diffgen.media.containers import Shape, Sound, Writer
from diffgen.media.files import new_file, new_folder
from diffgen.media.gif import GifWriter
from diffgen.media.movie import CONTAINERS, MovieWriter, check_movie
from diffgen.media.pictures import to_pixels
from diffgen.media.rates import exact_rate
from diffgen.media.sequence import FolderWriter, ours
from diffgen.media.webp import WebpWriter

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

# By extension; "" is a folder of PNG files.
CLIP_FORMATS = {".mp4": "mp4", ".webm": "webm", ".gif": "gif", ".webp": "webp", ".apng": "apng", "": "png"}


class FrameHash:
    """SHA-256 over frames, uint8 [height, width, 3] row by row, in their order: what a replay is compared by."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, pixels: np.ndarray) -> None:
        """Adds a frame, or several [n, height, width, 3]; floats in 0..1 are rounded as they are for a file."""
        self._hash.update(to_pixels(pixels).tobytes())

    def hexdigest(self) -> str:
        """The hash of all frames so far."""
        return self._hash.hexdigest()


@dataclass
class NewClip:
    """A clip that is being written.

    Attributes:
        path: where it will be.
        shape: its size and rate; every frame must have that size.
        recipe: set before the end of the block, it is stored inside the file.
        notes: sentences on what the format could not keep; there after the block.
        count: frames so far.
    """

    path: Path
    shape: Shape
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()
    count: int = 0
    _writer: Writer = field(init=False, repr=False)

    def add(self, pixels: np.ndarray) -> None:
        """The next frame [height, width, 3], or several [n, height, width, 3]: uint8, or floats in 0..1.

        Raises:
            UsageError: a frame has another size.
            NumericalError: it holds NaN.
        """
        pixels = to_pixels(pixels)
        wanted = (self.shape.height, self.shape.width)
        if pixels.shape[-3:-1] != wanted or pixels.ndim not in (3, 4):
            sizes = [f"{size[1]}x{size[0]}" for size in (pixels.shape[-3:-1], wanted)]
            raise UsageError(f"a frame of {sizes[0]} cannot be added to {self.path}, a clip of {sizes[1]}")
        for frame in pixels if pixels.ndim == 4 else (pixels,):
            self._writer.add(frame)
            self.count += 1


@contextmanager
def new_clip(
    path: str | Path, *, width: int, height: int, fps: float | Fraction,
    encoding: Encoding = Encoding(), sound: Sound | None = None, overwrite: bool = False,  # noqa: B008 - frozen
) -> Iterator[NewClip]:  # fmt: skip
    """A clip to add frames to; it becomes `path` when the block ends, and vanishes when the block fails.

    The extension decides the format, see `CLIP_FORMATS`; a path without one becomes a folder of PNG files.
    `sound` is passed through to MP4 and WebM.

    Raises:
        FileTaken: the name is in use.
        UsageError: the format is unknown, its encoder is not installed, or the path cannot be written.
        DiffgenError: the disk is full.
    """
    path, shape = Path(path), Shape(width=width, height=height, fps=exact_rate(fps))
    check_format(path, encoding)
    clip = NewClip(path=path, shape=shape)
    with _opened(path, shape, encoding, overwrite) as writer:
        clip._writer = writer
        try:
            yield clip
            if clip.count == 0:
                raise UsageError(f"{path} was given no frames, so it was not written")
            clip.notes = _deaf(path, sound) + writer.finish(clip.recipe, sound)
        finally:
            writer.close()


def save_clip(
    path: str | Path, frames: Iterable[np.ndarray], *, fps: float | Fraction, recipe: Recipe | None = None,
    encoding: Encoding = Encoding(), sound: Sound | None = None, overwrite: bool = False,  # noqa: B008 - frozen
) -> NewClip:  # fmt: skip
    """Writes a clip of frames [height, width, 3], uint8 or floats in 0..1, one in memory at a time.

    Returns what was written: its path, shape, count and notes. Raises as `new_clip` and `NewClip.add`.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UsageError(f"{path} was given no frames, so it was not written")
    height, width = first.shape[:2]
    size = {"width": width, "height": height, "fps": fps}
    with new_clip(path, **size, encoding=encoding, sound=sound, overwrite=overwrite) as clip:
        clip.recipe = recipe
        clip.add(first)
        for frame in frames:
            clip.add(frame)
    return clip


def check_format(path: Path, encoding: Encoding = Encoding()) -> None:  # noqa: B008 - frozen
    """Fails now as `new_clip` would fail later: an unknown format, or an encoder that is not installed."""
    extension = path.suffix.lower()
    if extension not in CLIP_FORMATS:
        raise unknown("clip format", path.suffix, [*filter(None, CLIP_FORMATS), "a folder"])
    if not 1 <= encoding.quality <= 100:
        raise UsageError(f"the quality is 1 to 100; got {encoding.quality}")
    if extension in CONTAINERS:
        check_movie(extension, encoding)
    elif encoding.codec is not None or encoding.crf is not None or encoding.bitrate is not None:
        name = next(name for name in ("codec", "crf", "bitrate") if getattr(encoding, name) is not None)
        raise UsageError(f"{name} is for {' and '.join(CONTAINERS)}; {path.name} has none")


@contextmanager
def _opened(path: Path, shape: Shape, encoding: Encoding, overwrite: bool) -> Iterator[Writer]:
    extension = path.suffix.lower()
    if not extension:
        with new_folder(path, ours=ours, overwrite=overwrite) as folder:
            yield FolderWriter(folder, shape, encoding)
        return
    with new_file(path, overwrite=overwrite) as file:
        if extension in CONTAINERS:
            yield MovieWriter(file.name, extension, shape, encoding)
        elif extension == ".gif":
            yield GifWriter(file, shape, encoding, str(path.parent))
        elif extension == ".webp":
            yield WebpWriter(file, shape, encoding)
        else:
            yield ApngWriter(file, shape, encoding)


def _deaf(path: Path, sound: Sound | None) -> tuple[str, ...]:
    silent = sound is not None and path.suffix.lower() not in CONTAINERS
    return (f"{path.suffix or 'a folder of PNG files'} holds no sound; .mp4 and .webm do",) if silent else ()
