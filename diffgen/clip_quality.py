"""How well the frames of a clip hang together, in numbers. Clips are float pixels [frames, height, width, 3] in 0..1.

| measure | what it is | good |
|---|---|---|
| flicker | mean absolute second difference of brightness over time, blurred over 8 x 8 pixels, in steps of 0..255 | 0 |
| warping error | RMS difference of a frame and the next one brought back along the motion, in steps of 0..255 | 0 |
| motion | mean length of the motion, in pixels a frame: a still clip has no errors | |
| loop closure | step from the last frame to the first, over the mean step between neighbours | 1 |
| drift | distance of colour means and deviations between the clip's two ends, in steps of 0..255 | 0 |
| join | warping error over a place where clips were joined, over that elsewhere | 1 |
| seam | mean step over the edges of tiles or windows, over the steps beside them | 1 |

Warping error: Lai et al., 1808.00449, with the occlusion test of `diffgen.flow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from diffgen.errors import UsageError
from diffgen.flow import flow, luma, visible, warp

LEVELS = 255.0


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The measures of the table above; None where the clip is too short or was not asked for it."""

    frames: int
    flicker: float | None = None
    warping_error: float | None = None
    motion: float | None = None
    loop_closure: float | None = None
    drift: float | None = None
    join: float | None = None
    seam: float | None = None

    def known(self) -> dict[str, float]:
        """The measures that were taken, rounded to four digits, as they are recorded with a clip."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items() if value is not None}


def score(
    clip: np.ndarray, *, joins: Sequence[int] = (), rows: Sequence[int] = (), columns: Sequence[int] = (),
    windows: Sequence[int] = (),
) -> ClipScores:  # fmt: skip
    """All the measures of a clip.

    Args:
        joins: numbers of the first frames behind a join.
        rows, columns: first pixel rows and columns behind the edge of a tile.
        windows: numbers of the first frames of a window.

    Raises:
        UsageError: the array is no clip, or a place lies outside it.
    """
    check(clip)
    errors, lengths = warping(clip)
    return ClipScores(
        frames=len(clip), flicker=flicker(clip), warping_error=_mean(errors), motion=_mean(lengths),
        loop_closure=loop_closure(clip), drift=drift(clip), join=join(errors, joins) if joins else None,
        seam=seam(clip, rows=rows, columns=columns, frames=windows) if (*rows, *columns, *windows) else None,
    )  # fmt: skip


def check(clip: np.ndarray) -> None:
    """Raises UsageError where the array is no clip of at least one frame with values in 0..1."""
    if clip.ndim != 4 or clip.shape[3] != 3 or clip.size == 0:
        raise UsageError(f"a clip is an array [frames, height, width, 3]; got the shape {list(clip.shape)}")
    if not np.issubdtype(clip.dtype, np.floating) or clip.min() < 0 or clip.max() > 1:
        raise UsageError("the values of a clip are floats in 0..1")


def flicker(clip: np.ndarray) -> float | None:
    """Change that is taken back in the next frame; steady motion and fades count little. None below 3 frames."""
    if len(clip) < 3:
        return None
    bright = np.stack([ndimage.uniform_filter(luma(frame), 8, mode="nearest") for frame in clip])
    return float(np.abs(bright[:-2] - 2 * bright[1:-1] + bright[2:]).mean() / 2 * LEVELS)


def warping(clip: np.ndarray) -> tuple[list[float], list[float]]:
    """(warping error, length of the motion) from each frame to the next."""
    bright = [luma(frame) for frame in clip]
    errors, lengths = [], []
    for k, (one, two) in enumerate(pairwise(bright)):
        there, back = flow(one, two), flow(two, one)
        seen = visible(there, back)
        # Where nothing is seen twice, as at a cut, all of it counts.
        seen = seen if seen.mean() > 0.05 else np.ones_like(seen)
        left = (warp(clip[k + 1], there) - clip[k])[seen]
        errors.append(float(np.sqrt((left**2).mean()) * LEVELS))
        lengths.append(float(np.sqrt((there**2).sum(0))[seen].mean()))
    return errors, lengths


def loop_closure(clip: np.ndarray) -> float | None:
    """How the step from the last frame to the first compares with the others. None below 3 frames."""
    if len(clip) < 3:
        return None
    steps = [float(np.sqrt(((b - a) ** 2).mean())) for a, b in pairwise(clip)]
    around = float(np.sqrt(((clip[0] - clip[-1]) ** 2).mean()))
    return around / max(float(np.mean(steps)), 1 / LEVELS / 100)


def drift(clip: np.ndarray, *, share: float = 0.125) -> float | None:
    """How far colours have moved from the first `share` of the frames to the last. None below 2 frames."""
    if len(clip) < 2:
        return None
    count = max(int(len(clip) * share), 1)
    return apart(clip[:count], clip[-count:])


def apart(one: np.ndarray, two: np.ndarray) -> float:
    """The distance of two stretches by mean and standard deviation of each colour, in steps of 0..255."""
    looks = [np.concatenate([part.mean((0, 1, 2)), part.std((0, 1, 2))]) for part in (one, two)]
    return float(np.sqrt(((looks[1] - looks[0]) ** 2).mean()) * LEVELS)


def join(errors: Sequence[float], joins: Sequence[int]) -> float:
    """The mean warping error over the joins, over the mean elsewhere.

    Args:
        errors: from `warping`.
        joins: numbers of the first frames behind a join.

    Raises:
        UsageError: a join lies outside the clip.
    """
    _inside("join", joins, len(errors) + 1)
    over = [errors[place - 1] for place in joins]
    inside = [error for k, error in enumerate(errors) if k + 1 not in joins]
    return float(np.mean(over) / max(np.mean(inside) if inside else 0.0, 1e-3))


def seam(
    clip: np.ndarray, *, rows: Sequence[int] = (), columns: Sequence[int] = (), frames: Sequence[int] = ()
) -> float:
    """The mean step over the edges, over the mean step between the two lines on each side of them.

    Raises:
        UsageError: an edge lies outside the clip.
    """
    over, beside = [], []
    for axis, places in ((0, frames), (1, rows), (2, columns)):
        _inside("seam", places, clip.shape[axis])
        steps = np.abs(np.diff(clip, axis=axis)).mean(tuple(k for k in range(4) if k != axis))
        for place in places:
            over.append(steps[place - 1])
            beside += [steps[k] for k in (place - 2, place) if 0 <= k < len(steps) and k + 1 not in places]
    return float(np.mean(over) / max(np.mean(beside) if beside else 0.0, 1e-6))


def _inside(what: str, places: Sequence[int], count: int) -> None:
    for place in places:
        if not 0 < place < count:
            raise UsageError(f"a {what} lies between two lines of {count}: 1 to {count - 1}; got {place}")


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
