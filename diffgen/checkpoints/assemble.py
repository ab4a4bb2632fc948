"""A network of a model, out of whichever of the given files or folders holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.blueprint import Slot, adjusted
from diffgen.checkpoints.components import read_json
from diffgen.checkpoints.folder import read_component
from diffgen.checkpoints.keys import Piece, inward
from diffgen.checkpoints.layouts import LAYOUTS, renamed
from diffgen.checkpoints.networks import empty_network, fill, fit
from diffgen.checkpoints.recognise import Part
from diffgen.checkpoints.tensors import Source, Weights, is_mark
from diffgen.errors import CheckpointError

OPTIONS = {"vae": "vae=... (--vae)", "text": "text_encoder=... (--text-encoder)",
           "vision": "image_encoder=...", "denoiser": "denoiser_2=..."}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that was found in a file, or a component folder (then `source` and `part` are None)."""

    role: str
    place: Path
    source: Source | None = None
    part: Part | None = None


@dataclass
class Gathered:
    """What has been built so far, and the tensors that found no place, by file."""

    components: dict[str, Any] = field(default_factory=dict)
    unused: dict[Path, list[str]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left over, in sentences."""
        return tuple(
            f"{len(names)} tensors of {path.name} were not used, the first is {sorted(names)[0]}"
            for path, names in self.unused.items()
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A file that may fill a slot: the empty network, and the file's weights under its names."""

    item: Candidate
    network: Any
    weights: Weights

    @property
    def matches(self) -> int:
        """How many of the network's weights the file has, in their shapes."""
        own = {name: tuple(tensor.shape) for name, tensor in self.network.state_dict().items()}
        return sum(self.weights.shape(given) == own[name] for name, given in fit(own, self.weights).items())

    @property
    def complete(self) -> bool:
        """Whether it has all of them."""
        return self.matches == len(self.network.state_dict())


def choose(slot: Slot, candidates: Sequence[Candidate], *, whole: bool = False) -> Choice | Path | None:
    """What fills a slot: the best of the files, or the component folder that was given; None where there is neither.

    Args:
        whole: whether a file must have every weight, as where several slots compete for one file.
    Raises:
        CheckpointError: a file's layout cannot be read.
    """
    role = "denoiser_2" if slot.like else slot.role
    own = [item for item in candidates if item.role == role]
    if slot.part is not None and role != "denoiser_2":
        own = [item for item in own if item.part is None or item.part.row.name == slot.part]
    folder = next((item.place for item in own if item.source is None), None)
    if folder is not None and (place := component_folder(folder, slot)):
        return place
    choices = [prepared(slot, item) for item in own if item.source is not None]
    choices = [choice for choice in choices if not whole or choice.complete]
    return max(choices, key=lambda choice: choice.matches, default=None)


def fill_slot(
    slot: Slot, candidates: Sequence[Candidate], gathered: Gathered, dtype: torch.dtype, device: torch.device,
    *, whole: bool = False,
) -> bool:  # fmt: skip
    """Builds a slot's network from what `choose` finds; False where that is nothing.

    Raises:
        CheckpointError: weights are missing or of another shape.
    """
    best = choose(slot, candidates, whole=whole)
    if best is None:
        return False
    if isinstance(best, Path):
        library, _, kind = slot.kind.partition(".")
        gathered.components[slot.name] = read_component(library, kind, best, dtype, device)
        return True
    extra = fill(best.network, best.weights, f"{best.item.place}: {slot.name}", dtype, device, exact=False)
    gathered.components[slot.name] = best.network
    if extra:
        gathered.unused.setdefault(best.item.place, []).extend(extra)
    return True


def component_folder(folder: Path, slot: Slot) -> Path | None:
    """Where in a folder that the user gave a component lies: it is the folder itself, or one named after the slot."""
    if (folder / slot.name / "config.json").is_file():
        return folder / slot.name
    if not (folder / "config.json").is_file():
        return None
    told = read_json(folder / "config.json")
    names = [told.get("_class_name"), *told.get("architectures", [])]
    return folder if slot.kind.partition(".")[2] in names or names == [None] else None


def prepared(slot: Slot, item: Candidate) -> Choice:
    """The slot's network, with the layers that the file has, and the file's weights under its names.

    Raises:
        CheckpointError: the file's layout cannot be read.
    """
    assert item.part is not None and item.source is not None
    layout, prefix, entries = item.part.row.layout, item.part.prefix, item.part.entries(item.source.header)
    if layout is None:
        raise CheckpointError(f"{item.place} holds {item.part.row.title}, which diffgen recognises but cannot read")
    library, _, name = slot.kind.partition(".")
    config = adjusted(slot.config, slot, layout, entries)
    network = empty_network(getattr(import_module(library), name), config)
    pieces = pieces_of({key: entry.shape for key, entry in entries.items() if not is_mark(key)}, layout, config)
    weights = Weights({
        ours: (item.source, replace(piece, sources=tuple(prefix + key for key in piece.sources)))
        for ours, piece in pieces.items()
    })  # fmt: skip
    if slot.identity and slot.identity not in weights:
        weights = weights.with_made(slot.identity, torch.eye(network.state_dict()[slot.identity].shape[0]))
    if slot.unread and slot.unread not in weights:
        # One zero seen many times over: it takes no memory.
        weights = weights.with_made(slot.unread, torch.zeros(()).expand(network.state_dict()[slot.unread].shape))
    return Choice(item=item, network=network, weights=weights)


def pieces_of(shapes: Mapping[str, tuple[int, ...]], layout: str, config: Mapping[str, Any]) -> dict[str, Piece]:
    """Network name -> piece of the file; what the layout does not know keeps its name, to be reported."""
    if layout in renamed.FUNCTIONS:
        return renamed.inward(shapes, layout)
    pieces, rest = inward(shapes, LAYOUTS[layout](config))
    return {**pieces, **{key: Piece((key,)) for key in rest}}
