"""Blocks of diffusers in which an activation or a sum is done inside the product before it, saving a trip to memory.

In low precision this is more exact too: what is added or multiplied has not been rounded in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, SiLU
from torch.nn import functional as F

from diffgen.kernels import native
from diffgen.kernels.packing import conv_packed, fits, packed, plain, takes

Forward = Callable[..., Any]


def fused(module: Module, dtype: torch.dtype) -> Forward | None:
    """A faster forward for the block, or None where it is none of those known here."""
    make = _KINDS.get(type(module).__name__)
    return make(module, dtype) if make and type(module).__module__.startswith("diffusers.") else None


def _linear(block: Any) -> Linear | None:
    proj = getattr(block, "proj", None)
    return proj if type(proj) is Linear and plain(proj) else None


def _geglu(block: Any, dtype: torch.dtype) -> Forward | None:
    """hidden * gelu(gate) of one projection: the gate's product ends in gelu, the other's in the multiplication."""
    usual, proj = block.forward, _linear(block)
    if proj is None or not native.supported("fused", dtype):
        return None
    half = proj.out_features // 2

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not takes(x, proj, dtype):
            return usual(x, *args, **kwargs)
        rows = max(1, x.numel() // x.shape[-1])
        hidden, gate = packed(
            proj,
            "halves",
            lambda source: tuple(native.pack_linear(part.contiguous(), rows) for part in source.split(half)),
        )
        biases = (None, None) if proj.bias is None else proj.bias.split(half)
        return native.linear(x, hidden, biases[0], times=native.linear(x, gate, biases[1], "gelu"))

    return forward


def _gelu(block: Any, dtype: torch.dtype) -> Forward | None:
    """A projection that ends in gelu."""
    usual, proj = block.forward, _linear(block)
    if proj is None or not native.supported("fused", dtype):
        return None
    activation = {"none": "gelu", "tanh": "gelu_tanh"}[block.approximate]

    def forward(x: Tensor) -> Any:
        if not takes(x, proj, dtype):
            return usual(x)
        rows = max(1, x.numel() // x.shape[-1])
        weight = packed(proj, "linear", lambda source: native.pack_linear(source, rows))
        return native.linear(x, weight, proj.bias, activation)

    return forward


def _resnet(block: Any, dtype: torch.dtype) -> Forward | None:
    """Two normed convolutions and a shortcut, which the second convolution adds itself."""
    usual = block.forward
    simple = (
        block.upsample is None and block.downsample is None and block.output_scale_factor == 1
        and block.time_embedding_norm in ("default", "scale_shift") and isinstance(block.nonlinearity, SiLU)
        and not (block.training and block.dropout.p)
    )  # fmt: skip
    if not simple or not fits(block.conv2) or not plain(block.conv2) or not native.supported("fused", dtype):
        return None

    def forward(input_tensor: Tensor, temb: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        x = input_tensor  # named as in diffusers, whose UNetMotionModel passes it by name
        if args or kwargs or not takes(x, block.conv2, dtype):
            return usual(x, temb, *args, **kwargs)
        hidden = block.conv1(F.silu(block.norm1(x), inplace=True))
        time = _time(block, temb)
        if block.time_embedding_norm == "default":
            hidden = block.norm2(hidden if time is None else hidden + time)
        elif time is not None:
            scale, shift = time.chunk(2, dim=1)
            hidden = torch.addcmul(shift, block.norm2(hidden), 1 + scale)
        shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
        hidden = F.silu(hidden, inplace=True)
        return conv_packed(block.conv2, hidden, shortcut.contiguous(memory_format=torch.channels_last))

    return forward


def _time(block: Any, temb: Tensor | None) -> Tensor | None:
    if block.time_emb_proj is None or temb is None:
        return None
    return block.time_emb_proj(temb if block.skip_time_act else F.silu(temb))[:, :, None, None]


_KINDS: dict[str, Callable[[Any, torch.dtype], Forward | None]] = {
    "GEGLU": _geglu, "GELU": _gelu, "ResnetBlock2D": _resnet,
}  # fmt: skip
