"""Frame rates and lengths as exact fractions: 23.976 frames a second is 24000/1001, and so it stands in the file."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

from diffgen.errors import UsageError

MOST = 1000  # frames a second; above it every container's clock is too coarse
# NTSC slowed these down by 1000/1001; people type them with two or three decimals.
_SLOWED = tuple(Fraction(1000 * whole, 1001) for whole in (24, 30, 48, 60, 120))
_NEAR = 0.005
_LARGEST = 100_000  # of a rate's denominator


def exact_rate(rate: float | str | Fraction) -> Fraction:
    """Frames a second as a fraction.

    "24000/1001" is taken as it stands; 23.976, 23.98, 29.97, 59.94 and 119.88 are the NTSC rates they stand for.

    >>> exact_rate(23.976), exact_rate("12.5")
    (Fraction(24000, 1001), Fraction(25, 2))

    Raises:
        UsageError: it is no number, or not above 0 and at most 1000.
    """
    wanted = f"frames a second are a number above 0 and at most {MOST}, such as 24, 23.976 or 24000/1001"
    try:
        found = Fraction(str(rate))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{wanted}; got {str(rate)!r}") from error
    if not 0 < found <= MOST:
        raise UsageError(f"{wanted}; got {rate}")
    slowed = next((one for one in _SLOWED if abs(found - one) < _NEAR), None)
    return slowed or max(found.limit_denominator(_LARGEST), Fraction(1, _LARGEST))


def exact_seconds(seconds: float | str | Fraction) -> Fraction:
    """A length in seconds as a fraction, so that 0.1 s is a tenth.

    Raises:
        UsageError: it is no number above 0.
    """
    try:
        found = Fraction(str(seconds))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"seconds are a number above 0, such as 2 or 0.5; got {str(seconds)!r}") from error
    if found <= 0:
        raise UsageError(f"seconds must be above 0; got {seconds}")
    return found


def frames_in(seconds: Fraction, rate: Fraction) -> int:
    """The whole number of frames nearest to that length, at least 1; halves are rounded up.

    >>> frames_in(Fraction(2), exact_rate(23.976))
    48
    """
    return max(1, math.floor(seconds * rate + Fraction(1, 2)))


def ticks(count: int, rate: Fraction, clock: int) -> list[int]:
    """How long each frame is shown, in units of 1/`clock` s, for formats that count in whole units.

    The rounding is carried on, so that the last frame ends within half a unit of where it should, and each frame
    gets at least one unit.
    """
    ends = [round(Fraction(k) * clock / rate) for k in range(count + 1)]
    return [max(1, late - early) for early, late in pairwise(ends)]


def shown(rate: Fraction) -> str:
    """A rate for people: "24", "23.976", "12.5"."""
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")
