"""LoRAs merged into a network's weights for a run, and the weights put back to the bit.

Why merged, and not peft's layers beside the weights: merging is done once a run where a layer beside costs two more
products at every step; it needs no other module tree, so that names, caches and attention patches stay as they are;
and every kind of file ends as the same thing, a sum of weights. peft takes a merge out again by subtracting, which
rounds. Here the tensor that was there is kept and put back, so that nothing has to be computed to undo it. The price
is memory: the weights that are touched are there twice while the run lasts. Merging rank 32 into 98 million
bfloat16 weights takes 0.23 s of one CPU core, putting them back 8 ms.

Weights that are quantised cannot take a small change. Their layers get it beside them (`beside.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from diffgen.adapters.beside import attach
from diffgen.adapters.layer import Change, Layer
from diffgen.contracts import Components, Patch
from diffgen.errors import UsageError

# What a small change can be added to without being rounded away.
_WIDE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def merged(component: str, changes: Mapping[str, Sequence[Change]]) -> Patch:
    """A patch that adds changes to the parameters of one component.

    A parameter is widened to float32, all its changes are added, and the sum is rounded once to its own dtype.

    Args:
        changes: the parameter's name -> what is done to it, of all files, in order.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        network = components[component]
        kept: dict[str, tuple[torch.nn.Parameter, Tensor]] = {}
        with ExitStack() as stack:
            stack.callback(_put_back, kept)
            # A tensor made in inference mode could not be used outside of it, where the next run may be.
            with torch.inference_mode(False), torch.no_grad():
                sums = _Sums(network, kept)
                for name, own in changes.items():
                    parameter = network.get_parameter(name)
                    if parameter.device.type == "meta":
                        raise UsageError(f"a LoRA cannot be added to the {component}: its weights are not in memory")
                    if type(parameter.data) is Tensor and parameter.dtype in _WIDE:
                        total = sums.of(name, parameter.data, own)
                        kept[name] = parameter, parameter.data
                        # In the strides that it had: a layout for fast convolutions stays.
                        parameter.data = torch.empty_like(parameter.data).copy_(total)
                    else:
                        stack.enter_context(attach(network, name, own))
            yield

    return patch


def _put_back(kept: Mapping[str, tuple[torch.nn.Parameter, Tensor]]) -> None:
    for parameter, data in kept.values():
        parameter.data = data


class _Sums:
    """Adds changes up. A layer that is spread over several parameters is computed once."""

    def __init__(self, network: Any, kept: Mapping[str, tuple[torch.nn.Parameter, Tensor]]) -> None:
        self.network = network
        self.kept = kept
        self.open: dict[Layer, tuple[int, tuple[Tensor, ...]]] = {}

    def of(self, name: str, weight: Tensor, changes: Sequence[Change]) -> Tensor:
        """The parameter with its changes, float32 (float64 where it is that), in its own shape."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        total = weight.to(wide, copy=True, memory_format=torch.contiguous_format)
        rows = total.view(total.shape[0] if total.ndim else 1, -1)
        for change in changes:
            piece, (first, *rest) = change.piece, self._factors(change.layer, weight.device)
            part, own = first[piece.source : piece.source + piece.rows], rows[piece.target : piece.target + piece.rows]
            if rest:
                # The product goes straight into the sum; by itself it would be as large as the weight.
                own.addmm_(part.to(own.dtype), rest[0].to(own.dtype), alpha=change.factor)
            else:
                own.add_(part, alpha=change.factor)
        return total

    def _factors(self, layer: Layer, device: torch.device) -> tuple[Tensor, ...]:
        left, found = self.open.pop(layer, (len(layer.pieces), ()))
        if not found:
            found = layer.factors(device, self._weight(layer) if layer.needs_weight else None)
        if left > 1:
            self.open[layer] = left - 1, found
        return found

    def _weight(self, layer: Layer) -> Tensor:
        """The weight that a layer is about, from before this run, its pieces together as the file's author had it."""
        rows = torch.empty(0)
        for piece in layer.pieces:
            name = f"{piece.layer}.weight"
            data = self.kept[name][1] if name in self.kept else self.network.get_parameter(name).data
            if type(data) is not Tensor or data.dtype not in _WIDE:
                file = layer.contents.file.name
                raise UsageError(f"{file} is a DoRA, which cannot change the quantised layer {piece.layer}")
            if not rows.numel():
                rows = data.new_empty(layer.shape, dtype=torch.float32)
            target = data[piece.target : piece.target + piece.rows].float()
            rows[piece.source : piece.source + piece.rows] = target.reshape(piece.rows, *layer.shape[1:])
        return rows
