"""The only door to torch's private operators: oneDNN's products and convolutions with weights packed beforehand.

Eager torch lays every weight out anew at each call; these operators, which torch's own compiler uses, take it laid
out once. They are private and may change or be missing, so nothing else in diffgen names them: `supported` tries each
against the public operation first, and what fails is not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Operation = Literal["linear", "conv", "fused"]

# An activation's name here -> (oneDNN's name, its variant).
ACTIVATIONS = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "silu": ("swish", "")}


def pack_linear(weight: Tensor, rows: int) -> Tensor:
    """A weight [out, in] in oneDNN's layout, best for inputs of `rows` rows and right for any number."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


def linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, activation: str = "none", times: Tensor | None = None
) -> Tensor:
    """activation(x W' + b) for x [..., in]; with `times` [..., out], (x W' + b) * times."""
    if times is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, times, packed, bias, "mul")
    kind, variant = ACTIVATIONS[activation]
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, kind, [], variant)


def pack_conv(weight: Tensor, shape: Sequence[int], geometry: tuple[list[int], list[int], list[int], int]) -> Tensor:
    """A weight [out, in / groups, h, w] in oneDNN's layout, best for inputs of `shape` and right for any.

    Args:
        geometry: (padding, stride, dilation, groups).
    """
    return torch.ops.mkldnn._reorder_convolution_weight(weight.detach(), *geometry, list(shape))


def conv(
    x: Tensor, packed: Tensor, bias: Tensor | None, geometry: tuple[list[int], list[int], list[int], int],
    plus: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The convolution of x [batch, in, h, w], and `plus` added where it is given, of the result's shape."""
    if plus is not None:
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, plus, packed, bias, *geometry, "add", None, None, [], None
        )
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, "none", [], "")


@cache
def supported(operation: Operation, dtype: torch.dtype) -> bool:
    """Whether the operation is there, takes this dtype on this CPU, and gives what the public one gives."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not _has_bfloat16():
        return False
    try:
        with torch.inference_mode():
            return _CHECKS[operation](dtype)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        # Absent, of another signature, or refused on this processor: all mean that it cannot be used here.
        return False


def _has_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (RuntimeError, AttributeError):
        return False


def _some(*shape: int, dtype: torch.dtype) -> Tensor:
    # Not drawn: a check must leave the global generator as it is.
    return torch.linspace(-1, 1, torch.Size(shape).numel()).sin().view(shape).to(dtype)


def _same(found: Tensor, wanted: Tensor) -> bool:
    limit = 1e-5 if wanted.dtype == torch.float32 else 2e-2
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= limit * wanted.abs().max())


def _check_linear(dtype: torch.dtype) -> bool:
    x, weight, bias = (_some(*shape, dtype=dtype) for shape in ((2, 5, 48), (32, 48), (32,)))
    return _same(linear(x, pack_linear(weight, 10), bias), F.linear(x, weight, bias))


_GEOMETRY = ([1, 1], [1, 1], [1, 1], 1)


def _check_conv(dtype: torch.dtype) -> bool:
    x, weight, bias = (_some(*shape, dtype=dtype) for shape in ((2, 16, 6, 6), (32, 16, 3, 3), (32,)))
    return _same(conv(x, pack_conv(weight, x.shape, _GEOMETRY), bias, _GEOMETRY), F.conv2d(x, weight, bias, padding=1))


def _check_fused(dtype: torch.dtype) -> bool:
    x, weight, bias = (_some(*shape, dtype=dtype) for shape in ((2, 5, 48), (32, 48), (32,)))
    packed, plain = pack_linear(weight, 10), F.linear(x, weight, bias)
    picture, kernel = _some(2, 16, 6, 6, dtype=dtype), _some(16, 16, 3, 3, dtype=dtype)
    laid = picture.contiguous(memory_format=torch.channels_last)
    wanted = F.conv2d(laid, kernel, padding=1) + laid
    return (
        _same(linear(x, packed, bias, "gelu"), F.gelu(plain))
        and _same(linear(x, packed, bias, "gelu_tanh"), F.gelu(plain, approximate="tanh"))
        and _same(linear(x, packed, bias, "silu"), F.silu(plain))
        and _same(linear(x, packed, bias, times=plain), plain * plain)
        and _same(conv(laid, pack_conv(kernel, laid.shape, _GEOMETRY), None, _GEOMETRY, plus=laid), wanted)
    )


_CHECKS: dict[str, Callable[[torch.dtype], bool]] = {
    "linear": _check_linear, "conv": _check_conv, "fused": _check_fused,
}  # fmt: skip


def operations(dtype: torch.dtype) -> tuple[str, ...]:
    """The operations that are supported for a dtype."""
    names: tuple[Operation, ...] = ("linear", "conv", "fused")
    return tuple(name for name in names if supported(name, dtype))
