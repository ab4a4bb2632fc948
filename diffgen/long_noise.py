"""Starting noise for clips longer than a model's window, so that far apart frames belong together.

FreeNoise, 2310.15169: only the first window's noise is new. Each later stretch is the noise of the stretch one window
before it, in another order. So every window holds nearly the same noise, and the scene stays; the order differs,
so the motion does not repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from diffgen import noise
from diffgen.contracts import Latents
from diffgen.errors import unknown

LongNoise = Literal["shuffled", "repeated", "fresh"]
KINDS: tuple[LongNoise, ...] = get_args(LongNoise)


def first(
    seeds: Sequence[int], shape: Sequence[int], *, length: int, stride: int, kind: LongNoise = "shuffled",
    order: str = noise.AXES, skip: Sequence[int] | None = None, device: torch.device | str = "cpu",
) -> Latents:  # fmt: skip
    """The starting noise of each seed, its first `length` frames as `noise.sequence` draws them.

    Args:
        shape: [batch, channels, frames, height, width].
        length: frames of a window.
        stride: frames from one window to the next; stretches of so many frames are shuffled.
        kind: "shuffled", "repeated" (the first window over and over) or "fresh" (nothing is repeated).
        skip: noise of this shape has been drawn from each seed before.

    Raises:
        UsageError: the kind is unknown.
    """
    if kind not in KINDS:
        raise unknown("noise for long clips", kind, KINDS)
    gens = noise.generators(seeds)
    if skip is not None:
        noise.draw(gens, skip)
    # All frames are drawn, as the reference implementation does, though most are overwritten.
    drawn = noise.draw(gens, shape, order)
    if kind == "shuffled":
        for row, gen in zip(drawn, gens, strict=True):
            _reschedule(row, length, stride, gen)
    elif kind == "repeated":
        drawn = drawn[:, :, torch.arange(shape[2]) % length]
    return drawn.to(device)


def reordered(noise_: Latents, seeds: Sequence[int], turn: int) -> Latents:
    """The same noise with its frames in another order: what a clip goes on with, `turn` frames later.

    Args:
        noise_: [batch, channels, frames, height, width], a row a seed.
    """
    rows = []
    for row, seed in zip(noise_, seeds, strict=True):
        gen = noise.generators([(seed + turn) % 2**63])[0]
        rows.append(row[:, torch.randperm(row.shape[1], generator=gen).to(row.device)])
    return torch.stack(rows)


def _reschedule(row: Latents, length: int, stride: int, gen: torch.Generator) -> None:
    """Fills `row` [channels, frames, height, width] behind its first `length` frames, in place."""
    frames = row.shape[1]
    for start in range(length, frames, stride):
        source = torch.arange(start - length, min(frames, start - length + stride))
        order = source[torch.randperm(len(source), generator=gen)]
        stop = min(frames, start + len(source))
        row[:, start:stop] = row[:, order[: stop - start]]
