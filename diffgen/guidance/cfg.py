"""Classifier-free guidance and its relatives: one negative branch, one of several formulas, and when to use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

from diffgen.conditioning import cut
from diffgen.contracts import Branch, Conditioning, Latents, Step
from diffgen.errors import UsageError, unknown
from diffgen.guidance.pushes import PUSHES, check


@dataclass(frozen=True, kw_only=True)
class CFG:
    """A positive branch pushed away from a negative one.

    With scale 1, without a negative, or outside the interval, only the positive branch runs, and the result is its
    prediction to the bit. The order is: push (scaled by region), threshold, rescale, converged pictures left alone.

    Attributes:
        scale: 1 is no guidance.
        method: the formula, one of `PUSHES`.
        tuning: the formula's own settings.
        rescale: 0 to 1; pulls the standard deviation of the result back to the positive branch's (2305.08891, 3.4).
        percentile: below 1, values beyond this percentile of a picture's size are clipped and scaled back
            (dynamic thresholding, 2205.11487, 2.3), in x0 space.
        start, stop: the part of the walk, in 0..1 of its steps, in which guidance is on (2404.07724).
        converged: below 1, the negative branch is left out for good once the cosine between both predictions
            reaches this (adaptive guidance, 2312.12487).
        within: the space the formula works in; None is the formula's own.
        region: 0 to 1, a share of the push for each place, of a shape that broadcasts to the latents
            [batch, channels, frames, height, width]: for each picture, frame, latent (a transformer's tokens are
            patches of them) or channel. The scale there is 1 + region (scale - 1).
        memory: what a formula remembers within one run; `fresh` empties it.
    """

    scale: float = 7.5
    method: str = "cfg"
    tuning: Mapping[str, Any] = field(default_factory=dict)
    rescale: float = 0.0
    percentile: float = 1.0
    start: float = 0.0
    stop: float = 1.0
    converged: float = 1.0
    within: Literal["output", "x0"] | None = None
    region: Latents | None = field(default=None, compare=False, repr=False)
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in PUSHES:
            raise unknown("guidance method", self.method, PUSHES)
        check(self.method, self.tuning)
        for name in ("rescale", "percentile", "converged"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"guidance {name} must be 0 to 1; got {getattr(self, name)}")
        if not 0 <= self.start < self.stop <= 1:
            raise UsageError(
                f"the guidance interval must satisfy 0 <= start < stop <= 1; got {self.start} and {self.stop}"
            )

    @cached_property
    def _push(self) -> Callable[..., Latents]:
        return PUSHES[self.method].function

    @property
    def space(self) -> Literal["output", "x0"]:
        """What `combine` joins."""
        own = "x0" if self.percentile < 1 else PUSHES[self.method].space
        return self.within or cast(Literal["output", "x0"], own)

    def fresh(self) -> CFG:
        """A copy that remembers nothing, for one run."""
        return replace(self, memory={})

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The positive branch, and the negative one where it has an effect."""
        kept: tuple[Branch, ...] = self.memory.get("branches", ())
        if not kept or kept[0].cond is not pos or kept[1].cond is not (neg or pos):
            # The same objects at every step, by which the engine sees that nothing has changed.
            kept = Branch(name="positive", cond=pos), Branch(name="negative", cond=neg or pos)
            self.memory["branches"] = kept
        inside = self.start <= step.index / step.count < self.stop
        if neg is None or self.scale == 1 or not inside:
            return kept[:1]
        if self.memory.get("all converged"):
            self.memory["saved"] = self.saved + 1
            return kept[:1]
        return kept

    @property
    def saved(self) -> int:
        """Predictions of the negative branch that `converged` has spared in this run."""
        return int(self.memory.get("saved", 0))

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        pos = preds["positive"]
        if "negative" not in preds:
            return pos
        neg = preds["negative"]
        self.memory["index"] = step.index
        scale = self.scale if self.region is None else 1 + cut(self.region, step.window) * (self.scale - 1)
        guided = self._push(pos, neg, scale, self.memory, **self.tuning)
        if self.percentile < 1:
            guided = thresholded(guided, pos, self.percentile)
        guided = rescaled(guided, pos, self.rescale) if self.rescale else guided
        return self._where_needed(guided, pos, neg) if self.converged < 1 else guided

    def _where_needed(self, guided: Latents, pos: Latents, neg: Latents) -> Latents:
        """`guided`, but `pos` for the pictures that had converged before: each as if it were alone."""
        import torch

        nothing = torch.zeros(pos.shape[0], dtype=torch.bool, device=pos.device)
        done = self.memory.get("converged", nothing)
        alike = torch.nn.functional.cosine_similarity(pos.flatten(1), neg.flatten(1)) >= self.converged
        self.memory["converged"] = done | alike
        self.memory["all converged"] = bool(self.memory["converged"].all())
        return torch.where(done.reshape(-1, *[1] * (pos.ndim - 1)), pos, guided)


def rescaled(guided: Latents, pos: Latents, amount: float) -> Latents:
    """`guided` with its standard deviation over each picture moved towards that of `pos` by `amount` in 0..1."""
    axes = list(range(1, pos.ndim))
    matched = guided * (pos.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return amount * matched + (1 - amount) * guided


def thresholded(guided: Latents, pos: Latents, percentile: float) -> Latents:
    """`guided`, clipped at its `percentile` and scaled so that this becomes the positive branch's own percentile."""
    import torch

    high, own = (torch.quantile(x.flatten(1).abs(), percentile, dim=1) for x in (guided, pos))
    high, own = (value.reshape(-1, *[1] * (pos.ndim - 1)) for value in (torch.maximum(high, own), own))
    return guided.clamp(-high, high) * (own / high)
