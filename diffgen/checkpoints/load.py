"""The one door to a checkpoint: a name or a path in, a `Model` out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.components import load_network, load_transformer, read_json
from diffgen.checkpoints.fingerprint import fingerprint
from diffgen.checkpoints.scheduler import read as read_scheduler
from diffgen.contracts import Defaults, Family
from diffgen.errors import CheckpointError, UsageError, unknown
from diffgen.families.stable_diffusion import StableDiffusion

BOX = "box"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    full = _SHORT.get(name, name)
    if full not in DTYPES:
        raise unknown("dtype", name, ["auto", *DTYPES, *_SHORT])
    return DTYPES[full]


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
    name, path = find(model)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    if path.is_file():
        raise CheckpointError(f"{path} is a single file; diffgen reads diffusers folders")
    index = read_json(path / "model_index.json")
    kind = index.get("_class_name", "")
    if kind not in PIPELINES:
        raise CheckpointError(f"{path} holds a {kind or 'nameless pipeline'}; accepted: {', '.join(PIPELINES)}")
    return Model(PIPELINES[kind](path, index, precision, place), name, path)


def _stable_diffusion(path: Path, index: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Family:
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    autoencoder = index.get("vae", [None, "AutoencoderKL"])[1]
    if autoencoder not in {"AutoencoderKL", "AutoencoderTiny"}:
        raise CheckpointError(f"{path} has a {autoencoder}; accepted: AutoencoderKL, AutoencoderTiny")
    noise_path, prediction, defaults = read_scheduler(read_json(path / "scheduler" / "scheduler_config.json"))
    return StableDiffusion(
        unet=load_network(diffusers.UNet2DConditionModel, path / "unet", dtype, device),
        vae=load_network(getattr(diffusers, autoencoder), path / "vae", dtype, device),
        text_encoder=load_transformer(CLIPTextModel, path / "text_encoder", dtype, device),
        tokenizer=CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True),
        path=noise_path,
        prediction=prediction,
        defaults=_own_defaults(path, defaults),
    )


def _own_defaults(path: Path, defaults: Defaults) -> Defaults:
    """The checkpoint's own choice in `diffgen.json`, over what its scheduler config implies."""
    file = path / "diffgen.json"
    if not file.is_file():
        return defaults
    given = read_json(file)
    known = {key: given[key] for key in ("sampler", "schedule", "steps", "guidance", "settings") if key in given}
    if "schedule" in known:
        known.setdefault("settings", {})
    return replace(defaults, **known)


PIPELINES = {"StableDiffusionPipeline": _stable_diffusion, "StableDiffusionInpaintPipeline": _stable_diffusion}
