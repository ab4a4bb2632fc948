"""Measures of clips, on clips whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from diffgen import clip_quality as quality
from diffgen.errors import UsageError
from diffgen.flow import flow, luma, warp


def texture(height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    soft = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width, 3)), (2, 2, 0))
    return ((soft - soft.min()) / (soft.max() - soft.min())).astype(np.float32)


def sliding(frames: int = 9, by: int = 2) -> np.ndarray:
    """A texture that moves `by` columns a frame, seen through a frame that stands still."""
    wide = texture(width=80 + by * frames)
    return np.stack([wide[:, k * by : k * by + 80] for k in range(frames)])


@pytest.mark.parametrize("moved", [(0, 1), (3, -2), (-5, 6)])
def test_flow_finds_a_shift(moved: tuple[int, int]) -> None:
    large = luma(texture(100, 120))
    first = large[10:74, 10:90]
    second = large[10 - moved[0] : 74 - moved[0], 10 - moved[1] : 90 - moved[1]]
    found = flow(first, second)[:, 12:-12, 12:-12]
    assert np.median(np.abs(found - np.array(moved)[:, None, None])) < 0.1


def test_warping_brings_the_next_frame_back() -> None:
    clip = sliding()
    there = flow(luma(clip[0]), luma(clip[1]))
    assert np.abs(warp(clip[1], there) - clip[0])[8:-8, 8:-8].mean() < 0.2 * np.abs(clip[1] - clip[0]).mean()


def test_steady_motion_has_little_error_and_a_cut_has_much() -> None:
    clip = sliding()
    errors, lengths = quality.warping(clip)
    assert np.mean(lengths) == pytest.approx(2, rel=0.15)
    cut = np.concatenate([clip[:4], np.stack([texture(seed=5)] * 4)])
    broken, _ = quality.warping(cut)
    assert broken[3] > 5 * max(errors)
    assert quality.join(broken, [4]) > 5 and quality.join(errors, [4]) == pytest.approx(1, abs=0.5)


def test_flicker_is_what_comes_and_goes() -> None:
    clip = sliding()
    fade = clip * np.linspace(1, 0.8, len(clip), dtype=np.float32)[:, None, None, None]
    jump = clip * np.where(np.arange(len(clip)) % 2, 0.9, 1).astype(np.float32)[:, None, None, None]
    still, faded, jumpy = (quality.flicker(part) for part in (clip, fade, jump))
    assert still is not None and faded is not None and jumpy is not None
    assert jumpy > 5 * faded and faded < 1.5 * still + 0.5


def test_a_loop_closes() -> None:
    turning = np.stack([np.roll(texture(), 2 * k, axis=1) for k in range(40)])
    assert quality.loop_closure(turning) == pytest.approx(1, abs=0.1)
    cut = quality.loop_closure(turning[:20])
    assert cut is not None and cut > 1.2


def test_drift_is_that_of_colours_not_of_content() -> None:
    moving = np.stack([np.roll(texture(), 8 * k, axis=1) for k in range(10)])
    redder = moving * 0.8
    redder[..., 0] += np.linspace(0, 0.15, 10, dtype=np.float32)[:, None, None]
    assert quality.drift(moving) == pytest.approx(0, abs=1e-3)
    drifted = quality.drift(redder)
    assert drifted is not None and drifted == pytest.approx(0.15 * 255 / 6**0.5, rel=0.1)


def test_seams_of_tiles_and_windows_are_found() -> None:
    clip = sliding() * 0.8
    assert quality.seam(clip, columns=[40], rows=[32], frames=[4]) == pytest.approx(1, abs=0.25)
    clip[:, :, 40:] += 0.2
    assert quality.seam(clip, columns=[40]) > 5


def test_all_of_them_at_once_and_what_is_no_clip() -> None:
    scores = quality.score(sliding(4), joins=[2], windows=[2])
    assert set(scores.known()) == {
        "frames", "flicker", "warping_error", "motion", "loop_closure", "drift", "join", "seam"
    }  # fmt: skip
    assert set(quality.score(sliding(1)).known()) == {"frames"}
    with pytest.raises(UsageError, match="shape"):
        quality.score(np.zeros((3, 3)))
    with pytest.raises(UsageError, match="floats in 0..1"):
        quality.score(sliding(2) * 255)
    with pytest.raises(UsageError, match="1 to 3; got 9"):
        quality.score(sliding(4), joins=[9])
