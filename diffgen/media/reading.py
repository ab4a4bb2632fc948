"""Clips from disk: frames with their exact times, upright, as uint8 RGB, whatever the container.

Movies through PyAV (`diffgen.media.movie_reading`); GIF, WebP and APNG through Pillow; folders of PNG files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.errors import UsageError
from diffgen.media.containers import ClipInfo, Frame, Sound
from diffgen.media.movie_reading import is_movie, movie_frames, movie_info
from diffgen.media.pictures import load_image, open_image, to_pixels
from diffgen.media.rates import exact_rate
from diffgen.media.sequence import read_about

if TYPE_CHECKING:
    import numpy as np

MOST_FRAMES = 100_000
UNKNOWN_RATE = Fraction(8)  # of pictures that say nothing of time
_FINEST = 65_535  # of an APNG's fractions of a second
_UNSHOWN = Fraction(1, 10)  # s; how long browsers show a frame whose duration is 0


@dataclass(frozen=True, kw_only=True)
class LoadedClip:
    """A clip in memory.

    Attributes:
        pixels: uint8 [frames, height, width, 3].
        times: of each frame, in seconds from the first one.
        fps: frames a second, on average where they last unequally.
        sound: its audio track, as `diffgen.media.new_clip` takes it; None where it is silent.
    """

    path: Path
    pixels: np.ndarray
    times: tuple[Fraction, ...]
    fps: Fraction
    sound: Sound | None


def clip_info(path: str | Path) -> ClipInfo:
    """What the clip says of itself.

    Raises:
        UsageError: it is missing, no clip, or damaged.
    """
    path = _existing(path)
    if path.is_dir():
        files = _files(path)
        with open_image(files[0]) as image:
            return ClipInfo(
                width=image.width, height=image.height, fps=read_about(path)[0] or UNKNOWN_RATE, frames=len(files)
            )
    if is_movie(path):
        return movie_info(path)
    durations = [frame.time for frame in _animation(path, timed=True)]
    with open_image(path) as image:
        fps = exact_rate(len(durations) / sum(durations, Fraction(0)))
        return ClipInfo(width=image.width, height=image.height, fps=fps, frames=len(durations))


def read_frames(path: str | Path) -> Iterator[Frame]:
    """The frames one by one; only one is in memory.

    Raises:
        UsageError: the clip is missing, no clip, damaged, or its frames have several sizes.
    """
    path = _existing(path)
    size: tuple[int, ...] | None = None
    frames = _folder(path) if path.is_dir() else movie_frames(path) if is_movie(path) else _timed(path)
    for frame in frames:
        size = size or frame.pixels.shape
        if frame.pixels.shape != size:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (size, frame.pixels.shape)]
            raise UsageError(f"{path} has frames of {sizes[0]} and of {sizes[1]}; a clip has one size")
        yield frame


def load_clip(path: str | Path, *, most: int = MOST_FRAMES) -> LoadedClip:
    """The whole clip in memory.

    Raises:
        UsageError: as `read_frames`; or it has more than `most` frames.
    """
    import numpy as np

    frames: list[Frame] = []
    for frame in read_frames(path):
        if len(frames) == most:
            raise UsageError(f"{path} has more than {most} frames, which is as many as are taken")
        frames.append(frame)
    info = clip_info(path)
    return LoadedClip(
        path=Path(path), pixels=np.stack([frame.pixels for frame in frames]),
        times=tuple(frame.time for frame in frames), fps=info.fps,
        sound=Sound(path=Path(path)) if info.sound else None,
    )  # fmt: skip


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    return path


def _files(folder: Path) -> list[Path]:
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() == ".png")
    if not files:
        raise UsageError(f"the folder {folder} holds no PNG files, so it is no clip")
    return files


def _folder(folder: Path) -> Iterator[Frame]:
    rate = read_about(folder)[0] or UNKNOWN_RATE
    for k, file in enumerate(_files(folder)):
        yield Frame(time=k / rate, pixels=to_pixels(load_image(file)))


def _timed(path: Path) -> Iterator[Frame]:
    """The frames of an animation at their times."""
    begin = Fraction(0)
    for frame in _animation(path):
        yield Frame(time=begin, pixels=frame.pixels)
        begin += frame.time


def _animation(path: Path, *, timed: bool = False) -> Iterator[Frame]:
    """Each frame with its duration in the place of its time; `timed` alone leaves out the pixels."""
    import numpy as np

    with open_image(path) as image:
        for k in range(getattr(image, "n_frames", 1)):
            try:
                image.seek(k)
                image.load()
                pixels = np.zeros((0, 0, 3), np.uint8) if timed else _flat(image)
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise UsageError(f"{path} is damaged or cut off at frame {k + 1}: {error}") from error
            shown = Fraction(image.info.get("duration") or 0) / 1000
            yield Frame(time=shown.limit_denominator(_FINEST) or _UNSHOWN, pixels=pixels)


def _flat(image: Any) -> np.ndarray:
    """uint8 RGB of the frame in view, its transparent parts white."""
    import numpy as np
    from PIL import Image

    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    above = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB"))
