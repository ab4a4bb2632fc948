"""A LoRA file against a family's networks: which of its layers change which weights, and what is left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffgen.adapters.adapter import Adapter
from diffgen.adapters.blocks import check_used, weight_of
from diffgen.adapters.files import Contents
from diffgen.adapters.formulas import kind_of
from diffgen.adapters.keys import Group, groups_of
from diffgen.adapters.layer import Change, Layer
from diffgen.adapters.names import Names, Piece, names_of
from diffgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Target:
    """A network that LoRAs may change: its name among the family's components, and what is in it."""

    component: str
    network: Any
    names: Names
    parameters: frozenset[str]

    @classmethod
    def of(cls, component: str, network: Any) -> Target:
        """The target of a component."""
        found = frozenset(name for name, _ in network.named_parameters(remove_duplicate=False))
        return cls(component=component, network=network, names=names_of(network), parameters=found)

    def pieces(self, group: Group) -> tuple[Piece, ...] | None:
        """Where a layer of a file goes; None where this network has no such layer."""
        return (self.names.flat if group.flat else self.names.dotted).get(group.layer)

    def parameter(self, layer: str, bias: bool) -> str | None:
        """The parameter of one of our layers; None where it has none."""
        options = [f"{layer}.bias"] if bias else [f"{layer}.weight", layer]
        return next((name for name in options if name in self.parameters), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape a parameter has for its layer, whatever its storage is packed like."""
        owner, _, kind = name.rpartition(".")
        module = self.network.get_submodule(owner) if kind == "weight" else None
        outs, ins = (getattr(module, side, None) for side in ("out_features", "in_features"))
        if isinstance(outs, int) and isinstance(ins, int):
            return outs, ins
        return tuple(self.network.get_parameter(name).shape)


@dataclass(kw_only=True)
class Match:
    """What a file does to a family's networks.

    Attributes:
        changes: (component, parameter) -> what is done to it.
        kinds: how many layers there are of each kind.
        used: the keys that took effect.
        unmatched: the keys that did not, each with the reason.
    """

    changes: dict[tuple[str, str], list[Change]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    unmatched: dict[str, str] = field(default_factory=dict)


def match(adapter: Adapter, contents: Contents, targets: Mapping[str, Target]) -> Match:
    """Finds the place of every layer of a LoRA file.

    Args:
        targets: by component.

    Raises:
        UsageError: no layer has a place, every change is zero, or a block pattern means nothing.
    """
    found = Match()
    groups, strange = groups_of(contents.shapes, contents.texts)
    found.unmatched |= dict.fromkeys(strange, "not of a known kind")
    for group in groups:
        if not group.complete:
            found.unmatched |= dict.fromkeys(group.keys.values(), "a part of the layer is missing")
            continue
        having = [targets[name] for name in group.networks if name in targets and targets[name].pieces(group)]
        if not having:
            found.unmatched |= dict.fromkeys(group.keys.values(), "no such layer in this model")
        # Every denoiser that has the layer, but the first text encoder alone: "te3" may be the second or the third.
        for target in having if group.networks[0].startswith("denoiser") else having[:1]:
            _place(adapter, contents, group, target, found)
    found.unmatched = {key: reason for key, reason in found.unmatched.items() if key not in found.used}
    layers = [change.layer for changes in found.changes.values() for change in changes]
    if not layers:
        raise UsageError(_nothing(contents, found))
    _check_blocks(adapter, found, targets)
    if not any(layer.acts() for layer in layers):
        raise UsageError(f"{contents.file} changes nothing: its weights are zero, as before any training")
    return found


def _place(adapter: Adapter, contents: Contents, group: Group, target: Target, found: Match) -> None:
    """Adds what a layer does to a network's weight and bias, or the reason why not."""
    pieces = target.pieces(group) or ()
    rows, placed = sum(piece.rows for piece in pieces), False
    for bias in (False, True):
        layer = Layer(contents=contents, group=group, pieces=pieces, shape=(rows,), bias=bias)
        if not layer.keys:
            continue
        names = [name for piece in pieces if (name := target.parameter(piece.layer, bias)) is not None]
        reason = ""
        if len(names) < len(pieces):
            reason = f"this model's layer has no {'bias' if bias else 'weight'}"
        else:
            shape = (rows, *target.shape(names[0])[1:]) if target.shape(names[0]) else ()
            layer = Layer(contents=contents, group=group, pieces=pieces, shape=shape, bias=bias)
            taken = (change.layer for name in names for change in found.changes.get((target.component, name), ()))
            reason = layer.misfit()
            if any(other.group is not group for other in taken):
                reason = "the file changes the same layer under another name"
        if reason:
            found.unmatched |= dict.fromkeys(layer.keys.values(), reason)
            continue
        for name, piece in zip(names, pieces, strict=True):
            weight, _ = weight_of(adapter.blocks, target.component, target.names.known_as[piece.layer])
            change = Change(layer=layer, piece=piece, factor=adapter.strength_on(target.component) * weight)
            found.changes.setdefault((target.component, name), []).append(change)
        found.used |= {*layer.keys.values(), *([group.keys["alpha"]] if "alpha" in group.keys else [])}
        placed = True
    if placed:
        kind = kind_of(group.keys)
        found.kinds[kind] = found.kinds.get(kind, 0) + 1
    elif "alpha" in group.keys:
        found.unmatched.setdefault(group.keys["alpha"], "its layer is not used")


def _check_blocks(adapter: Adapter, found: Match, targets: Mapping[str, Target]) -> None:
    """Refuses block patterns that mean no layer of the file, nor any other layer of the model.

    Raises:
        UsageError: there is one.
    """
    if not adapter.blocks:
        return
    layers = {(component, change.piece.layer) for (component, _), own in found.changes.items() for change in own}
    known = [(component, targets[component].names.known_as[layer]) for component, layer in layers]
    used = {weight_of(adapter.blocks, component, names)[1] for component, names in known}
    if idle := {name: 1.0 for name in adapter.blocks if name not in used}:
        # A list of all blocks is right for a file that changes some of them.
        every = ((target.component, names) for target in targets.values() for names in target.names.known_as.values())
        used |= {weight_of({name: 1.0}, *one)[1] for one in every for name in idle}
    check_used(adapter.file.name, adapter.blocks, used, (layer for _, layer in layers))


def _nothing(contents: Contents, found: Match) -> str:
    examples: dict[str, str] = {}
    for key, reason in found.unmatched.items():
        examples.setdefault(reason, key)
    told = "; ".join(f"{reason}: {key}" for reason, key in examples.items())
    count = len(contents.shapes)
    return f"{contents.file} changes nothing: none of its {count} keys has a place in this model ({told})"
