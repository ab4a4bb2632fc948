"""Sizes and lengths: what was asked, what a family can draw, and the cut from one to the other.

A picture has a size that the family draws exactly. A clip may have any: it is drawn at the next size and length that
the family can, then cut to what was asked, in the middle of the picture and from the first frame on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from diffgen.contracts import Family
from diffgen.errors import UsageError
from diffgen.media import exact_rate, exact_seconds, frames_in
from diffgen.media.rates import shown
from diffgen.recipe import Recipe

MOST_FRAMES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Box:
    """The part of a clip as it was drawn that was asked for, in pixels and frames."""

    left: int
    top: int
    width: int
    height: int
    frames: int

    def cut(self, pixels: Tensor) -> Tensor:
        """The part of pixels [..., height, width] that lies inside; frames are for the caller to count."""
        return pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]


def check_size(family: Family, width: int, height: int) -> None:
    """Refuses a size the family cannot draw, and names the nearest it can.

    Raises:
        UsageError: a side is not a positive multiple of `family.spec.multiple`.
    """
    unit = family.spec.multiple
    if width % unit == 0 and height % unit == 0 and min(width, height) >= unit:
        return
    near = "x".join(str(max(unit, round(side / unit) * unit)) for side in (width, height))
    raise UsageError(f"size {width}x{height} cannot be drawn; both sides must be multiples of {unit}, such as {near}")


def check_frames(family: Family, frames: int) -> None:
    """Refuses a number of frames that no clip can have. Others are drawn with the next number that the family can.

    Raises:
        UsageError: it is below 1, or above a million.
    """
    if not 1 <= frames <= MOST_FRAMES:
        raise UsageError(f"{frames} frames cannot be drawn; accepted: 1 to {MOST_FRAMES}")


def next_extent(family: Family, width: int, height: int, frames: int, *, loop: bool = False) -> tuple[int, int, int]:
    """The next (width, height, frames) that the family can draw. A `loop` keeps its frames: cutting would open it.

    Raises:
        UsageError: a side is below 1.
    """
    if min(width, height) < 1:
        raise UsageError(f"size {width}x{height} cannot be drawn; both sides must be at least 1")
    spec = family.spec
    unit = spec.frame_step or spec.frame_factor
    return _up(width, spec.multiple), _up(height, spec.multiple), frames if loop else _up(frames - 1, unit) + 1


def as_drawn(family: Family, recipe: Recipe) -> Recipe:
    """The recipe at the size and length that the family draws for it. A picture stays as it is."""
    if recipe.frames is None:
        return recipe
    asked = recipe.width or 0, recipe.height or 0, recipe.frames
    width, height, frames = next_extent(family, *asked, loop=bool(recipe.settings.get("loop")))
    return replace(recipe, width=width, height=height, frames=frames)


def box_of(asked: Recipe, drawn: Recipe) -> tuple[Box | None, tuple[str, ...]]:
    """Where in a clip as it is drawn lies what was asked for, and notes; None where it is the whole clip."""
    if asked.frames is None or drawn.frames is None:
        return None, ()
    sizes = (asked.width or 0, asked.height or 0), (drawn.width or 0, drawn.height or 0)
    names = [f"{width}x{height}" for width, height in sizes]
    notes = []
    if sizes[0] != sizes[1]:
        notes.append(f"drawn at {names[1]} and cropped in the middle to {names[0]}")
    if asked.frames != drawn.frames:
        notes.append(f"drawn with {drawn.frames} frames and trimmed to the first {asked.frames}")
    if not notes:
        return None, ()
    left, top = ((there - here) // 2 for here, there in zip(*sizes, strict=True))
    return Box(left=left, top=top, width=sizes[0][0], height=sizes[0][1], frames=asked.frames), tuple(notes)


def length_of(
    family: Family, *, frames: int | None = None, seconds: float | str | None = None, fps: float | str | None = None
) -> tuple[int, float, tuple[str, ...]]:
    """(frames, frames a second, notes) of a clip of which any two, one or none are given.

    What is left out is the family's own rate and length. Seconds that are no whole number of frames are rounded to
    the nearest, and a note says so. Common decimal spellings of NTSC rates become the exact rate.

    Raises:
        UsageError: a value is not above 0, or the three contradict each other.
    """
    if frames is not None and frames < 1:
        raise UsageError(f"frames must be at least 1; got {frames}")
    own = Fraction(family.spec.fps or 8).limit_denominator(1001)
    rate = None if fps is None else exact_rate(fps)
    if seconds is None:
        return frames or family.spec.frames, float(rate or own), ()
    length = exact_seconds(seconds)
    if frames is not None and rate is None:
        return frames, float(exact_rate(frames / length)), ()
    rate = rate or own
    count = frames_in(length, rate)
    if frames not in (None, count):
        raise UsageError(
            f"{seconds} s at {shown(rate)} frames a second are {count} frames, not {frames}; leave one out"
        )
    exact = length * rate
    said = f"{seconds} s at {shown(rate)} frames a second are {float(exact):.2f} frames; rounded to {count}"
    return count, float(rate), () if exact == count else (said,)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
