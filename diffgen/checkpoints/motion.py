"""Motion modules on disk: what makes a picture model draw clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.checkpoints.box import BOX, asset
from diffgen.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def motion_path(motion: str | Path) -> Path:
    """The folder or file of a motion module: "box" is the one that belongs to the model in the box.

    Raises:
        CheckpointError: there is nothing at that path.
    """
    path = asset("box-motion") if str(motion) == BOX else Path(motion).expanduser()
    if not path.exists():
        raise CheckpointError(
            f"there is no motion module at {path}; give 'box', the folder of a MotionAdapter, or a file"
        )
    return path


def read_motion(path: Path, dtype: torch.dtype, device: torch.device, *, allow_pickle: bool = False) -> Any:
    """diffusers' MotionAdapter from its folder, or from a single file.

    Raises:
        CheckpointError: it is no such folder or file, or its weights are damaged or do not fit its configuration.
    """
    from diffusers import MotionAdapter

    from diffgen.checkpoints.components import load_network, read_json

    if not path.is_dir():
        from diffgen.checkpoints.motion_file import read_motion_file

        return read_motion_file(path, dtype, device, allow_pickle=allow_pickle)
    kind = read_json(path / "config.json").get("_class_name")
    if kind != "MotionAdapter":
        raise CheckpointError(f"{path} holds a {kind}; a motion module is a MotionAdapter")
    return load_network(MotionAdapter, path, dtype, device)
