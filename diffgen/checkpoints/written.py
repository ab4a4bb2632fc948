"""How a model lies on disk: a diffusers folder, or one file in the original layout; tensors under their names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.blueprint import Blueprint
from diffgen.checkpoints.keys import outward
from diffgen.checkpoints.layouts import LAYOUTS
from diffgen.checkpoints.tensors import Source, Weights, is_mark
from diffgen.checkpoints.write import Item, Progress, write_safetensors
from diffgen.errors import CheckpointError

_CPU = torch.device("cpu")
# By the class of a network: the layout of the original file.
LAYOUT = {
    "UNet2DConditionModel": "unet", "AutoencoderKL": "kl", "FluxTransformer2DModel": "flux",
    "ChromaTransformer2DModel": "chroma", "SD3Transformer2DModel": "sd3", "WanTransformer3DModel": "wan",
    "AutoencoderKLWan": "wan-vae", "LTXVideoTransformer3DModel": "ltx", "ZImageTransformer2DModel": "z-image",
    "HunyuanVideoTransformer3DModel": "hunyuan-video", "Flux2Transformer2DModel": "flux2", "AutoencoderKLFlux2": "kl",
    "MochiTransformer3DModel": "mochi", "AuraFlowTransformer2DModel": "auraflow", "SanaTransformer2DModel": "sana",
    "Lumina2Transformer2DModel": "lumina2", "PixArtTransformer2DModel": "pixart", "AutoencoderKLMochi": "same",
    "QwenImageTransformer2DModel": "same", "AutoencoderKLQwenImage": "wan-vae", "AutoencoderDC": "same",
    "AutoencoderKLHunyuanVideo": "same", "CogVideoXTransformer3DModel": "same", "AutoencoderKLCogVideoX": "same",
}  # fmt: skip


# What ComfyUI calls text encoders in one file.
_ENCODERS = {
    "T5EncoderModel": "t5xxl", "UMT5EncoderModel": "umt5xxl", "Qwen3Model": "qwen3_4b",
    "Qwen3ForCausalLM": "qwen3_4b", "Gemma2Model": "gemma2_2b",
    "LlamaModel": "llama",
}  # fmt: skip
# A component as it comes from a source: the empty network, and its weights under its own names.
Parts = Mapping[str, tuple[Any, Weights]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to write, in which dtype (None keeps each), and whom to tell how far it is."""

    path: Path
    dtype: torch.dtype | None
    progress: Progress | None = None

    def write(self, file: Path, items: Mapping[str, Item], metadata: Mapping[str, str] | None = None) -> None:
        """Writes a weight file."""
        write_safetensors(file, items, metadata, self.progress)


def write_as_it_is(source: Source, to: Target) -> None:
    """The same file in another dtype, under the same names."""
    weights = Weights.plain([source])
    items = {name: _item(weights, name, to.dtype) for name in weights if to.dtype is None or not is_mark(name)}
    to.write(to.path, items, source.header.metadata if source.header.format == "safetensors" else {})


def _item(weights: Weights, name: str, kind: torch.dtype | None) -> Item:
    own = weights.dtype(name)
    told = kind if kind is not None and own.is_floating_point else own
    return Item(told, weights.shape(name), partial(weights.get, name, told, _CPU))


