"""Attention computed on the route that is fastest here for its shape, in any network that uses torch's own function.

diffusers reaches attention in four ways (processors of U-Nets, of transformers, dispatch tables, single blocks), and
its switch is a silent no-op on some of them. All end in `torch.nn.functional.scaled_dot_product_attention`, so that is
what is exchanged here, and only while a module with a processor runs: `rerouted` counts the modules, and a network
that has none is an error.

Routes, all exact up to rounding:
    library: torch's own choice, flash attention where it has one.
    chunked: products over runs of queries, a head at a time. On processors whose flash kernel makes no use of
        their bfloat16 units this is several times faster for long sequences.
    products: two batched products with a softmax between, for short sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from diffgen.contracts import Components, Patch
from diffgen.errors import UnsupportedError

Route = Literal["library", "chunked", "products"]

CHUNK = 256  # queries; their scores against 4,096 keys in float32 are 4 MB, which caches of servers hold
LONG, SHORT, WIDE = 512, 128, 64  # keys, keys, width of a head
CLASSES = ("long-narrow", "long-wide", "middle-narrow", "middle-wide", "short-narrow", "short-wide")

Attend = Callable[..., Tensor]


def class_of(keys: int, width: int) -> str:
    """The class of shapes whose members do well on one route, by the number of keys and the width of a head.

    >>> class_of(4096, 40)
    'long-narrow'
    """
    length = "long" if keys >= LONG else "middle" if keys >= SHORT else "short"
    return f"{length}-{'wide' if width >= WIDE else 'narrow'}"


def chunked(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, chunk: int = CHUNK) -> Tensor:
    """softmax(scale q k') v for [batch, heads, tokens, width], `chunk` queries of one head at a time.

    The largest tensor in between is [chunk, keys]. A None scale is width^-0.5.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    out = torch.empty(*query.shape[:3], value.shape[-1], dtype=query.dtype, device=query.device)
    for queries, keys, values, rows in zip(
        (query * scale).flatten(0, 1), key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1), out.flatten(0, 1),
        strict=True,
    ):  # fmt: skip
        for start in range(0, queries.shape[0], chunk):
            part = slice(start, start + chunk)
            torch.mm(torch.mm(queries[part], keys).softmax(-1), values, out=rows[part])
    return out


def products(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """The same in two batched products. In between is [batch * heads, queries, keys]."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.bmm((query * scale).flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(*query.shape[:3], value.shape[-1])


ROUTES: Mapping[str, Attend] = {"chunked": chunked, "products": products}


def plain_shape(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the own routes take it: [batch, heads, tokens, width], as many heads in keys as in queries."""
    return query.ndim == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2] and query.dtype == key.dtype


class Rerouting(TorchFunctionMode):
    """Hands calls of attention to `choose`, which gives another function for them or None."""

    def __init__(self, choose: Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Attend | None]) -> None:
        super().__init__()
        self.choose = choose
        self.taken = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A mode around this one means that a guidance changes attention on purpose, and must see torch's function.
        if func is not F.scaled_dot_product_attention or torch._C._is_torch_function_mode_enabled():
            return func(*args, **kwargs)
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        query, key, value = (named.pop(name) for name in _NAMES[:3])
        found = self.choose(query, key, value, named)
        if found is None:
            return func(query, key, value, **named)
        self.taken += 1
        return found(query, key, value, scale=named.get("scale"))


_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def by_class(routes: Mapping[str, Route]) -> Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Attend | None]:
    """A chooser for `Rerouting`: the own route of the call's class, where the call has no mask and no dropout."""

    def choose(query: Tensor, key: Tensor, value: Tensor, more: Mapping[str, Any]) -> Attend | None:
        route = routes.get(class_of(key.shape[-2], query.shape[-1]), "library")
        if route == "library" or not plain_shape(query, key, value):
            return None
        if more.get("attn_mask") is not None or more.get("is_causal") or more.get("dropout_p") or query.requires_grad:
            return None
        return ROUTES[route]

    return choose


def attention_modules(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that compute attention: in diffusers they are those with a processor."""
    return [module for module in network.modules() if getattr(module, "processor", None) is not None]


def rerouted(names: tuple[str, ...], mode: Rerouting) -> Patch:
    """A patch: the attention of the components `names` runs inside `mode`.

    It raises UnsupportedError where none of them has attention that could be switched.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        found = [module for name in names for module in attention_modules(components[name])]
        if not found:
            kinds = ", ".join(type(components[name]).__name__ for name in names)
            raise UnsupportedError(f"no attention could be switched in {kinds}")
        with ExitStack() as stack:
            for module in found:
                stack.enter_context(replaced(module, _inside(mode, module.forward)))
            yield

    return patch


def _inside(mode: Rerouting, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return forward(*args, **kwargs)

    return run


@contextmanager
def replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` has another forward method until the end; the one it had comes back."""
    before = module.__dict__.get("forward")
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before  # type: ignore[method-assign]
