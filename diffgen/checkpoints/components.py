"""One component of a diffusers folder at a time: configuration, then weights straight into their dtype."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.networks import empty_network, fill, fit
from diffgen.checkpoints.tensors import Weights, open_source
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


def folder_weights(folder: Path) -> Weights:
    """The weights of a component folder, shards included, not yet read.

    Raises:
        CheckpointError: a file is missing, truncated or not safetensors.
    """
    return Weights.plain([open_source(file) for file in weight_files(folder)[1]])


def load_network(kind: type, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A diffusers network: built without memory, then given the file's tensors themselves.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape.
    """
    network = empty_network(kind, read_json(folder / "config.json"))
    fill(network, folder_weights(folder), folder, dtype, device)
    return network


def load_transformer(kind: Any, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A transformers network, in the same way; where its names are of a kind we do not know, by its own loader.

    Raises:
        CheckpointError: keys are missing, or a file cannot be read.
    """
    config, weights = read_json(folder / "config.json"), folder_weights(folder)
    network = empty_network(kind, config)
    if len(fit(network.state_dict(), weights)) == len(network.state_dict()):
        fill(network, weights, folder, dtype, device, exact=False)
        return network
    variant, _ = weight_files(folder)
    try:
        network, report = kind.from_pretrained(
            folder, dtype=dtype, variant=variant, local_files_only=True, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {error}") from None
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    return network.requires_grad_(False).eval().to(device)
