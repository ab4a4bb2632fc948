"""The patch that computes a network's layers as a `Choice` says, and gives every forward back at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import Linear, Module

from diffgen.attention import Rerouting, attention_modules, by_class, rerouted
from diffgen.attention import replaced as replaced_forward
from diffgen.contracts import Components, Patch
from diffgen.kernels import native, packing
from diffgen.kernels.blocks import fused
from diffgen.kernels.choice import Choice

# Text encoders run once a prompt, less often than packing pays for.
NETWORKS = ("denoiser", "denoiser_2", "vae")


def patch(choice: Choice, *, names: tuple[str, ...] = NETWORKS) -> Patch:
    """The components `names`, as far as they are there, computed by `choice`.

    Packed weights stay for the next run, and are made anew where a weight has changed.
    """

    @contextmanager
    def entered(components: Components) -> Iterator[None]:
        with ExitStack() as stack:
            for name in names:
                network = components.get(name)
                if isinstance(network, Module):
                    _enter(stack, network, choice)
            yield

    return entered


def _enter(stack: ExitStack, network: Module, choice: Choice) -> None:
    for module in network.modules():
        forward = None if "forward" in module.__dict__ else _forward(module, choice)
        if forward is not None:
            stack.enter_context(replaced_forward(module, forward))
    if choice.attention and attention_modules(network) and _dtype(network) is not None:
        mode = Rerouting(by_class(choice.attention))
        stack.enter_context(rerouted(("network",), mode)({"network": network}))


def _forward(module: Module, choice: Choice) -> Callable[..., Any] | None:
    """The forward that `choice` has for this module, or None where it stays as it is."""
    dtype = _dtype(module)
    if dtype is None:
        return None
    if choice.blocks == "fused" and (found := fused(module, dtype)) is not None:
        return found
    if not isinstance(getattr(module, "weight", None), torch.nn.Parameter) or not packing.plain(module):
        return None
    packing.forget(module)
    if type(module) is Linear and choice.linear == "packed" and native.supported("linear", dtype):
        return packing.linear_forward(module, dtype)
    if packing.fits(module) and choice.conv != "plain":
        pack = choice.conv == "packed" and native.supported("conv", dtype)
        return packing.conv_forward(module, dtype, pack=pack)  # type: ignore[arg-type]
    return None


def _dtype(module: Module) -> torch.dtype | None:
    """The dtype of the module's own or first weight, where that is in the memory of the CPU."""
    first = next(module.parameters(), None)
    return first.dtype if first is not None and first.device.type == "cpu" else None


def release(network: Module) -> None:
    """Drops the packed weights of a network, which takes as much memory as its weights."""
    for module in network.modules():
        packing.forget(module, only_stale=False)


def weight_bytes(network: Module) -> int:
    """What packing a whole network would take: the bytes of its linear layers and convolutions."""
    weights: list[torch.Tensor] = [
        module.weight  # type: ignore[misc]
        for module in network.modules()
        if (type(module) is Linear or packing.fits(module)) and packing.plain(module)
    ]
    return sum(weight.numel() * weight.element_size() for weight in weights)
