"""A LoRA beside a layer whose weight is quantised: the layer's output plus the change's, while a run lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffgen.adapters.layer import Change
from diffgen.errors import UsageError


@contextmanager
def attach(network: Any, name: str, changes: Sequence[Change]) -> Iterator[None]:
    """Adds changes to what the linear layer with the parameter `name` gives, and takes them away again.

    Args:
        name: of a weight that is packed, or of too few bits to hold a small change.

    Raises:
        UsageError: the layer is not linear, or a change needs the plain weight.
    """
    owner, _, kind = name.rpartition(".")
    module = network.get_submodule(owner)
    if kind != "weight" or not hasattr(module, "in_features"):
        raise UsageError(f"{changes[0].layer.contents.file.name} cannot change {name}: it is quantised, and not linear")
    device = network.get_parameter(name).device
    factors = [_factors(change, device) for change in changes]

    def add(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        for rows, weights in factors:
            found = x
            for weight in weights:
                found = torch.nn.functional.linear(found, weight.to(x.dtype))
            output = torch.cat([output[..., : rows.start], output[..., rows] + found, output[..., rows.stop :]], dim=-1)
        return output

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _factors(change: Change, device: torch.device) -> tuple[slice, tuple[Tensor, ...]]:
    """(rows of the layer, matrices to multiply with in turn): two thin ones for a LoRA, else the whole change."""
    piece, layer = change.piece, change.layer
    if layer.needs_weight:
        raise UsageError(f"{layer.contents.file.name} is a DoRA, which cannot change the quantised layer {piece.layer}")
    first, *rest = layer.factors(device)
    part = first[piece.source : piece.source + piece.rows] * change.factor
    return slice(piece.target, piece.target + piece.rows), (*rest, part)
