"""Networks of diffusers and transformers, built without memory and given the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from diffgen.checkpoints.keys import inward
from diffgen.checkpoints.layouts.autoencoders import OLD_ATTENTION, old_attention
from diffgen.checkpoints.tensors import Weights, is_mark
from diffgen.errors import CheckpointError

# Prefixes that a text encoder's names have in one file and lack in another, newest library against older ones.
_SHELLS = ("text_model.", "vision_model.", "model.", "language_model.", "model.language_model.", "transformer.")
# In files of text encoders, and no part of the network that reads text.
_LEFT_OVER = ("position_ids", "logit_scale", "spiece_model", "visual_projection.weight")
# One table under two names: files hold it once. What a chat model answers with is never read here.
TIED = {
    "encoder.embed_tokens.weight": "shared.weight", "shared.weight": "encoder.embed_tokens.weight",
    "lm_head.weight": "model.embed_tokens.weight",
}  # fmt: skip


class EmptyOnMeta(TorchFunctionMode):
    """Weights are made by torch.empty and take no memory. What a constructor computes and no file holds, such as
    rotary angles, is real, whether it is kept in a buffer, an attribute or a list.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**kwargs, "device": "meta"})
        if func in _STARTS and (start := kwargs.get("tensor", args[0] if args else None)).is_meta:
            return start
        return func(*args, **kwargs)


# Random starts that a constructor gives to weights; they take a third of its time and are thrown away.
_STARTS = {
    torch.nn.init.kaiming_uniform_, torch.nn.init.uniform_, torch.nn.init.normal_, torch.nn.init.xavier_uniform_,
    torch.nn.init.trunc_normal_, torch.Tensor.uniform_, torch.Tensor.normal_,
}  # fmt: skip


def empty_network(kind: Any, config: Mapping[str, Any]) -> Any:
    """A network of this class whose weights take no memory.

    Raises:
        CheckpointError: the configuration is none of this class's.
    """
    try:
        if hasattr(kind, "from_config"):
            with EmptyOnMeta():
                return kind.from_config(dict(config))
        with _no_initialising(), EmptyOnMeta():
            return kind(kind.config_class.from_dict(dict(config)))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the configuration of a {kind.__name__} cannot be used: {error}") from None


def _no_initialising() -> AbstractContextManager[Any]:
    """Weights that are about to come from a file need no random start."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        return nullcontext()
    context: AbstractContextManager[Any] = no_init_weights()
    return context


def fill(
    network: Any, weights: Weights, origin: object, dtype: torch.dtype, device: torch.device, *, exact: bool = True
) -> tuple[str, ...]:
    """Gives the network its weights, and returns the names that it had no place for.

    Args:
        weights: under the network's names, or names that `fit` knows for them.
        origin: what to call the file in an error.
        dtype: of the weights; modules that their class keeps in float32 stay so.
        exact: whether weights without a place are an error.
    Raises:
        CheckpointError: weights are missing, or of another shape.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = fit(own, weights)
    used = set(names.values())
    extra = tuple(name for name in weights if name not in used and not is_mark(name))
    _check(origin, own, names, weights, extra if exact else ())
    wide = set(_kept_wide(network, dtype))
    tensors: dict[tuple[str, bool], torch.Tensor] = {}
    state = {}
    for name, given in names.items():
        narrow = not wide & set(name.split("."))
        key = given, narrow
        if key not in tensors:
            tensors[key] = weights.get(given, dtype if narrow else torch.float32, device)
        value = tensors[key]
        state[name] = value if value.shape == own[name] else value.view(own[name])
    if not _assign(network, state):
        network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()
    if device.type != "cpu":
        # The weights are there already; this moves the tables that no file holds.
        network.to(device)
    return tuple(name for name in extra if not name.endswith(_LEFT_OVER))


def _assign(network: Any, state: Mapping[str, torch.Tensor]) -> bool:
    """Puts the tensors in their places; False, and nothing done, where a name is no plain place.

    What load_state_dict does besides, checks and hooks, has been done or is for other cases, and takes as long as
    the rest of loading.
    """
    places = {}
    for prefix, module in network.named_modules(remove_duplicate=False):
        dot = prefix and prefix + "."
        for table in (module._parameters, module._buffers):
            places.update({dot + name: (table, name) for name, value in table.items() if value is not None})
    if not state.keys() <= places.keys():
        return False
    for key, value in state.items():
        table, name = places[key]
        weight = isinstance(table[name], torch.nn.Parameter)
        table[name] = torch.nn.Parameter(value, requires_grad=False) if weight else value
    return True


def fit(own: Mapping[str, tuple[int, ...]], weights: Weights) -> dict[str, str]:
    """The network's names, each with the name that the weights have for it; those without one are left out."""
    if any(old in name.split(".") for name in weights for old in OLD_ATTENTION if "mid_block.attentions" in name):
        pieces, _ = inward(weights, old_attention())
        renamed = {name: piece.sources[0] for name, piece in pieces.items()}
        return {name: renamed[name] for name in own if name in renamed}
    return {name: given for name in own if (given := next(_spellings(name, weights), None))}


def _spellings(name: str, weights: Weights) -> Iterator[str]:
    for other in (name, TIED.get(name)):
        if other is None:
            continue
        bare = next((other.removeprefix(shell) for shell in _SHELLS if other.startswith(shell)), other)
        for spelling in (other, bare, *(shell + bare for shell in _SHELLS)):
            if spelling in weights:
                yield spelling


def _check(
    origin: object, own: Mapping[str, tuple[int, ...]], names: Mapping[str, str], weights: Weights,
    extra: tuple[str, ...],
) -> None:  # fmt: skip
    if missing := sorted(set(own) - set(names)):
        raise CheckpointError(f"{origin}: {len(missing)} weights are missing, the first is {missing[0]}")
    if extra:
        raise CheckpointError(f"{origin}: {len(extra)} weights are unexpected, the first is {sorted(extra)[0]}")
    for name, given in names.items():
        shape = weights.shape(given)
        # A 1 x 1 convolution and a linear layer hold the same numbers.
        if shape != own[name] and (*own[name], 1, 1) != shape:
            raise CheckpointError(f"{origin}: {given} has shape {shape}; its configuration asks for {own[name]}")


def _kept_wide(network: Any, dtype: torch.dtype) -> tuple[str, ...]:
    """Modules that the network's class keeps in float32 when its weights are of `dtype`."""
    if dtype == torch.float32:
        return ()
    modules = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    if hasattr(network, "from_config"):
        return modules
    # transformers means the plain list for float16 alone, and the strict one for every narrow dtype.
    strict = tuple(getattr(network, "_keep_in_fp32_modules_strict", None) or ())
    return strict + (modules if dtype == torch.float16 else ())
