"""A guidance whose result keeps the norm of the positive branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from diffgen.contracts import Branch, Conditioning, Guidance, Latents, Step

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Renormed:
    """Another guidance, whose guided prediction is given the norm of the positive branch's.

    It keeps high scales from burning, as Lumina 2 and Qwen-Image were published; `rescale` is its cousin for a
    whole picture's standard deviation.

    Attributes:
        base: the guidance that is renormed.
        norm: the norms of a prediction, of a shape that broadcasts to it: by row, by patch ...
    """

    base: Guidance
    norm: Callable[[Latents], Tensor]

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

    def fresh(self) -> Renormed:
        """A copy for one run."""
        return replace(self, base=self.base.fresh())

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The branches of `base`."""
        return self.base.branches(step, pos, neg)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction; the positive one itself where `base` had nothing to join."""
        guided = self.base.combine(preds, step)
        return guided if len(preds) == 1 else guided * (self.norm(preds["positive"]) / self.norm(guided))
