"""Joining a stretch of frames to the clip that it goes on from, and keeping its colours from drifting."""

from __future__ import annotations

import numpy as np

SHARE = 0.125  # of a clip's frames: its beginning, whose colours are the measure


def continued(clip: np.ndarray, drawn: np.ndarray, overlap: int, *, anchored: bool = True) -> np.ndarray:
    """The clip and what follows it, [frames, height, width, 3] in 0..1.

    Args:
        clip: all frames so far.
        drawn: the next stretch; its first `overlap` frames show the clip's last ones again.
        anchored: bring colours to those of the frames shown twice, then to those of the clip's beginning.
    """
    new = drawn
    if anchored:
        new = matched(new, looks(drawn[:overlap]), looks(clip[-overlap:]))
        first = clip[: max(int(len(clip) * SHARE), 1)]
        # Step by step, so that the first new frame still fits the last old one.
        ramp = np.clip(np.arange(1 - overlap, len(new) - overlap + 1) / max(overlap, 1), 0, 1)[:, None, None, None]
        new = new + ramp.astype(np.float32) * (matched(new, looks(new[overlap:]), looks(first)) - new)
    # Held frames come back through the autoencoder: a cross-fade hides what that changed.
    part = (np.arange(1, overlap + 1) / (overlap + 1)).astype(np.float32)[:, None, None, None]
    seam = clip[-overlap:] * (1 - part) + new[:overlap] * part
    return np.concatenate([clip[:-overlap], seam, new[overlap:]]).clip(0, 1).astype(np.float32)


def looks(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of each colour, [3]."""
    return frames.mean((0, 1, 2)), frames.std((0, 1, 2))


def matched(
    frames: np.ndarray, own: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The frames with the colours of looks `own` brought to `wanted` (Reinhard et al. 2001, in RGB)."""
    gain = np.clip(wanted[1] / np.maximum(own[1], 1e-3), 0.5, 2)
    return ((frames - own[0]) * gain + wanted[0]).astype(np.float32)
