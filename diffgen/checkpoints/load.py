"""The one door to a checkpoint: a name or a path in, a `Model` out.

torch and the network libraries are imported by `load` itself, so that finding and naming models costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diffgen.checkpoints.fingerprint import fingerprint
from diffgen.contracts import Family
from diffgen.errors import CheckpointError, UsageError, unknown

if TYPE_CHECKING:
    import torch

BOX = "box"
DTYPES = ("float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16"}


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: its family, and where it came from."""

    family: Family
    name: str
    path: Path

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the weights, in hex; part of every recipe."""
        return fingerprint(self.path)


def find(model: str | Path | None) -> tuple[str, Path]:
    """(name, folder) of a model: None or "box" is the model in the box; anything else is a path.

    Raises:
        CheckpointError: there is nothing at that path.
    """
    if model is None or str(model) == BOX:
        import diffgen.assets

        return BOX, Path(next(iter(diffgen.assets.__path__))) / "box"
    path = Path(model).expanduser()
    if not path.exists():
        raise CheckpointError(f"there is no model at {path}; give 'box', or the path of a diffusers folder")
    return path.resolve().name, path


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, then MPS, then the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda", "mps"]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r} was asked for, and this machine has no CUDA device; accepted: cpu, auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is float32 on the CPU, else bfloat16 where it is native, else float16."""
    import torch

    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    dtype: torch.dtype = getattr(torch, dtype_name(name))
    return dtype


def dtype_name(name: str) -> str:
    """The full name of a dtype given by its full or short name.

    Raises:
        UsageError: there is no such dtype.
    """
    full = _SHORT.get(name, name)
    if full not in DTYPES:
        raise unknown("dtype", name, ["auto", *DTYPES, *_SHORT])
    return full


def load(model: str | Path | None = None, *, dtype: str = "auto", device: str = "auto") -> Model:
    """Loads a checkpoint from a diffusers folder. Nothing is fetched.

    Args:
        model: None or "box" for the model in the box, else a path.
        dtype: "auto", "float32", "bfloat16", "float16" or a short name such as "bf16".
        device: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        CheckpointError: it is missing, damaged, or of a kind diffgen does not know.
        UsageError: the dtype or device is unknown.
    """
    from diffgen import families
    from diffgen.checkpoints.folder import read_folder

    name, path = find(model)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    if path.is_file():
        raise CheckpointError(f"{path} is a single file; diffgen reads diffusers folders")
    with _no_progress_bars():
        parts = read_folder(path, precision, place)
    family = families.build(parts)
    return Model(_with_own_defaults(path, family), name, path)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for every encoder it loads, on a standard error that is not its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _with_own_defaults(path: Path, family: Family) -> Family:
    """The family with the checkpoint's own choice in `diffgen.json`, over what its scheduler config implies."""
    file = path / "diffgen.json"
    if not file.is_file():
        return family
    from diffgen.checkpoints.components import read_json

    given = read_json(file)
    known = {key: given[key] for key in ("sampler", "schedule", "steps", "guidance", "settings") if key in given}
    if "schedule" in known:
        known.setdefault("settings", {})
    return replace(cast(Any, family), defaults=replace(family.defaults, **known))
