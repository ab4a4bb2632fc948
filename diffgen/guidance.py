"""How predictions are combined. A guidance says which branches to run and how to join them.

Classifier-free guidance (2207.12598), its rescaling (2305.08891, section 3.4) and a limited interval
(2404.07724).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffgen.contracts import Branch, Conditioning, Guidance, Latents, Step
from diffgen.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CFG:
    """Classifier-free guidance: neg + scale (pos - neg), in the network's output space.

    With scale 1, without a negative, or outside the interval, only the positive branch runs.

    Attributes:
        scale: 1 is no guidance.
        rescale: 0 to 1; pulls the standard deviation of the result back to the positive branch's.
        start, stop: the part of the walk, in 0..1 of its steps, in which guidance is on.
    """

    scale: float = 7.5
    rescale: float = 0.0
    start: float = 0.0
    stop: float = 1.0
    space: Literal["output", "x0"] = "output"

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise UsageError(f"guidance rescale must be 0 to 1; got {self.rescale}")
        if not 0 <= self.start < self.stop <= 1:
            raise UsageError(
                f"the guidance interval must satisfy 0 <= start < stop <= 1; got {self.start} and {self.stop}"
            )

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The positive branch, and the negative one where it has an effect."""
        positive = Branch(name="positive", cond=pos)
        inside = self.start <= step.index / step.count < self.stop
        if neg is None or self.scale == 1 or not inside:
            return (positive,)
        return positive, Branch(name="negative", cond=neg)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        pos = preds["positive"]
        if "negative" not in preds:
            return pos
        neg = preds["negative"]
        guided = neg + self.scale * (pos - neg)
        return rescaled(guided, pos, self.rescale) if self.rescale else guided


def rescaled(guided: Latents, pos: Latents, amount: float) -> Latents:
    """`guided` with its standard deviation over each picture moved towards that of `pos` by `amount` in 0..1."""
    axes = list(range(1, pos.ndim))
    matched = guided * (pos.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return amount * matched + (1 - amount) * guided


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

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The branches of `base`."""
        return self.base.branches(step, pos, neg)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction; the positive one itself where `base` had nothing to join."""
        guided = self.base.combine(preds, step)
        return guided if len(preds) == 1 else guided * (self.norm(preds["positive"]) / self.norm(guided))
