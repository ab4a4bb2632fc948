"""Carries out what `cuda.py` decides: patches for networks on a CUDA device. None of it has run on a GPU.

Attention is exchanged as on the CPU, through `diffgen.attention`, so that it reaches every network; modules are
counted, and none switched is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgen.attention import Attend, Rerouting, plain_shape, rerouted
from diffgen.contracts import Components, Patch
from diffgen.errors import UnsupportedError
from diffgen.kernels.cuda import Device, Settings, Shape, backend


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    run = import_module("flash_attn").flash_attn_func
    out: Tensor = run(*(t.transpose(1, 2) for t in (query, key, value)), softmax_scale=scale)
    return out.transpose(1, 2)


def _sage(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    out: Tensor = import_module("sageattention").sageattn(query, key, value, tensor_layout="HND", sm_scale=scale)
    return out


def _xformers(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    run = import_module("xformers.ops").memory_efficient_attention
    out: Tensor = run(*(t.transpose(1, 2) for t in (query, key, value)), scale=scale)
    return out.transpose(1, 2)


def _cudnn(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        return F.scaled_dot_product_attention(query, key, value, scale=scale)


CALLS: Mapping[str, Attend] = {"flash": _flash, "sage": _sage, "xformers": _xformers, "cudnn": _cudnn}


def by_device(
    device: Device, *, exact: bool = True
) -> Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Attend | None]:
    """A chooser for `diffgen.attention.Rerouting`: the library for each call's width, dtype and mask."""
    pick = cache(lambda width, dtype, mask: backend(device, Shape(width=width, dtype=dtype, mask=mask), exact=exact))

    def choose(query: Tensor, key: Tensor, value: Tensor, more: Mapping[str, Any]) -> Attend | None:
        # Masks come in as many forms as there are libraries; torch takes all of them.
        masked = more.get("attn_mask") is not None or bool(more.get("is_causal"))
        if masked or more.get("dropout_p") or not plain_shape(query, key, value):
            return None
        return CALLS.get(pick(query.shape[-1], str(query.dtype).removeprefix("torch."), masked))

    return choose


def on_cuda(device: Device, settings: Settings, *, names: tuple[str, ...] = ("denoiser",), exact: bool = True) -> Patch:
    """The components `names` on a CUDA device: attention by call, and the settings, all undone at the end.

    It raises UnsupportedError where no attention, or no repeated block, could be switched.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        there = tuple(name for name in names if name in components)
        with ExitStack() as stack:
            stack.enter_context(rerouted(there, Rerouting(by_device(device, exact=exact)))(components))
            if settings.tf32:
                stack.enter_context(_tf32())
            for name in there:
                if settings.channels_last:
                    stack.enter_context(_channels_last(components[name]))
                if settings.compile == "blocks":
                    stack.enter_context(compiled(components[name], graphs=settings.graphs))
            yield

    return patch


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def _channels_last(network: torch.nn.Module) -> Iterator[None]:
    """The weights of convolutions laid out channels_last; the tensors that were there come back at the end."""
    kept = [(weight, weight.data) for weight in network.parameters() if weight.ndim == 4]
    for weight, data in kept:
        weight.data = data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight, data in kept:
            weight.data = data


def repeated_blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that a network is a row of: compiled once, the code serves all of a kind."""
    kinds = set(getattr(network, "_repeated_blocks", None) or ())
    return [module for module in network.modules() if type(module).__name__ in kinds]


@contextmanager
def compiled(network: torch.nn.Module, *, graphs: bool = False, backend: str = "inductor") -> Iterator[None]:
    """The repeated blocks of a network compiled until the end.

    A merged adapter changes weights' values and a control adds inputs of the same shape, so neither compiles anew.

    Args:
        graphs: whether the launches are recorded too, for calls of one shape.

    Raises:
        UnsupportedError: the network names no repeated blocks.
    """
    blocks = repeated_blocks(network)
    if not blocks:
        raise UnsupportedError(f"{type(network).__name__} has no repeated blocks to compile")
    more: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
    before = [block._compiled_call_impl for block in blocks]
    for block in blocks:
        block.compile(backend=backend, dynamic=not graphs, **more)
    try:
        yield
    finally:
        for block, call in zip(blocks, before, strict=True):
            block._compiled_call_impl = call
