"""Formulas that push a positive prediction away from a negative one: `(pos, neg, scale, tuning) -> guided`.

All take and give tensors [batch, channels, frames, height, width] and treat every picture of a batch alone. At
scale 1 a guidance never calls them, so the neutral setting changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgen.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Memory = MutableMapping[str, Any]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each picture, of a shape that broadcasts. In float64: it is a sum over many values."""
    return (a.double() * b.double()).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def split(vector: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """(the part of `vector` parallel to `along`, the rest), for each picture."""
    share = _dot(vector, along) / _dot(along, along).clamp(min=1e-30)
    parallel = (share * along.double()).to(vector.dtype)
    return parallel, vector - parallel


def plain(pos: Tensor, neg: Tensor, scale: float | Tensor, memory: Memory) -> Tensor:
    """Classifier-free guidance: neg + scale (pos - neg). 2207.12598."""
    return neg.lerp(pos, scale)


def projected(
    pos: Tensor, neg: Tensor, scale: float | Tensor, memory: Memory, *,
    momentum: float = -0.5, threshold: float = 0.0, parallel: float = 0.0,
) -> Tensor:  # fmt: skip
    """Adaptive projected guidance (APG). 2410.02416, algorithm 1. In x0 space, as published.

    Args:
        momentum: weight of the earlier differences; negative pushes away from them.
        threshold: largest norm of the difference; 0 is none.
        parallel: weight of the part along `pos`, which saturates colours; 1 keeps it.
    """
    difference = pos - neg
    if momentum:
        difference = difference + momentum * memory["apg"] if "apg" in memory else difference
        memory["apg"] = difference
    if threshold > 0:
        norm = _dot(difference, difference).sqrt().to(difference.dtype)
        difference = difference * (threshold / norm.clamp(min=1e-12)).clamp(max=1.0)
    along, across = split(difference, pos)
    return pos + (scale - 1) * (across + parallel * along)


def zero_star(pos: Tensor, neg: Tensor, scale: float | Tensor, memory: Memory, *, zero_steps: int = 1) -> Tensor:
    """CFG-Zero*: the negative rescaled to fit the positive, and nothing at all in the first steps. 2503.18886.

    Args:
        zero_steps: how many first steps predict zero; made for flow models, whose first step is the least sure.
    """
    if memory.get("index", zero_steps) < zero_steps:
        return pos.new_zeros(pos.shape)
    fitted = neg * (_dot(pos, neg) / (_dot(neg, neg) + 1e-8)).to(neg.dtype)
    return fitted + scale * (pos - fitted)


def tangential(pos: Tensor, neg: Tensor, scale: float | Tensor, memory: Memory) -> Tensor:
    """Tangential damping: the negative keeps only its part along the pair's main direction. 2503.18137, eq. 9."""
    import torch

    pair = torch.stack([pos.flatten(1), neg.flatten(1)], dim=1).float()
    main = torch.linalg.svd(pair, full_matrices=False).Vh[:, :1]
    kept = (neg.flatten(1).float().unsqueeze(1) @ main.transpose(1, 2)) @ main
    damped = kept.reshape(neg.shape).to(neg.dtype)
    return damped + scale * (pos - damped)


def frequency(
    pos: Tensor, neg: Tensor, scale: float | Tensor, memory: Memory, *, low: float = 0.5
) -> Tensor:
    """Frequency-decoupled guidance: another scale for coarse than for fine structure. 2506.19713, algorithm 1.

    Args:
        low: the coarse scale, as a share of the push (scale - 1).
    """
    from torch.nn import functional

    difference = pos - neg
    size = difference.shape[-2:]
    flat = difference.flatten(0, 2).unsqueeze(1)
    small = functional.interpolate(flat, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False)
    coarse = functional.interpolate(small, size=size, mode="bilinear", align_corners=False).reshape(difference.shape)
    return pos + (scale - 1) * (low * coarse + (difference - coarse))


@dataclass(frozen=True, kw_only=True)
class PushInfo:
    """A row of the table of guidance methods: its formula, the space it works in, its settings."""

    function: Callable[..., Tensor]
    label: str
    space: str = "output"
    settings: tuple[str, ...] = ()
    good_for: str = ""


PUSHES: dict[str, PushInfo] = {
    "cfg": PushInfo(function=plain, label="CFG", good_for="every model"),
    "apg": PushInfo(
        function=projected, label="APG", space="x0", settings=("momentum", "threshold", "parallel"),
        good_for="high scales without burnt colours"),
    "cfg_zero": PushInfo(
        function=zero_star, label="CFG-Zero*", settings=("zero_steps",), good_for="flow models"),
    "tangential": PushInfo(function=tangential, label="TCFG", good_for="cleaner structure"),
    "frequency": PushInfo(
        function=frequency, label="FDG", settings=("low",), good_for="detail at high scales without burnt colours"),
}  # fmt: skip


def check(method: str, tuning: Mapping[str, Any]) -> None:
    """Refuses settings that `method` does not take.

    Raises:
        UsageError: a setting is not the method's; the message lists those that are.
    """
    strange = sorted(set(tuning) - set(PUSHES[method].settings))
    if strange:
        accepted = ", ".join(PUSHES[method].settings) or "none"
        raise UsageError(f"guidance {method!r} has no setting {strange[0]!r}; accepted: {accepted}")
