"""Flux Redux from its diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffgen.errors import CheckpointError

if TYPE_CHECKING:
    from diffgen.families.redux import Redux


def load_redux(path: str | Path, *, dtype: str = "auto", device: str = "auto") -> Redux:
    """What turns pictures into tokens for a Flux.1 checkpoint: its `look`.

    Args:
        path: the folder of a FluxPriorReduxPipeline.
        dtype, device: as for `diffgen.load`.

    Raises:
        CheckpointError: it is no such folder, or a part of it is missing or damaged.
    """
    from diffgen.checkpoints.components import read_json
    from diffgen.checkpoints.folder import read_folder
    from diffgen.checkpoints.load import pick_device, pick_dtype
    from diffgen.families.redux import PIPELINE, build

    folder = Path(path).expanduser()
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(f"there is no model_index.json in {folder}; Redux is given as a diffusers folder")
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind != PIPELINE:
        raise CheckpointError(f"{folder} holds a {kind}; Redux is a {PIPELINE}")
    place = pick_device(device)
    return build(read_folder(folder, pick_dtype(dtype, place), place))
