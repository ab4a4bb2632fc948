"""One component of a diffusers folder at a time: configuration, then weights straight into their dtype."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode

from diffgen.errors import CheckpointError


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        CheckpointError: it is missing or is not a JSON object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; a diffusers folder has it") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} must hold a JSON object; it holds a {type(found).__name__}")
    return found


_SHARD = re.compile(r"-\d+-of-\d+$")


def weight_files(folder: Path) -> tuple[str | None, tuple[Path, ...]]:
    """(variant, files) of a component folder: one file, or all the shards of one.

    A folder may hold several variants, such as "fp16" in model.fp16.safetensors. The plain one is taken where there
    is one, because it has the most precision, and else the first by name.

    Raises:
        CheckpointError: there are none, or only pickles, which can run code when opened.
    """
    groups: dict[tuple[str, bool], list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        whole = _SHARD.sub("", file.stem)
        groups.setdefault((whole.partition(".")[2], whole != file.stem), []).append(file)
    if groups:
        variant, sharded = min(groups)
        return variant or None, tuple(groups[variant, sharded])
    pickles = [file.name for pattern in ("*.bin", "*.ckpt", "*.pt") for file in folder.glob(pattern)]
    if pickles:
        raise CheckpointError(f"{folder / pickles[0]} is a pickle, which can run code; diffgen reads .safetensors")
    raise CheckpointError(f"{folder} has no .safetensors file")


def read_weights(
    folder: Path, dtype: torch.dtype | None, device: torch.device, wide: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """All tensors of a component, shards included, in `dtype` (None keeps the one on disk).

    Tensors of the modules named in `wide` come in float32 whatever `dtype` is.

    Raises:
        CheckpointError: a file is missing, truncated or not safetensors.
    """
    weights = {}
    for file in weight_files(folder)[1]:
        try:
            with safe_open(file, framework="pt", device=str(device)) as source:
                for key in source.keys():  # noqa: SIM118  (safe_open is no mapping)
                    tensor = source.get_tensor(key)
                    kept = torch.float32 if set(key.split(".")) & set(wide) else dtype
                    weights[key] = tensor.to(kept) if kept and tensor.is_floating_point() else tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or not safetensors: {error}") from None
    return weights


def load_network(kind: type, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A diffusers network: built without memory, then given the file's tensors themselves.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape.
    """
    config = read_json(folder / "config.json")
    with _EmptyOnMeta():
        network = kind.from_config(config)  # type: ignore[attr-defined]
    weights = read_weights(folder, dtype, device, getattr(kind, "_keep_in_fp32_modules", None) or ())
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _compare(folder, own, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    network.load_state_dict(weights, strict=True, assign=True)
    # The weights are there already; this moves the tables that no file holds.
    return network.requires_grad_(False).eval().to(device)


class _EmptyOnMeta(TorchFunctionMode):
    """Weights are made by torch.empty and take no memory. What a constructor computes and no file holds, such as
    rotary angles, is real, whether it is kept in a buffer, an attribute or a list.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


def _compare(folder: Path, own: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> None:
    missing, extra = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    shapes = [name for name in own if name in given and own[name] != given[name]]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    if extra:
        raise CheckpointError(f"{folder}: {len(extra)} weights are unexpected, the first is {extra[0]}")
    if shapes:
        name = shapes[0]
        raise CheckpointError(f"{folder}: {name} has shape {given[name]}; its config.json asks for {own[name]}")


def load_transformer(kind: type, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A transformers network, through its own loader, which knows the renamed keys of older files.

    Raises:
        CheckpointError: keys are missing, or a file cannot be read.
    """
    variant, _ = weight_files(folder)
    read_json(folder / "config.json")
    try:
        network, report = kind.from_pretrained(  # type: ignore[attr-defined]
            folder, dtype=dtype, variant=variant, local_files_only=True, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {error}") from None
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    return network.requires_grad_(False).eval().to(device)
