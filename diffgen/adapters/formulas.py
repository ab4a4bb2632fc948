"""What the tensors of one layer do to its weight W: the papers' formulas, in float32.

| kind | W' - W | source |
|---|---|---|
| LoRA | s B A | 2106.09685 |
| LoCon | s B A over the convolution's window; with a core C, s B C A | lycoris, 2309.14859 |
| LoHa | s (B1 A1) * (B2 A2), element by element | 2108.06098 |
| LoKr | s W1 (x) W2, Kronecker; either may be a product | 2212.10650 |
| DoRA | m (W + D) / |W + D| - W, D being one of the above, a row or a column at a time | 2402.09353 |
| full | the difference itself | |

s is alpha / rank, and 1 where the file states no alpha.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Shape = tuple[int, ...]


def kind_of(roles: Mapping[str, object]) -> str:
    """What a layer's tensors are called together."""
    if "up" in roles:
        name = "LoCon" if "mid" in roles else "LoRA"
    else:
        name = "LoHa" if "hada_w1_a" in roles else "LoKr" if "lokr_w1" in roles or "lokr_w1_a" in roles else "full"
    return f"{name} with DoRA" if {"dora_scale", "magnitude"} & set(roles) else name


def rank_of(shapes: Mapping[str, Shape]) -> int | None:
    """What alpha is divided by; None where alpha has no meaning, as in a LoKr of two whole factors."""
    for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if role in shapes:
            return shapes[role][0]
    return None


def weight_change(roles: Mapping[str, Tensor]) -> Tensor | None:
    """W' - W without the scale, or None where the tensors change no weight.

    Args:
        roles: what each tensor is -> the tensor, float32; on the "meta" device only the shape is computed.

    Raises:
        RuntimeError: the tensors do not fit each other.
    """
    if "up" in roles:
        return _low_rank(roles)
    if "hada_w1_a" in roles:
        return _half(roles, 1) * _half(roles, 2)
    if "lokr_w1" in roles or "lokr_w1_a" in roles:
        first, second = _factor(roles, 1), _factor(roles, 2)
        # kron wants whole memory; a core leaves its factor in pieces.
        return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())
    return roles.get("diff")


def _low_rank(roles: Mapping[str, Tensor]) -> Tensor:
    up, down = roles["up"].flatten(1), roles["down"]
    if "mid" in roles:
        return _core(roles["mid"], up.T, down.flatten(1))
    return (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def _core(core: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """[o, i, ...] of a core [a, b, ...] between [a, o] and [b, i]: Tucker's form of a convolution."""
    return torch.einsum("ab...,ao,bi->oi...", core, out, into)


def _half(roles: Mapping[str, Tensor], side: int) -> Tensor:
    a, b = roles[f"hada_w{side}_a"], roles[f"hada_w{side}_b"]
    return _core(roles[f"hada_t{side}"], a, b) if f"hada_t{side}" in roles else a @ b


def _factor(roles: Mapping[str, Tensor], side: int) -> Tensor:
    if f"lokr_w{side}" in roles:
        return roles[f"lokr_w{side}"]
    a, b = roles[f"lokr_w{side}_a"], roles[f"lokr_w{side}_b"]
    if side == 2 and "lokr_t2" in roles:
        return _core(roles["lokr_t2"], a, b)
    # A convolution's second matrix holds the window in its columns' trailing axes.
    return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])


def decomposed(weight: Tensor, change: Tensor, magnitude: Tensor, *, by_row: bool) -> Tensor:
    """W' - W under DoRA: the changed weight's direction, with the trained magnitude.

    Args:
        weight, change: [out, in, ...], W and the scaled D.
        magnitude: one number a row (`by_row`), as the paper has it, or one a column, as early lycoris files do.
    """
    moved = weight + change
    axes = tuple(range(1, moved.ndim)) if by_row else (0, *range(2, moved.ndim))
    length = torch.linalg.vector_norm(moved, dim=axes, keepdim=True)
    # A row of zeros has no direction and stays zero.
    return magnitude.reshape(length.shape) / length.clamp_min(torch.finfo(length.dtype).tiny) * moved - weight


def one_number_a_row(roles: Mapping[str, Shape], rows: int) -> bool:
    """Whether a layer's DoRA magnitudes belong to rows. peft's always do; lycoris shows it by the shape."""
    return "magnitude" in roles or roles["dora_scale"][0] == rows
