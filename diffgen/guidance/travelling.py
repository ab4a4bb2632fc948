"""Guidance whose words change with time: each window of frames is told what holds at its middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from diffgen.contracts import Branch, Conditioning, Guidance, Latents, Step


def shares(times: Sequence[float], frames: Sequence[float]) -> Tensor:
    """[frames, times]: how much each of the prompts at `times` counts at each frame; rows sum to 1."""
    found = torch.zeros(len(frames), len(times))
    for row, frame in zip(found, frames, strict=True):
        after = next((k for k, time in enumerate(times) if time >= frame), len(times) - 1)
        before = after if after == 0 or times[after] <= frame or frame > times[-1] else after - 1
        part = 0.0 if after == before else (frame - times[before]) / (times[after] - times[before])
        row[before] += 1 - part
        row[after] += part
    return found


def mixed(states: Sequence[Conditioning], weights: Tensor) -> dict[str, Tensor]:
    """The text tensors of `states`, one for each frame: [batch, frames, ...]. Masks hold what any of the two holds."""

    def mix(name: str) -> Tensor:
        stack = torch.stack([state.text[name] for state in states], dim=1)
        used = weights.to(stack.device)
        if not stack.is_floating_point() or "mask" in name:
            return torch.stack([stack[:, row > 0].amax(1) for row in used], dim=1)
        return torch.einsum("ft,bt...->bf...", used.to(stack.dtype), stack)

    return {name: mix(name) for name in states[0].text}


@dataclass(frozen=True, kw_only=True)
class Travelling:
    """A guidance whose positive text is that of the middle of the window being predicted.

    Attributes:
        base: the guidance that is asked for the rest.
        texts: the positive text of each latent in time, with the frames second.
    """

    base: Guidance
    texts: Mapping[str, Tensor]
    _made: dict[tuple[int, int], Conditioning] = field(default_factory=dict, repr=False, compare=False)

    @property
    def space(self) -> Literal["output", "x0"]:
        return self.base.space

    @property
    def scale(self) -> float:
        return self.base.scale

    def fresh(self) -> Travelling:
        """A copy whose base remembers nothing."""
        return replace(self, base=self.base.fresh(), _made={})

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The base's branches at the window's middle."""
        frames = next(iter(self.texts.values())).shape[1]
        seen = range(frames) if step.window is None else step.window[0]
        places = range(frames)[seen] if isinstance(seen, slice) else seen
        middle = places[len(places) // 2]
        # Made once for each middle: the engine joins conditionings by identity, and keeps them.
        key = middle, id(pos)
        if key not in self._made:
            told = {name: tensor[:, middle] for name, tensor in self.texts.items()}
            self._made[key] = replace(pos, text=told)
        return self.base.branches(step, self._made[key], neg)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """As the base."""
        return self.base.combine(preds, step)
