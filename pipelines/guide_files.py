"""Files that the settings of a guidance name: a map of where it acts, and a second model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from diffgen.checkpoints import load
from diffgen.checkpoints.fingerprint import fingerprint
from diffgen.contracts import Family, Latents
from diffgen.errors import UsageError
from diffgen.recipe import Recipe

MAP, AUTO = "guidance_map", "auto_model"


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the SHA-256 of each file that they name, so that a replay knows it again."""
    found = {f"{key}_sha256": _digest(key, _path(key, settings)) for key in (MAP, AUTO) if key in settings}
    return {**settings, **found}


def region(file: Path, recipe: Recipe, family: Family) -> Latents:
    """[1, 1, 1, h, w] in 0..1 at the size of the latents: how bright the picture in `file` is.

    Raises:
        UsageError: it is no picture.
    """
    shape = family.spec.shape(batch=1, width=recipe.width or 0, height=recipe.height or 0)
    try:
        with Image.open(file) as image:
            small = image.convert("L").resize((shape[-1], shape[-2]), Image.Resampling.BOX)
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{file} cannot be read as a picture: {error}") from None
    bright = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)
    return bright.reshape(1, 1, 1, *shape[-2:]).to(family.device)


@lru_cache(maxsize=1)
def denoiser(path: Path, dtype: str, device: str) -> Any:
    """The denoiser of a second model; the last one is kept, since a run enters its patch at every step."""
    return load(path, dtype=dtype, device=device).family.components["denoiser"]


def _path(key: str, settings: Mapping[str, Any]) -> Path:
    path = Path(str(settings[key])).expanduser()
    if not path.exists():
        raise UsageError(f"{key}: there is nothing at {path}")
    return path


def taken(key: str, settings: dict[str, Any]) -> Path:
    """The path under `key`, taken out; it must be what it was when the picture was first drawn."""
    path, digest = _path(key, settings), settings.pop(f"{key}_sha256", None)
    del settings[key]
    if digest is not None and digest != _digest(key, path):
        raise UsageError(f"{key}: {path} has changed since the picture was drawn")
    return path


def _digest(key: str, path: Path) -> str:
    return fingerprint(path) if key == AUTO else hashlib.sha256(path.read_bytes()).hexdigest()
