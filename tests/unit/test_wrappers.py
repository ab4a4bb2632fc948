"""Windows over time, and latents that are held: what a denoiser sees, and what comes back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffgen.conditioning import Conditioning
from diffgen.contracts import Step
from diffgen.errors import UsageError
from diffgen.path import FlowPath, mix
from diffgen.wrappers import WEIGHTINGS, Windows, blend, clamp, hold, windowed

STEP = Step.between(FlowPath(), 0.7, 0.5, index=3, count=9)


@given(
    st.integers(1, 60), st.integers(1, 20), st.integers(0, 19), st.sampled_from(WEIGHTINGS), st.booleans(),
    st.integers(0, 50),
)  # fmt: skip
def test_every_frame_is_in_a_window_and_nothing_is_added(
    frames: int, length: int, overlap: int, weighting: str, loop: bool, turn: int
) -> None:
    windows = Windows(length=length, overlap=min(overlap, length - 1), weighting=weighting, loop=loop)  # type: ignore[arg-type]
    seen = windows.over(frames, turn)
    assert {frame for window in seen for frame in window} == set(range(frames))
    assert all(len(set(window)) == len(window) == min(length, frames) for window in seen)
    if not loop:
        assert all(window == tuple(range(window[0], window[0] + len(window))) for window in seen)
    x = torch.randn(2, frames, 3, generator=torch.Generator().manual_seed(frames))
    same = blend(x, windows, lambda part, _: part, axis=1, turn=turn)
    assert torch.allclose(same, x, atol=1e-5)


@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 30))
def test_windows_keep_to_the_unit(units: int, length: int, overlap: int, turn: int) -> None:
    for loop in (False, True):
        windows = Windows(length=2 * length, overlap=min(overlap, 2 * length - 1), unit=2, loop=loop)
        for window in windows.over(2 * units, turn):
            assert window[0] % 2 == 0 and len(window) % 2 == 0


def test_weights_are_those_of_the_published_schemes() -> None:
    def weights(length: int, **options: object) -> list[float]:
        return Windows(length=length, overlap=2, **options).weights(length).tolist()  # type: ignore[arg-type]

    assert weights(6) == [1, 2, 3, 3, 2, 1] and weights(5) == [1, 2, 3, 2, 1]
    assert weights(6, weighting="flat") == [1] * 6
    assert weights(8, weighting="linear") == [1, 2, 3, 3, 3, 3, 2, 1]


def test_loops_begin_elsewhere_at_every_step() -> None:
    windows = Windows(length=16, overlap=4, loop=True)
    starts = [windows.over(16, turn)[0][0] for turn in range(12)]
    assert len(set(starts)) == 12
    assert any(window[-1] < window[0] for window in Windows(length=4, overlap=2, loop=True).over(12, 1))


def test_the_denoiser_is_told_its_window_and_estimates_are_blended() -> None:
    seen = []

    def denoise(x: torch.Tensor, step: Step) -> torch.Tensor:
        assert step.window is not None
        seen.append(step.window[0])
        return torch.full_like(x, float(len(seen)))

    out = windowed(Windows(length=4, overlap=2, weighting="flat"))(denoise)(torch.zeros(1, 1, 6, 1, 1), STEP)
    assert seen == [(0, 1, 2, 3), (2, 3, 4, 5)]
    assert out.flatten().tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_a_held_part_is_given_back_and_seen_under_the_noise_of_the_step() -> None:
    kept, noise, x = torch.full((1, 2, 4, 1, 1), 5.0), torch.ones(1, 2, 4, 1, 1), torch.zeros(1, 2, 4, 1, 1)
    mask = torch.tensor([1.0, 0.5, 0, 0]).view(1, 1, 4, 1, 1)
    shown: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, step: Step) -> torch.Tensor:
        shown.append(x)
        return torch.zeros_like(x)

    out = clamp(mask, kept, noise)(denoise)(x, STEP)
    level = float(mix(torch.tensor(5.0), torch.tensor(1.0), STEP.alpha, STEP.sigma))
    assert shown[0][0, 0].flatten().tolist() == pytest.approx([level, level / 2, 0, 0])
    assert out[0, 0].flatten().tolist() == [5, 2.5, 0, 0]
    clean = hold(mask >= 1, kept)(denoise)(x, STEP)
    assert shown[1][0, 0, 0] == 5 and clean[0, 0].flatten().tolist() == [5, 0, 0, 0]


def test_the_conditioning_is_cut_to_the_window() -> None:
    frames = torch.arange(5.0).view(1, 1, 5, 1, 1)
    told = torch.arange(5.0).view(1, 5, 1, 1)
    cond = Conditioning(
        text={"hidden": told}, concat=frames.expand(1, 2, 5, 4, 4), clean=frames, extra={"kept": frames, "fps": told[0]}
    )
    part = cond.within(((4, 0, 1), slice(0, 2), slice(None)))
    assert part.concat is not None and part.concat.shape == (1, 2, 3, 2, 4)
    assert part.clean is not None and part.clean.flatten().tolist() == [4, 0, 1]
    assert part.text["hidden"].flatten().tolist() == [4, 0, 1]
    assert part.extra["fps"].shape == told[0].shape
    whole = Conditioning(text={"hidden": torch.zeros(1, 77, 8)})
    assert whole.within(((0,), slice(None), slice(None))).text["hidden"].shape == (1, 77, 8)


@pytest.mark.parametrize(
    "options", [{"length": 0, "overlap": 0}, {"length": 4, "overlap": 4}, {"length": 3, "overlap": 0, "unit": 2}]
)
def test_windows_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Windows(**options)
