"""Every name a layer goes by, built from the network itself: diffusers' own, old ones of diffusers, and the authors'.

A name leads to the parts of our layers that it stands for. Usually that is one whole layer; the authors' fused layers
(`qkv`) lead to several of ours, and a layer whose halves diffusers exchanged leads to two parts of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffgen.naming.lines import lines
from diffgen.naming.tables import LAYOUTS


@dataclass(frozen=True, kw_only=True)
class Piece:
    """`rows` rows of the named layer, from `source` on, are rows of our `layer` from `target` on."""

    layer: str
    source: int
    target: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of one network.

    Attributes:
        dotted: a name with dots -> its pieces.
        flat: the same with "_" for every dot, as kohya writes names.
        known_as: our layer -> every dotted name that leads to a part of it, for patterns of blocks.
    """

    dotted: Mapping[str, tuple[Piece, ...]]
    flat: Mapping[str, tuple[Piece, ...]]
    known_as: Mapping[str, tuple[str, ...]]


def layers_of(network: Any) -> dict[str, int]:
    """Our layers, by name, with their rows. A parameter that is no weight or bias of a module is a layer itself."""
    found: dict[str, int] = {}
    modules = dict(network.named_modules())
    for name, parameter in network.named_parameters(remove_duplicate=False):
        owner, _, kind = name.rpartition(".")
        layer = owner if kind in ("weight", "bias") else name
        # Quantised weights are packed: their shape says nothing, the module still knows.
        rows = getattr(modules.get(layer), "out_features", None) or (parameter.shape[0] if parameter.ndim else 1)
        found.setdefault(layer, int(rows))
    return found


def names_of(network: Any) -> Names:
    """Every name of every layer of a network."""
    layers = layers_of(network)
    dotted: dict[str, tuple[Piece, ...]] = {}
    for layer, rows in layers.items():
        dotted[layer] = (Piece(layer=layer, source=0, target=0, rows=rows),)
    kind = type(network).__name__
    authors = _from_table(LAYOUTS.get(kind, ""), network, layers)
    if kind.startswith("UNet"):
        authors = {**authors, **{name: dotted[layer] for name, layer in unet_names(layers)}}
    # A real name is never given another meaning by a table.
    dotted |= {name: pieces for name, pieces in authors.items() if name not in dotted}
    for name, pieces in list(dotted.items()):
        for old in _old_names(name):
            dotted.setdefault(old, pieces)
    known: dict[str, list[str]] = {}
    for name, pieces in dotted.items():
        for layer in {piece.layer for piece in pieces}:
            known.setdefault(layer, []).append(name)
    return Names(
        dotted=dotted, flat={name.replace(".", "_"): pieces for name, pieces in reversed(dotted.items())},
        known_as={layer: tuple(found) for layer, found in known.items()},
    )  # fmt: skip


def _old_names(name: str) -> Iterator[str]:
    """What a layer was called before: attention processors held LoRAs themselves, and CLIP had one module more."""
    if name.endswith(".to_out.0"):
        yield name.removesuffix(".0")
    plain = name.removeprefix("text_model.")
    if plain.startswith(("encoder.", "embeddings.", "final_layer_norm")):
        for full in (plain, f"text_model.{plain}"):
            yield full
            for new, old in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
                if full.endswith(f".self_attn.{new}"):
                    yield full.removesuffix(new) + old


def _pattern(template: str) -> re.Pattern[str]:
    wild = {"**": r"(.+)", "*": r"([^.]+)"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in re.split(r"(\*\*?)", template)))


def _fill(template: str, found: Iterable[str]) -> str:
    values = iter(found)
    return re.sub(r"\*\*?", lambda _: next(values), template)


def _from_table(table: str, network: Any, layers: Mapping[str, int]) -> dict[str, tuple[Piece, ...]]:
    names: dict[str, tuple[Piece, ...]] = {}
    for line in lines(table):
        pattern = _pattern(line.ours[0])
        for layer in layers:
            found = pattern.fullmatch(layer)
            filled = [_fill(part, found.groups()) for part in line.ours] if found else []
            if found and all(part in layers for part in filled):
                halves = line.swap == "swap" or (line.swap == "swap?" and _is_pair(network, layer))
                names[_fill(line.original, found.groups())] = _pieces(filled, layers, halves)
    return names


def _is_pair(network: Any, layer: str) -> bool:
    """Whether a modulation gives a shift and a scale and nothing else: twice as many rows as columns."""
    weight = network.get_parameter(f"{layer}.weight")
    return bool(weight.shape[0] == 2 * weight.shape[1])


def _pieces(parts: list[str], layers: Mapping[str, int], swapped: bool) -> tuple[Piece, ...]:
    if swapped:
        half = layers[parts[0]] // 2
        return (
            Piece(layer=parts[0], source=half, target=0, rows=half),
            Piece(layer=parts[0], source=0, target=half, rows=half),
        )
    pieces, start = [], 0
    for part in parts:
        pieces.append(Piece(layer=part, source=start, target=0, rows=layers[part]))
        start += layers[part]
    return tuple(pieces)


# The parts of a residual block, in latent-diffusion's words and in diffusers'.
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_UNET = {
    "input_blocks.0.0": "conv_in", "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out", "out.2": "conv_out", "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0", "middle_block.2": "mid_block.resnets.1",
}  # fmt: skip


def unet_names(layers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(latent-diffusion's name, ours) of the layers of a U-Net (2112.10752; SDXL has the same numbering).

    Latent-diffusion numbers the steps of each half through, where diffusers numbers blocks and steps within them.
    """
    layers = list(layers)
    owners = {part for layer in layers for part in _prefixes(layer)}
    blocks = dict(_UNET)
    for half, first in (("down", 1), ("up", 0)):
        number, block = first, 0
        side = "input_blocks" if half == "down" else "output_blocks"
        while (own := f"{half}_blocks.{block}") in owners:
            step = 0
            while f"{own}.resnets.{step}" in owners:
                blocks[f"{side}.{number}.0"] = f"{own}.resnets.{step}"
                blocks[f"{side}.{number}.1"] = f"{own}.attentions.{step}"
                number, step = number + 1, step + 1
            if f"{own}.downsamplers.0" in owners:
                blocks[f"{side}.{number}.0.op"] = f"{own}.downsamplers.0.conv"
                number += 1
            # The upsampler stands in the last step, behind its attention where it has one.
            place = 2 if f"{own}.attentions.0" in owners else 1
            blocks[f"{side}.{number - 1}.{place}.conv"] = f"{own}.upsamplers.0.conv"
            block += 1
    originals = {ours: original for original, ours in blocks.items()}
    inner = {ours: original for original, ours in _RESNET.items()}
    for layer in layers:
        for owner in _prefixes(layer):
            if owner in originals:
                rest = layer[len(owner) :].lstrip(".")
                rest = inner.get(rest, rest) if ".resnets." in owner else rest
                yield f"{originals[owner]}.{rest}".rstrip("."), layer


def _prefixes(layer: str) -> list[str]:
    parts = layer.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]
