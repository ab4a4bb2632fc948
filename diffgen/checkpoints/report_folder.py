"""A diffusers folder's report. Its configurations say what to expect, so its networks are built, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffgen.checkpoints.blueprint import Slot, from_folder
from diffgen.checkpoints.components import folder_weights, weight_files
from diffgen.checkpoints.headers import read_header
from diffgen.checkpoints.report import PartReport, Report, totals


def inspect_folder(folder: Path, digest: str | None) -> Report:
    """What a folder holds. Imports torch and the network libraries.

    Raises:
        CheckpointError: the index, a configuration or a weight file is missing or damaged.
    """
    plan = from_folder(folder)
    parts = tuple(_part(slot, folder / slot.name) for slot in plan.slots)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    own = folder / "diffgen.json"
    metadata = {"diffgen.json": json.dumps(json.loads(own.read_text()))} if own.is_file() else {}
    return Report(path=folder, format="diffusers folder", kind=plan.pipeline, title=plan.pipeline, size=size,
                  parts=parts, prediction=plan.scheduler.get("prediction_type"), hash=digest,
                  metadata=metadata)  # fmt: skip


def _part(slot: Slot, folder: Path) -> PartReport:
    from importlib import import_module

    from diffgen.checkpoints.networks import empty_network, fit

    library, _, kind = slot.kind.partition(".")
    _, files = weight_files(folder)
    entries = {key: entry for file in files for key, entry in read_header(file).entries.items()}
    weights = folder_weights(folder)
    network = empty_network(getattr(import_module(library), kind), slot.config)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = fit(own, weights)
    used = set(names.values())
    wrong = tuple(
        f"{given} is {weights.shape(given)} instead of {own[name]}"
        for name, given in names.items()
        if weights.shape(given) != own[name]
    )
    told: dict[str, Any] = {
        "matched": len(names) - len(wrong), "misshapen": wrong, "missing": tuple(sorted(set(own) - set(names))),
        "unexpected": tuple(sorted(key for key in entries if key not in used and not key.endswith("position_ids"))),
    }  # fmt: skip
    return PartReport(name=slot.name, role=slot.role, title=kind, place=", ".join(file.name for file in files),
                      compared=True, **totals(entries), **told)  # fmt: skip
