"""The finished model as an ordinary diffusers StableDiffusionPipeline folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import DPMSolverMultistepScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from diffgen.errors import UsageError
from diffgen.train.denoiser import PATH

LIMIT = 40_000_000
# What the checkpoint is best drawn with, chosen by looking at grids.
DEFAULTS: dict[str, Any] = {
    "sampler": "dpmpp_2m",
    "schedule": "trailing",
    "steps": 20,
    "guidance": 3.5,
    "size": [128, 128],
}


def scheduler() -> DPMSolverMultistepScheduler:
    """The scheduler with the betas that the denoiser was trained on, and the walk that `DEFAULTS` names."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=PATH["count"],
        beta_schedule=PATH["kind"],
        rescale_betas_zero_snr=PATH["zero_snr"],
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def assemble(folder: Path, *, autoencoder: Path, text_encoder: Path, unet: Path) -> int:
    """`write` from folders of trained parts; return the bytes written.

    Args:
        text_encoder: holds `text_encoder` and `tokenizer`, as a text-encoder run's `model` and a checkpoint do.

    Raises:
        UsageError: as `write`, or a folder is missing.
    """
    for part in (autoencoder, text_encoder / "text_encoder", text_encoder / "tokenizer", unet):
        if not part.is_dir():
            raise UsageError(f"there is no folder {part}")
    return write(
        folder,
        vae=AutoencoderKL.from_pretrained(autoencoder, torch_dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(text_encoder / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(text_encoder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(unet, torch_dtype=torch.float32),
    )


def write(
    folder: Path,
    *,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    defaults: dict[str, Any] | None = None,
) -> int:
    """Write the five parts in float16 with model_index.json and diffgen.json; return the bytes written.

    Args:
        defaults: see `DEFAULTS`.

    Raises:
        UsageError: a weight does not fit float16, or the folder is larger than `LIMIT`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {"vae": vae, "text_encoder": text_encoder, "unet": unet}
    for name, part in parts.items():
        half = {key: value.to(torch.float16) for key, value in part.state_dict().items() if value.is_floating_point()}
        if not all(value.isfinite().all() for value in half.values()):
            raise UsageError(f"the {name} holds weights that float16 cannot; it is not fit to be exported")
        (folder / name).mkdir(exist_ok=True)
        _save_half(part, folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    _save_word_lists(folder / "tokenizer")
    scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(_index(), indent=2) + "\n")
    (folder / "diffgen.json").write_text(json.dumps(defaults or DEFAULTS, indent=2) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LIMIT:
        raise UsageError(f"the exported model has {size:,} bytes; at most {LIMIT:,} are wanted")
    return size


def _save_word_lists(folder: Path) -> None:
    """Write vocab.json and merges.txt, which older loaders want, out of tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _save_half(part: Any, folder: Path) -> None:
    """Save in float16 without changing the module in hand."""
    kept = {name: value.data for name, value in part.named_parameters()}
    for value in part.parameters():
        value.data = value.data.to(torch.float16)
    part.save_pretrained(folder)
    # transformers takes the dtype on disk for the one to run in; diffusers' pipelines run in float32 unless told.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)  # a path of the machine that trained it
    if "dtype" in config:
        config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, value in part.named_parameters():
        value.data = kept[name]


def _index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
