"""Where each pixel of one frame went in the next: dense optical flow in numpy and scipy.

Iterative Lucas-Kanade on a pyramid (Lucas and Kanade 1981; dense, with warping, as Le Besnerais and Champagnat 2005).
Good for measuring how well frames hang together; for editing there are stronger methods.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SMALLEST = 16  # pixels of the shorter side at the top of the pyramid


def luma(frames: np.ndarray) -> np.ndarray:
    """Brightness [..., height, width] of colours [..., height, width, 3], by BT.601."""
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def flow(first: np.ndarray, second: np.ndarray, *, radius: int = 4, rounds: int = 5) -> np.ndarray:
    """Displacements [2, height, width] in pixels, rows first: first[p] is near second[p + flow[p]].

    Args:
        first, second: brightness [height, width] in 0..1.
        radius: of the square around each pixel whose motion is taken for one.
        rounds: times that each level's estimate is improved.
    """
    levels = [(first, second)]
    while min(levels[-1][0].shape) >= 2 * SMALLEST:
        levels.append(tuple(_halved(frame) for frame in levels[-1]))  # type: ignore[arg-type]
    found = np.zeros((2, *levels[-1][0].shape), np.float32)
    for one, two in reversed(levels):
        found = _to_shape(found, one.shape)
        for _ in range(rounds):
            found = _improved(one, two, found, radius)
    return found


def warp(frame: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """`frame` [height, width] or [height, width, channels], fetched from where `motion` says each pixel went."""
    places = np.indices(motion.shape[1:], dtype=np.float32) + motion
    if frame.ndim == 3:
        return np.stack([warp(frame[..., k], motion) for k in range(frame.shape[2])], axis=-1)
    return ndimage.map_coordinates(frame, places, order=1, mode="nearest")


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """[height, width] bool: pixels of the first frame that the second shows too.

    There and back must end near the start (Sundaram, Brox and Keutzer 2010, eq. 5, in pixels).
    """
    back = np.stack([warp(part, forward) for part in backward])
    apart = ((forward + back) ** 2).sum(0)
    inside = _inside(forward)
    return inside & (apart < 0.01 * ((forward**2).sum(0) + (back**2).sum(0)) + 0.5)


def _inside(motion: np.ndarray) -> np.ndarray:
    height, width = motion.shape[1:]
    rows, columns = np.indices((height, width), dtype=np.float32) + motion
    inside: np.ndarray = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    return inside


def _halved(frame: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(frame, 1.0)[::2, ::2]


def _to_shape(motion: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if motion.shape[1:] == shape:
        return motion
    rows, columns = (np.minimum(np.arange(n) / 2, (n - 1) // 2) for n in shape)
    places = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([2 * ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in motion])


def _improved(first: np.ndarray, second: np.ndarray, motion: np.ndarray, radius: int) -> np.ndarray:
    """One round: the least-squares motion of each square, of what the estimate so far leaves."""
    moved = warp(second, motion)
    by_row, by_column = np.gradient((first + moved) / 2)
    left = first - moved

    def near(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")

    # A little weight on no motion, where a square has no texture to tell.
    rr, cc, rc = near(by_row**2) + 1e-5, near(by_column**2) + 1e-5, near(by_row * by_column)
    rt, ct = near(by_row * left), near(by_column * left)
    determinant = rr * cc - rc * rc
    step = np.stack([(cc * rt - rc * ct) / determinant, (rr * ct - rc * rt) / determinant])
    better = motion + np.clip(step, -radius, radius)
    return np.stack([ndimage.median_filter(part, 3, mode="nearest") for part in better]).astype(np.float32)
