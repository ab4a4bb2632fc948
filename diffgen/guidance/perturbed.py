"""Guidance away from a weakened copy of the model itself: one more branch, run under a patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from diffgen.contracts import Branch, Conditioning, Guidance, Latents, Patch, Step
from diffgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """`base` plus weight (positive - weakened), where the weakened branch is the positive one under `patch`.

    Which patch makes the method: identity self-attention is perturbed-attention guidance (PAG, 2403.17377), mean
    queries are smoothed-energy guidance (SEG, 2408.00760), left-out blocks are skip-layer guidance (SLG, as published
    with SD 3.5). AutoGuidance (2406.02507), weak + w (positive - weak), is weight w - 1 over a base of scale 1, with
    another network's forward or a thinned one. Several compose by being each other's base; what they add is summed,
    after all that the innermost base does.

    Attributes:
        base: the guidance that it adds to.
        name: of the branch; unique among those that compose.
        weight: 0 adds nothing and runs nothing.
        patch: what weakens the denoiser.
        start, stop: the part of the walk, in 0..1 of its steps, in which it is on.
    """

    base: Guidance
    name: str
    weight: float
    patch: Patch
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise UsageError(f"the interval of {self.name} must satisfy 0 <= start < stop <= 1; "
                             f"got {self.start} and {self.stop}")  # fmt: skip

    @property
    def space(self) -> Literal["output", "x0"]:
        return self.base.space

    @property
    def scale(self) -> float:
        return self.base.scale

    @property
    def saved(self) -> int:
        """As of `base`."""
        return int(getattr(self.base, "saved", 0))

    def fresh(self) -> Perturbed:
        """A copy for one run."""
        return replace(self, base=self.base.fresh())

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The branches of `base`, and the weakened one."""
        own = self.base.branches(step, pos, neg)
        if self.weight == 0 or not self.start <= step.index / step.count < self.stop:
            return own
        return *own, Branch(name=self.name, cond=pos, patch=self.patch)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        if self.name not in preds:
            return self.base.combine(preds, step)
        rest = {name: pred for name, pred in preds.items() if name != self.name}
        return self.base.combine(rest, step) + self.weight * (preds["positive"] - preds[self.name])
