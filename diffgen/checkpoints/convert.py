"""From one way of storing a model to another, bit for bit unless another dtype is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.assemble import Choice, Gathered, choose
from diffgen.checkpoints.blueprint import Blueprint, Slot, from_folder
from diffgen.checkpoints.components import folder_weights
from diffgen.checkpoints.keys import outward
from diffgen.checkpoints.layouts import LAYOUTS
from diffgen.checkpoints.load import dtype_name
from diffgen.checkpoints.networks import TIED, empty_network, fit
from diffgen.checkpoints.single import Files, add_plain, missing, opened
from diffgen.checkpoints.tensors import Weights, is_mark, open_source
from diffgen.checkpoints.write import Item, write_safetensors
from diffgen.errors import CheckpointError, UsageError

_CPU = torch.device("cpu")
# By the class of a network: the layout of the original file.
_LAYOUT = {
    "UNet2DConditionModel": "unet", "AutoencoderKL": "kl", "FluxTransformer2DModel": "flux",
    "ChromaTransformer2DModel": "chroma", "SD3Transformer2DModel": "sd3", "WanTransformer3DModel": "wan",
    "AutoencoderKLWan": "wan-vae", "LTXVideoTransformer3DModel": "ltx", "ZImageTransformer2DModel": "z-image",
}  # fmt: skip


def convert(
    source: str | Path, target: str | Path, *, dtype: str | None = None, overwrite: bool = False, **files: Any
) -> tuple[str, ...]:
    """Writes a model another way, and returns notes on tensors of the source that the target has no place for.

    Args:
        source: a diffusers folder, or a file with the denoiser in its original layout.
        target: a name ending in .safetensors for one file in the original layout, any other for a diffusers folder.
        dtype: of all floats in the target; None leaves each as it is.
        overwrite: whether the target may exist.
        files: further files and choices for a single source, as `load` takes them (vae, text_encoder, config ...).
    Raises:
        CheckpointError: the source is damaged, incomplete or of a kind that cannot be written that way.
        UsageError: the target exists, or the dtype is unknown.
    """
    start, end = Path(source).expanduser(), Path(target).expanduser()
    kind = None if dtype is None else getattr(torch, dtype_name(dtype))
    if end.exists() and not overwrite:
        raise UsageError(f"{end} exists; another name, or overwrite=True (--overwrite)")
    if not start.exists():
        raise CheckpointError(f"there is no model at {start}")
    single = end.suffix == ".safetensors"
    if start.is_file() and single and not files:
        return _same_names(start, end, kind)
    if start.is_file():
        return _from_file(Files(main=start, **_paths(files)), end, kind, single)
    if files:
        raise UsageError(f"{', '.join(files)} go with a single file; {start} is a folder")
    plan = from_folder(start)
    parts = {slot.name: _of_folder(slot, start / slot.name) for slot in plan.slots}
    if single:
        _write_single(plan, parts, end, kind)
    else:
        shutil.copytree(start, end, dirs_exist_ok=overwrite, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
        for name, (_, weights) in parts.items():
            _write_weights(end / name, plan, name, weights, kind)
    return ()


def _paths(files: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: Path(value) for key, value in files.items() if key not in {"text_encoder", "kind", "prediction",
             "allow_pickle"}}  # fmt: skip
    texts = files.get("text_encoder", ())
    texts = [texts] if isinstance(texts, str | Path) else texts
    plain = {key: files[key] for key in ("kind", "prediction", "allow_pickle") if key in files}
    return {**named, **plain, "text_encoder": [Path(text) for text in texts]}


def _same_names(start: Path, end: Path, kind: torch.dtype | None) -> tuple[str, ...]:
    """The same file in another dtype."""
    source = open_source(start)
    weights = Weights.plain([source])
    items = {name: _item(weights, name, kind) for name in weights if kind is None or not is_mark(name)}
    metadata = source.header.metadata if source.header.format == "safetensors" else {}
    write_safetensors(end, items, metadata)
    return ()


def _item(weights: Weights, name: str, kind: torch.dtype | None) -> Item:
    own = weights.dtype(name)
    told = kind if kind is not None and own.is_floating_point else own
    return Item(told, weights.shape(name), partial(weights.get, name, told, _CPU))


def _of_folder(slot: Slot, folder: Path) -> tuple[Any, Weights]:
    """(the empty network, its weights under its own names)."""
    library, _, kind = slot.kind.partition(".")
    network = empty_network(getattr(import_module(library), kind), slot.config)
    return network, _named(network, folder_weights(folder), folder)


def _named(network: Any, weights: Weights, origin: object) -> Weights:
    own = network.state_dict()
    names = fit(own, weights)
    if lost := sorted(set(own) - set(names)):
        raise CheckpointError(f"{origin}: {len(lost)} weights are missing, the first is {lost[0]}")
    # Of two names for one table the first is written, as transformers does.
    return weights.renamed({name: old for name, old in names.items() if TIED.get(name) != "shared.weight"})


def _from_file(files: Files, end: Path, kind: torch.dtype | None, single: bool) -> tuple[str, ...]:
    plan, candidates = opened(files)
    gathered, parts = Gathered(), {}
    for slot in plan.slots:
        best = choose(slot, candidates)
        if best is None:
            if not slot.optional:
                raise missing(slot, plan, candidates)
        elif isinstance(best, Choice):
            parts[slot.name] = best.network, _named(best.network, best.weights, best.item.place)
            used = set(fit(best.network.state_dict(), best.weights).values())
            if extra := [name for name in best.weights if name not in used and not is_mark(name)]:
                gathered.unused.setdefault(best.item.place, []).extend(extra)
        else:
            parts[slot.name] = _of_folder(slot, best)
        if slot.name in parts:
            gathered.components[slot.name] = parts[slot.name][0]
    if single:
        _write_single(plan, parts, end, kind)
        return gathered.notes
    add_plain(plan, files, candidates, gathered)
    _write_folder(plan, parts, gathered.components, end, kind)
    return gathered.notes


def _write_folder(
    plan: Blueprint, parts: Mapping[str, tuple[Any, Weights]], components: Mapping[str, Any], end: Path,
    kind: torch.dtype | None,
) -> None:  # fmt: skip
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
            _write_weights(end / name, plan, name, weights, kind)
        else:
            component.save_pretrained(end / name)
    index["scheduler"] = ["diffusers", plan.scheduler["_class_name"]]
    index |= {key: value for key, value in plan.index.items() if not isinstance(value, list) and key not in index}
    for name, value in (("scheduler/scheduler_config.json", plan.scheduler), ("model_index.json", index)):
        (end / name).parent.mkdir(parents=True, exist_ok=True)
        (end / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_weights(folder: Path, plan: Blueprint, name: str, weights: Weights, kind: torch.dtype | None) -> None:
    slot = next(slot for slot in plan.slots if slot.name == name)
    file = "model.safetensors" if slot.kind.startswith("transformers.") else "diffusion_pytorch_model.safetensors"
    write_safetensors(folder / file, {key: _item(weights, key, kind) for key in weights})


def _write_single(
    plan: Blueprint, parts: Mapping[str, tuple[Any, Weights]], end: Path, kind: torch.dtype | None
) -> None:
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
            told = _item(weights, piece.sources[0], kind).dtype
            items[prefix + theirs] = Item(told, piece.shape(shapes), partial(_take, piece, weights, told))
    write_safetensors(end, items)


def _take(piece: Any, weights: Weights, kind: torch.dtype) -> torch.Tensor:
    def fetch(name: str, rows: slice | None) -> torch.Tensor:
        value = weights.get(name, kind, _CPU)
        return value if rows is None else value[rows]

    found: torch.Tensor = piece.take(fetch, lambda name: weights.shape(name)[0])
    return found


def _places(plan: Blueprint, parts: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """(component, prefix in the file, layout) of everything that goes into one file.

    Raises:
        CheckpointError: something has no place in an original file.
    """
    kinds = {slot.name: slot.kind.partition(".")[2] for slot in plan.slots}
    sdxl = "XL" in plan.pipeline
    for name in parts:
        layout = _LAYOUT.get(kinds[name], "same" if kinds[name].startswith(("CLIPText", "T5", "UMT5", "Qwen3")) else "")
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
    return {"T5EncoderModel": "t5xxl", "UMT5EncoderModel": "umt5xxl", "Qwen3Model": "qwen3_4b"}[kind]
