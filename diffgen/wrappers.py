"""Around the denoiser: sliding windows over time, and latents that are held while the rest is drawn.

A wrapper takes a denoiser and gives one: (noised latents, step) -> clean estimate. In a plan's `wrappers` the first
stands next to the network. Windows: MultiDiffusion, 2302.08113, along time as in AnimateDiff-Evolved; wrapped around
the ends, every step elsewhere, they make a clip that has no beginning (Mobius, 2502.20307).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, get_args

import torch
from torch import Tensor

from diffgen.contracts import Denoiser, Latents, Step, Wrapper
from diffgen.errors import UsageError
from diffgen.path import mix

Weighting = Literal["pyramid", "flat", "linear"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
GOLDEN = (5**0.5 - 1) / 2  # multiples of it spread over a circle as evenly as any number's


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How a row of frames is divided into overlapping windows.

    Attributes:
        length: frames of a window; a row that is shorter is one window.
        overlap: frames that neighbours share, at least.
        weighting: how a window's frames count where several overlap: "pyramid" grows to its middle, "flat" is even,
            "linear" is even but for ramps over the overlap.
        loop: windows go on over the last frame to the first, from another place at every step.
        unit: windows begin and end at multiples of this.
    """

    length: int
    overlap: int
    weighting: Weighting = "pyramid"
    loop: bool = False
    unit: int = 1

    def __post_init__(self) -> None:
        if self.length < self.unit or self.length % self.unit:
            raise UsageError(f"a window's length must be a multiple of {self.unit} and above 0; got {self.length}")
        if not 0 <= self.overlap < self.length:
            raise UsageError(
                f"the overlap must be 0 to {self.length - 1} in windows of {self.length}; got {self.overlap}"
            )
        if self.weighting not in WEIGHTINGS:
            raise UsageError(f"window weights are {', '.join(WEIGHTINGS)}; got {self.weighting!r}")

    def over(self, frames: int, turn: int = 0) -> tuple[tuple[int, ...], ...]:
        """The frames of each window, for a row of `frames`; every frame is in one at least.

        Args:
            turn: the step's number; where windows loop, they begin elsewhere at each.
        """
        length = min(self.length, frames)
        stride = max((length - self.overlap) // self.unit, 1) * self.unit
        if self.loop:
            first = int(frames * (turn * GOLDEN % 1)) // self.unit * self.unit
            count = ceil(frames / stride) if length < frames else 1
            return tuple(tuple((first + k * stride + j) % frames for j in range(length)) for k in range(count))
        starts = [*range(0, frames - length, stride), frames - length]
        return tuple(tuple(range(start, start + length)) for start in starts)

    def weights(self, length: int) -> Tensor:
        """[length], above 0: how much each frame of a window counts."""
        edge = torch.arange(1, length + 1)
        edge = torch.minimum(edge, edge.flip(0)).float()
        if self.weighting == "flat":
            return torch.ones(length)
        return edge if self.weighting == "pyramid" else edge.clamp(max=min(self.overlap + 1, (length + 1) // 2))


def blend(
    x: Tensor, windows: Windows, change: Callable[[Tensor, tuple[int, ...]], Tensor], *, axis: int, turn: int = 0
) -> Tensor:
    """`change` applied to each window of `x` along `axis`, joined by weighted means.

    Args:
        change: (the window's part of x, its frames) -> a tensor of that part's shape.
    """
    total, weight = torch.zeros_like(x), torch.zeros(x.shape[axis], dtype=x.dtype, device=x.device)
    view = [-1 if k == axis % x.ndim else 1 for k in range(x.ndim)]
    for frames in windows.over(x.shape[axis], turn):
        index = torch.tensor(frames, device=x.device)
        share = windows.weights(len(frames)).to(x)
        total.index_add_(axis, index, change(x.index_select(axis, index), frames) * share.view(view))
        weight.index_add_(0, index, share)
    return total / weight.view(view)


def windowed(windows: Windows) -> Wrapper:
    """The denoiser sees a window of frames at a time, told by `Step.window`; the clean estimates are blended.

    Peak memory of the network is that of one window, whatever the length of the clip.
    """

    def wrapper(denoise: Denoiser) -> Denoiser:
        def slide(x: Latents, step: Step) -> Latents:
            rest = (slice(None), slice(None)) if step.window is None else step.window[1:]

            def one(part: Latents, frames: tuple[int, ...]) -> Latents:
                return denoise(part, replace(step, window=(frames, *rest)))

            return blend(x, windows, one, axis=2, turn=step.index)

        return slide

    return wrapper


def hold(clean: Tensor, kept: Latents) -> Wrapper:
    """The denoiser sees, and gives, `kept` wherever `clean` (bool, broadcasts) says that nothing is left to do.

    For networks that are told the time of each token.
    """

    def wrapper(denoise: Denoiser) -> Denoiser:
        def held(x: Latents, step: Step) -> Latents:
            return torch.where(clean, kept, denoise(torch.where(clean, kept, x), step))

        return held

    return wrapper


def clamp(mask: Tensor, kept: Latents, noise: Latents) -> Wrapper:
    """The denoiser sees `kept` under as much noise as the rest has, and gives `kept`, where `mask` is 1.

    For any network: it sees nothing unusual. RePaint (2201.09865), along time. Between 0 and 1 both are mixed.

    Args:
        mask: [1 or batch, 1, frames, height or 1, width or 1], 0..1.
        noise: what `kept` is noised with, all the way: the noise that the walk begins with.
    """

    def wrapper(denoise: Denoiser) -> Denoiser:
        def held(x: Latents, step: Step) -> Latents:
            seen = mix(kept, noise, step.alpha, step.sigma)
            x0 = denoise(torch.lerp(x, seen, mask.expand_as(x)), step)
            return torch.lerp(x0, kept.expand_as(x0), mask.expand_as(x0))

        return held

    return wrapper
