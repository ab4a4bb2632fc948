"""A diffusers folder, read component by component as its model_index.json lists them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.components import load_network, load_transformer, read_json
from diffgen.errors import CheckpointError
from diffgen.families.common import Parts

# Loaded by no family: a safety checker is another model's verdict on the picture, not part of making it.
SKIPPED = {"safety_checker"}


def read_folder(folder: Path, dtype: torch.dtype, device: torch.device) -> Parts:
    """The parts of a diffusers folder.

    Raises:
        CheckpointError: the index, a component or a class is missing, damaged or unknown.
    """
    index = read_json(folder / "model_index.json")
    components: dict[str, Any] = {}
    configs: dict[str, Mapping[str, Any]] = {}
    for name, entry in index.items():
        if name.startswith("_") or name in SKIPPED or not isinstance(entry, list) or None in entry:
            continue
        library, kind = entry
        if name.endswith("scheduler"):
            config = read_json(folder / name / "scheduler_config.json")
            configs[name] = {"_class_name": kind, **config}
        else:
            components[name] = _component(library, kind, folder / name, dtype, device)
    return Parts(origin=folder, index=index, components=components, configs=configs)


def _component(library: str, kind: str, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """One component. Only classes of diffusers and transformers are built: nothing from the folder is run."""
    if library not in {"diffusers", "transformers"}:
        raise CheckpointError(f"{folder} needs a class of {library!r}; accepted: diffusers, transformers")
    found = getattr(import_module(library), kind, None)
    if found is None:
        raise CheckpointError(f"{folder} needs {library}.{kind}, which the installed {library} does not have")
    if hasattr(found, "from_config"):
        return load_network(found, folder, dtype, device)
    if issubclass(found, torch.nn.Module):
        return load_transformer(found, folder, dtype, device)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing; model_index.json lists a {kind} there")
    try:
        return found.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read as {kind}: {error}") from None
