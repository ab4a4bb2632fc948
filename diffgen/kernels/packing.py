"""Layers whose weights are laid out once: a forward for each kind, and the store of packed weights behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Conv2d, Linear, Module

from diffgen.kernels import native

FEW_ROWS = 16  # below it the time is that of reading the weight, which packing cannot shorten


@dataclass(frozen=True)
class _Packed:
    """What a weight was packed into, and what it was made of: the same storage, at the same state."""

    made: Any
    form: str
    pointer: int
    version: int
    storage: StorageWeakRef

    @classmethod
    def of(cls, source: Tensor, made: Any, form: str) -> _Packed:
        return cls(made, form, source.data_ptr(), _version(source), StorageWeakRef(source.untyped_storage()))

    def stale(self, source: Tensor) -> bool:
        """Whether the source was changed or exchanged since. Exact: a weak reference keeps its address taken."""
        same = self.storage == StorageWeakRef(source.untyped_storage())
        return not same or self.pointer != source.data_ptr() or self.version != _version(source)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


# Kept between runs: packing SD 1.5 costs as much as a step or two. Gone with the module.
_STORE: WeakKeyDictionary[Module, _Packed] = WeakKeyDictionary()


def packed(module: Module, form: str, pack: Callable[[Tensor], Any]) -> Any:
    """What `pack` makes of the module's weight; kept until the weight is another, or another `form` is wanted."""
    source: Tensor = module.weight  # type: ignore[assignment]
    known = _STORE.get(module)
    # Within a run the address tells weights apart; `forget` has compared the rest before it.
    if known is None or known.pointer != source.data_ptr() or known.form != form:
        known = _Packed.of(source, pack(source), form)
        _STORE[module] = known
    return known.made


def forget(module: Module, *, only_stale: bool = True) -> None:
    """Drops the module's packed weight, where its weight is no longer what was packed, or in any case."""
    known = _STORE.get(module)
    if known is not None and not (only_stale and not known.stale(module.weight)):  # type: ignore[arg-type]
        del _STORE[module]


def plain(module: Module) -> bool:
    """Whether the layer is what its class says: no hooks, no quantised or sharded weight, nothing being trained."""
    weight: Any = module.weight
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(weight) is torch.nn.Parameter and type(weight.data) is Tensor and not hooks


def linear_forward(module: Linear, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """`module.forward` with a packed weight, for inputs of `dtype`; others take the usual way."""
    usual = module.forward

    def forward(input: Tensor) -> Tensor:  # torch's own name for it: some networks pass it by name
        rows = input.numel() // input.shape[-1] if input.numel() else 0
        if rows <= FEW_ROWS or not takes(input, module, dtype):
            return usual(input)
        weight = packed(module, "linear", lambda source: native.pack_linear(source, rows))
        return native.linear(input, weight, module.bias)

    return forward


def takes(x: Tensor, module: Module, dtype: torch.dtype) -> bool:
    """Whether input and weight are of `dtype` now, no gradient is asked for, and nothing hangs on the layer."""
    return (
        x.dtype is dtype and module.weight.dtype is dtype  # type: ignore[comparison-overlap]
        and not torch.is_grad_enabled() and not module._forward_hooks
    )  # fmt: skip


def geometry(module: Conv2d) -> tuple[list[int], list[int], list[int], int]:
    """(padding, stride, dilation, groups) of a convolution whose padding is zeros and numbers."""
    assert not isinstance(module.padding, str)
    return list(module.padding), list(module.stride), list(module.dilation), module.groups


def fits(module: Module) -> bool:
    """Whether the layer is a convolution of pictures that the packed kernel computes."""
    return (
        type(module).__name__ in ("Conv2d", "LoRACompatibleConv") and isinstance(module, Conv2d)
        and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )  # fmt: skip


def conv_packed(module: Conv2d, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """The convolution of `x` with a packed weight, and `plus` added where it is given; all of it channels_last."""
    x = x.contiguous(memory_format=torch.channels_last)
    weight = packed(module, "conv", lambda source: native.pack_conv(source, x.shape, geometry(module)))
    return native.conv(x, weight, module.bias, geometry(module), plus)


def conv_forward(module: Conv2d, dtype: torch.dtype, *, pack: bool) -> Callable[[Tensor], Tensor]:
    """`module.forward` on channels_last pictures, with a packed weight where `pack` says so."""
    usual = module.forward

    def forward(x: Tensor) -> Tensor:
        if not takes(x, module, dtype) or x.ndim != 4:
            return usual(x)
        return conv_packed(module, x) if pack else usual(x.contiguous(memory_format=torch.channels_last))

    return forward
