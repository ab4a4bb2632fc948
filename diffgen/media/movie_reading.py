"""MP4, WebM and other movies from disk, through PyAV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.errors import UsageError
from diffgen.media.containers import ClipInfo, Frame
from diffgen.media.movie import library
from diffgen.media.rates import exact_rate

if TYPE_CHECKING:
    import numpy as np

MOVIES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v")
PICTURES = (".gif", ".webp", ".apng", ".png", ".jpg", ".jpeg")
_OURS = '{"diffgen_recipe"'
_SD = 720  # lines; below it, what names no colours is BT.601


def is_movie(path: Path) -> bool:
    """Whether a file is for PyAV: by its extension, or by an MP4's or Matroska's first bytes."""
    if path.suffix.lower() in MOVIES:
        return True
    if path.suffix.lower() in PICTURES or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" or start[:4] == b"\x1a\x45\xdf\xa3"


def movie_info(path: Path) -> ClipInfo:
    """What the movie says of itself; its first frame is decoded, which alone tells whether it lies on its side.

    Raises:
        UsageError: it cannot be read, or shows nothing.
    """
    with _opened(path) as (container, stream):
        context, first = stream.codec_context, next(_decoded(path, container, stream), None)
        if first is None:
            raise UsageError(f"{path} holds no frames")
        width, height = (stream.width, stream.height)[:: -1 if first.rotation % 180 else 1]
        # VP9 is "libvpx-vp9" to one decoder and "vp9" to another; the codec's own name is the same for all.
        return ClipInfo(
            width=width, height=height, fps=_rate(path, stream), frames=stream.frames or None,
            codec=context.codec.canonical_name, pixel_format=context.pix_fmt or "",
            sound=bool(container.streams.audio),
        )  # fmt: skip


def movie_frames(path: Path) -> Iterator[Frame]:
    """The frames one by one, with the exact times that the container holds, counted from the first frame.

    Matroska counts in milliseconds; a time within one of where the stated rate puts it is taken to be there.

    Raises:
        UsageError: it cannot be read, or is damaged or cut off.
    """
    with _opened(path) as (container, stream):
        rate, coarse = _rate(path, stream), stream.time_base is not None and stream.time_base >= Fraction(1, 1000)
        begin: Fraction | None = None
        count = 0
        for frame in _decoded(path, container, stream):
            time = count / rate if frame.pts is None else Fraction(frame.pts) * frame.time_base
            begin = time if begin is None else begin
            time, due = time - begin, Fraction(round((time - begin) * rate)) / rate
            count += 1
            yield Frame(time=due if coarse and abs(time - due) <= Fraction(1, 1000) else time, pixels=_upright(frame))
        if count < stream.frames:
            raise UsageError(f"{path} is damaged or cut off: {count} of {stream.frames} frames can be read")
        if not count:
            raise UsageError(f"{path} holds no frames")


def movie_texts(path: Path) -> dict[str, str]:
    """The texts in a movie under the names they have in a PNG: `diffgen`, `parameters`, ComfyUI's `prompt`, `workflow`.

    Raises:
        UsageError: it cannot be read.
    """
    with _opened(path) as (container, _):
        found = {key.lower(): value for key, value in container.metadata.items()}
    comment, texts = found.get("comment", ""), {}
    if comment.startswith(_OURS):
        texts["diffgen"] = comment
    elif comment.lstrip().startswith("{"):
        texts |= _graphs(comment)
    elif comment:
        texts["Comment"] = comment
    if found.get("description"):
        texts["parameters"] = found["description"]
    return texts


def _graphs(comment: str) -> dict[str, str]:
    """What ComfyUI's video nodes write: its graphs as JSON, or as JSON in a text."""
    try:
        tables = json.loads(comment)
    except ValueError:
        return {"Comment": comment}
    return {
        key: tables[key] if isinstance(tables[key], str) else json.dumps(tables[key])
        for key in ("prompt", "workflow")
        if key in tables
    }


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(the container, its first video stream)."""
    av = library(path.suffix or str(path))
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} is not a clip that can be read: {reason}") from error
    with container:
        # A cover picture counts as a video stream too.
        streams = [one for one in container.streams.video if not one.disposition & one.disposition.attached_pic]
        if not streams:
            raise UsageError(f"{path} holds no moving pictures")
        yield container, streams[0]


def _decoded(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    av = library(path.suffix or str(path))
    stream.thread_type = "AUTO"
    try:
        yield from container.decode(stream)
    except (av.FFmpegError, OSError) as error:
        raise UsageError(f"{path} is damaged or cut off: {error.strerror or error}") from error


def _rate(path: Path, stream: Any) -> Fraction:
    found = stream.average_rate or stream.guessed_rate or stream.base_rate
    if not found:
        raise UsageError(f"{path} does not say how many frames a second it has")
    return exact_rate(Fraction(found))


def _upright(frame: Any) -> np.ndarray:
    import numpy as np

    # 2 is "unspecified" in ITU-T H.273; players then go by the size.
    named = int(frame.colorspace) not in (0, 2)
    guess = None if named else (5 if frame.height < _SD else 1)
    pixels = frame.reformat(format="rgb24", src_colorspace=guess).to_ndarray()
    # Phones store clips on their side and say so.
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
