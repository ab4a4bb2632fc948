"""Patches that weaken a denoiser on purpose, for the guidance methods that push away from the result.

They act on the networks of diffusers as they stand: attention is reached through PyTorch's own
`scaled_dot_product_attention`, blocks through their forward method. Every patch undoes itself exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffgen.contracts import Components, Patch
from diffgen.errors import UnsupportedError, UsageError

BLOCK_LISTS = ("transformer_blocks", "blocks", "layers", "single_transformer_blocks")


class _Attention(TorchFunctionMode):
    """Replaces self-attention while it is entered; cross-attention, of two lengths, passes."""

    def __init__(self, change: Callable[..., Tensor]) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            q, k, v = (kwargs.pop(name, None) if name in kwargs else args[place]
                       for place, name in enumerate(("query", "key", "value")))  # fmt: skip
            rest = args[3:]
            if q.shape[-2] == k.shape[-2]:
                return self.change(lambda query: func(query, k, v, *rest, **kwargs), q, v)
            return func(q, k, v, *rest, **kwargs)
        return func(*args, **kwargs)


def _identity(attend: Callable[[Tensor], Tensor], query: Tensor, value: Tensor) -> Tensor:
    return value


def _smooth(attend: Callable[[Tensor], Tensor], query: Tensor, value: Tensor) -> Tensor:
    return attend(query.mean(dim=-2, keepdim=True).expand_as(query))


CHANGES: Mapping[str, Callable[..., Tensor]] = {"identity": _identity, "smooth": _smooth}


def attention(kind: str, layers: Sequence[str] = ("mid",)) -> Patch:
    """A patch of self-attention.

    Args:
        kind: "identity" lets every token see itself alone (PAG, 2403.17377); "smooth" gives all tokens the mean
            query, the limit of a wide blur (SEG, 2408.00760, section 4).
        layers: for U-Nets parts of module names ("mid", "up_blocks.0" ...), for transformers block numbers.

    Raises:
        UsageError: `kind` is unknown. The patch itself raises UnsupportedError where no layer matches.
    """
    if kind not in CHANGES:
        raise UsageError(f"unknown attention change {kind!r}; accepted: {', '.join(CHANGES)}")

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        denoiser = components["denoiser"]
        mode = _Attention(CHANGES[kind])
        with ExitStack() as stack:
            for module in _chosen(denoiser, layers):
                stack.enter_context(_under(module, mode))
            yield

    return patch


def without_blocks(layers: Sequence[str]) -> Patch:
    """A patch that leaves whole transformer blocks out: their tokens pass unchanged (SLG).

    Args:
        layers: block numbers.

    The patch raises UnsupportedError for U-Nets, whose blocks change the shape.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        _, blocks = _blocks(components["denoiser"])
        with ExitStack() as stack:
            for layer in layers:
                block = blocks[_number(layer, len(blocks))]
                stack.enter_context(_forward(block, _passing(block)))
            yield

    return patch


def thinned(layers: Sequence[str]) -> Patch:
    """A patch that leaves transformer blocks out, of U-Nets too: a weaker model for AutoGuidance (2406.02507).

    Args:
        layers: for U-Nets parts of module names ("mid", "up_blocks.0" ...), for transformers block numbers.

    The patch raises UnsupportedError where no block of a U-Net matches.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        denoiser = components["denoiser"]
        if not hasattr(denoiser, "mid_block"):
            with without_blocks(layers)(components):
                yield
            return
        with ExitStack() as stack:
            for attention in _chosen(denoiser, layers):
                block = next(found for found in denoiser.modules() if getattr(found, "attn1", None) is attention)
                stack.enter_context(_forward(block, _passing(block)))
            yield

    return patch


def instead(network: Callable[[], torch.nn.Module]) -> Patch:
    """A patch that runs another network in the denoiser's place: AutoGuidance with a second model (2406.02507).

    Args:
        network: gives it; of the denoiser's class, so that it takes what the denoiser takes.

    The patch raises UnsupportedError where it is of another class.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        denoiser, other = components["denoiser"], network()
        if type(other) is not type(denoiser):
            raise UnsupportedError(
                f"the weaker model's denoiser is a {type(other).__name__}; it must be a {type(denoiser).__name__}"
            )
        with _forward(denoiser, other.forward):
            yield

    return patch


def _passing(block: torch.nn.Module) -> Callable[..., Any]:
    """A forward that hands the tokens on, in the order in which this kind of block returns them."""
    # diffusers' own skip hook returns picture tokens first, which is wrong for blocks that return text first (SD 3).
    from diffusers.hooks._helpers import TransformerBlockRegistry

    known = TransformerBlockRegistry.get(type(block))

    def forward(*args: Any, **kwargs: Any) -> Any:
        picture = known._get_parameter_from_args_kwargs("hidden_states", args, kwargs)
        if known.return_encoder_hidden_states_index is None:
            return picture
        out = [picture, picture]
        text = known._get_parameter_from_args_kwargs("encoder_hidden_states", args, kwargs)
        out[known.return_encoder_hidden_states_index] = text
        return tuple(out)

    return forward


def _blocks(denoiser: torch.nn.Module) -> tuple[str, Sequence[torch.nn.Module]]:
    for name in BLOCK_LISTS:
        blocks = getattr(denoiser, name, None)
        if isinstance(blocks, torch.nn.ModuleList) and len(blocks):
            return name, list(blocks)
    raise UnsupportedError(f"{type(denoiser).__name__} has no row of transformer blocks to choose from")


def _number(layer: str, count: int) -> int:
    if not str(layer).isdigit() or int(layer) >= count:
        raise UsageError(f"layers of this denoiser are numbers from 0 to {count - 1}; got {layer!r}")
    return int(layer)


def _chosen(denoiser: torch.nn.Module, layers: Sequence[str]) -> list[torch.nn.Module]:
    """The self-attention modules of a U-Net whose name holds one of `layers`, or a transformer's chosen blocks."""
    if hasattr(denoiser, "mid_block"):
        found = [
            module for name, module in denoiser.named_modules()
            if name.endswith("attn1") and any(layer in name for layer in layers)
        ]  # fmt: skip
    else:
        _, blocks = _blocks(denoiser)
        numbers = [str(len(blocks) // 2)] if list(layers) == ["mid"] else layers
        found = [blocks[_number(layer, len(blocks))] for layer in numbers]
    if not found:
        raise UnsupportedError(f"no self-attention of {type(denoiser).__name__} is in {', '.join(layers)}")
    return found


def _under(module: torch.nn.Module, mode: _Attention) -> AbstractContextManager[None]:
    """`module` runs inside `mode` until the end."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return original(*args, **kwargs)

    return _forward(module, forward)


@contextmanager
def _forward(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` has another forward method until the end."""
    had_own = module.__dict__.get("forward")
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if had_own is None:
            del module.forward
        else:
            module.forward = had_own  # type: ignore[method-assign]