def write_folder(plan: Blueprint, parts: Parts, components: Mapping[str, Any], to: Target) -> None:
    """A diffusers folder: every component's configuration, the weights of `parts`, and the index."""
    end = to.path
    index: dict[str, Any] = {"_class_name": plan.pipeline}
    for name, component in components.items():
        index[name] = [type(component).__module__.partition(".")[0], type(component).__name__]
        if name in parts:
            network, weights = parts[name]
            if hasattr(network, "save_config"):
                network.save_config(end / name)
            else:
                network.config.architectures = [type(network).__name__]
                network.config.save_pretrained(end / name)
            write_weights(plan, name, weights, to)
        else:
            component.save_pretrained(end / name)
    index["scheduler"] = ["diffusers", plan.scheduler["_class_name"]]
    index |= {key: value for key, value in plan.index.items() if not isinstance(value, list) and key not in index}
    for name, value in (("scheduler/scheduler_config.json", plan.scheduler), ("model_index.json", index)):
        (end / name).parent.mkdir(parents=True, exist_ok=True)
        (end / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_weights(plan: Blueprint, name: str, weights: Weights, to: Target) -> None:
    """The weights of one component of a folder."""
    slot = next(slot for slot in plan.slots if slot.name == name)
    file = "model.safetensors" if slot.kind.startswith("transformers.") else "diffusion_pytorch_model.safetensors"
    to.write(to.path / name / file, {key: _item(weights, key, to.dtype) for key in weights})


def write_single(plan: Blueprint, parts: Parts, to: Target) -> None:
    """One file in the original layout.

    Raises:
        CheckpointError: something has no place or no name there.
    """
    items: dict[str, Item] = {}
    for name, prefix, layout in _places(plan, parts):
        network, weights = parts[name]
        if layout == "open-clip":
            weights = weights.renamed({key.removeprefix("text_model."): key for key in weights})
        elif prefix.startswith(("cond_stage", "conditioner", "text_encoders.clip")):
            # Loaders of original files know the names from before transformers 5.6.
            bare = ("text_model.", "text_projection.")
            weights = weights.renamed({key if key.startswith(bare) else f"text_model.{key}": key for key in weights})
        config = dict(network.config) if hasattr(network, "save_config") else network.config.to_dict()
        pieces, unknown = outward(weights, LAYOUTS[layout](config))
        if unknown:
            raise CheckpointError(f"{name} has {unknown[0]}, for which the original layout has no name")
        for theirs, piece in pieces.items():
            shapes = {key: weights.shape(key) for key in piece.sources}
            told = _item(weights, piece.sources[0], to.dtype).dtype
            items[prefix + theirs] = Item(told, piece.shape(shapes), partial(_take, piece, weights, told))
    to.write(to.path, items)


def _take(piece: Any, weights: Weights, kind: torch.dtype) -> torch.Tensor:
    def fetch(name: str, rows: slice | None) -> torch.Tensor:
        value = weights.get(name, kind, _CPU)
        return value if rows is None else value[rows]

    found: torch.Tensor = piece.take(fetch, lambda name: (*weights.shape(name), 1)[0])
    return found


def _places(plan: Blueprint, parts: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """(component, prefix in the file, layout) of everything that goes into one file.

    Raises:
        CheckpointError: something has no place in an original file.
    """
    kinds = {slot.name: slot.kind.partition(".")[2] for slot in plan.slots}
    sdxl = "XL" in plan.pipeline
    for name in parts:
        layout = LAYOUT.get(kinds[name])
        if layout is None and (kinds[name] in _ENCODERS or kinds[name].startswith("CLIPText")):
            layout = "same"
        if not layout or name == "transformer_2" or name == "image_encoder":
            raise CheckpointError(f"a {kinds[name]} ({name}) has no place in one file of the original layout")
        if name in {"unet", "transformer"}:
            yield name, "model.diffusion_model.", layout
        elif name == "vae":
            yield name, "first_stage_model." if "unet" in kinds else "vae.", layout
        elif sdxl:
            if name == "text_encoder":
                yield name, "conditioner.embedders.0.transformer.", "same"
            else:
                yield name, f"conditioner.embedders.{int('text_encoder' in kinds)}.model.", "open-clip"
        elif "unet" in kinds and _width(plan, name) == 1024:
            # SD 2 has OpenCLIP's encoder, under that library's names.
            yield name, "cond_stage_model.model.", "open-clip"
        elif "unet" in kinds:
            yield name, "cond_stage_model.transformer.", layout
        else:
            yield name, f"text_encoders.{_encoder(kinds[name], name)}.transformer.", layout


def _width(plan: Blueprint, name: str) -> int:
    return next(int(slot.config.get("hidden_size", 0)) for slot in plan.slots if slot.name == name)


def _encoder(kind: str, name: str) -> str:
    if kind.startswith("CLIP"):
        return "clip_g" if name == "text_encoder_2" else "clip_l"
    return _ENCODERS[kind]
