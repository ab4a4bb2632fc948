"""Writes the lists in `configs/keys/` from the carried configurations: python -m diffgen.checkpoints.write_keys

Needed after a change of a configuration or a layout; a test says when.
"""

from __future__ import annotations

from importlib import import_module

from diffgen.checkpoints.blueprint import Slot, blueprint, carried, part_slot
from diffgen.checkpoints.keys import outward
from diffgen.checkpoints.layouts import LAYOUTS
from diffgen.checkpoints.manifest import Shapes, file_of, fold
from diffgen.checkpoints.networks import empty_network
from diffgen.checkpoints.table import Row, rows


def slot_of(row: Row) -> Slot | None:
    """The network that a row describes, where its configuration is carried."""
    if row.role != "denoiser":
        return part_slot(row.name)
    if row.name not in carried():
        return None
    told = "epsilon" if row.name.startswith("sd2") else None
    return next(slot for slot in blueprint(row.name, prediction=told).slots if slot.role == "denoiser")


def shapes_of(row: Row) -> Shapes:
    """Names and shapes of a row's network in the row's own layout; empty where it cannot be written."""
    slot = slot_of(row)
    if slot is None or row.layout not in LAYOUTS:
        return {}
    library, _, kind = slot.kind.partition(".")
    network = empty_network(getattr(import_module(library), kind), slot.config)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    # One of two names for the same table, and not the one in files.
    shapes.pop("encoder.embed_tokens.weight", None)
    if row.layout == "open-clip":
        shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    pieces, unknown = outward(shapes, LAYOUTS[row.layout](slot.config))
    assert not unknown, (row.name, unknown[:3])
    return {key: piece.shape(shapes) for key, piece in pieces.items()}


def main() -> None:
    """Writes all lists."""
    for row in rows():
        if shapes := shapes_of(row):
            file_of(row).write_text("\n".join(fold(shapes)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
