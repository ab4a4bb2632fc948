"""Where the levels of the schedule `optimal` are kept: beside the model they were fitted to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from diffgen.checkpoints import Model
from diffgen.errors import UsageError


def file_of(model: Model) -> Path:
    """Where a model's levels are kept: in its folder, or beside its file."""
    return model.path / "optimal.schedule.json" if model.path.is_dir() else model.path.with_suffix(".schedule.json")


def save(model: Model, levels: Sequence[float]) -> Path:
    """Keeps the levels beside the model; those of an earlier fit are replaced.

    Raises:
        UsageError: a file of another kind has that name.
    """
    file = file_of(model)
    if file.exists() and not saved(model):
        raise UsageError(f"{file} exists and holds no fitted levels; move it away")
    half = file.with_name(file.name + ".part")
    half.write_text(json.dumps({"schedule": "optimal", "levels": list(levels)}, indent=1) + "\n", encoding="utf-8")
    os.replace(half, file)
    return file


def saved(model: Model) -> dict[str, list[float]]:
    """The setting `levels` of the schedule `optimal`, as it was saved; nothing where none was."""
    try:
        found = json.loads(file_of(model).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    levels = found.get("levels") if isinstance(found, dict) and found.get("schedule") == "optimal" else None
    return {"levels": levels} if levels else {}
