"""Sizes and lengths a family can draw, and the nearest ones to name where it cannot."""

from __future__ import annotations

from diffgen.contracts import Family
from diffgen.errors import UsageError


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
    """Refuses a number of frames the family cannot draw, and names the nearest it can.

    Raises:
        UsageError: it is not `frame_step` * k + 1 of `family.spec`. More than `most_frames` are drawn in windows.
    """
    unit = family.spec.frame_step or family.spec.frame_factor
    if frames < 1:
        raise UsageError(f"{frames} frames cannot be drawn; {family.name} draws 1 or more")
    if (frames - 1) % unit:
        below = (frames - 1) // unit * unit + 1
        raise UsageError(
            f"{frames} frames cannot be drawn; {family.name} draws {unit} k + 1 frames, "
            f"such as {below} or {below + unit}"
        )
