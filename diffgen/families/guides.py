"""Ways to join predictions that belong to one family: three branches, a scale for each expert, a scale that grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from diffgen.contracts import Branch, Conditioning, Guidance, Latents, Step
from diffgen.guidance import CFG


@dataclass(frozen=True, kw_only=True)
class EditGuidance:
    """InstructPix2Pix's guidance (2211.09800, eq. 3), by the words and by the picture to edit.

    blind + image_scale (negative - blind) + scale (positive - negative), where blind sees neither words nor picture.

    Attributes:
        scale: how far the picture follows the words; at 1 only the positive branch runs.
        image_scale: how far it stays with the picture.
    """

    scale: float = 7.5
    image_scale: float = 1.5
    space: Literal["output", "x0"] = "output"

    def fresh(self) -> EditGuidance:
        """Itself: it remembers nothing."""
        return self

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """All three branches, or the positive one alone."""
        positive = Branch(name="positive", cond=pos)
        if neg is None or neg.concat is None or self.scale == 1:
            return (positive,)
        blind = replace(neg, concat=torch.zeros_like(neg.concat))
        return positive, Branch(name="negative", cond=neg), Branch(name="blind", cond=blind)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        pos = preds["positive"]
        if "blind" not in preds:
            return pos
        neg, blind = preds["negative"], preds["blind"]
        return blind + self.image_scale * (neg - blind) + self.scale * (pos - neg)


@dataclass(frozen=True, kw_only=True)
class Staged:
    """One guidance for the noisy part of the walk and another one for the rest, as models with two experts want.

    Attributes:
        first, second: the two.
        until: the time, as the network is told it, below which `second` guides.
    """

    first: Guidance
    second: Guidance
    until: float

    @property
    def space(self) -> Literal["output", "x0"]:
        return self.first.space

    @property
    def scale(self) -> float:
        return self.second.scale if self.first.scale == 1 else self.first.scale

    def fresh(self) -> Staged:
        """A copy whose parts remember nothing."""
        return replace(self, first=self.first.fresh(), second=self.second.fresh())

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """Those of the guidance in charge at this step."""
        return self._at(step).branches(step, pos, neg)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        return self._at(step).combine(preds, step)

    def _at(self, step: Step) -> Guidance:
        return self.second if step.t < self.until else self.first


def staged(until: float, *, scale: float, scale_2: float | None = None, **settings: Any) -> Guidance:
    """Classifier-free guidance with `scale`, and from the time `until` on with `scale_2` where one is given."""
    first = CFG(scale=scale, **settings)
    if scale_2 is None or until <= 0:
        return first
    return Staged(first=first, second=CFG(scale=scale_2, **settings), until=until)


@dataclass(frozen=True, kw_only=True)
class CosineGuidance:
    """Classifier-free guidance as CogVideoX's authors run it with their second sampler: "dynamic" turns it on.

    The scale is then 1 + scale (1 - cos(pi ((n - t) / n)^5)) / 2 at the time t of n steps. They feed it the network's
    time, which goes up to 1000, where a share of the steps seems meant; so does every tool, and so does this.

    Attributes:
        base: what joins the branches, with the scale that the user set.
    """

    base: CFG

    @property
    def space(self) -> Literal["output", "x0"]:
        return self.base.space

    @property
    def scale(self) -> float:
        return self.base.scale

    def fresh(self) -> CosineGuidance:
        """A copy that remembers nothing."""
        return CosineGuidance(base=self.base.fresh())

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """Those of `base`."""
        return self.base.branches(step, pos, neg)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        # Whole times: the fifth power leaves nothing of a time that is only almost whole.
        share = (step.count - round(step.t)) / step.count
        now = 1 + self.base.scale * (1 - math.cos(math.pi * share**5)) / 2
        return replace(self.base, scale=now).combine(preds, step)


def cosine(*, dynamic: bool = False, **settings: Any) -> Guidance:
    """Classifier-free guidance, with a scale that changes over the walk where `dynamic` asks for it."""
    return CosineGuidance(base=CFG(**settings)) if dynamic else CFG(**settings)
