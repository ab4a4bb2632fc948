"""An adapter file's tensors, read when they are asked for. Safetensors; pickles only where the caller allows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is in a file.

    Attributes:
        file: where it is.
        shapes: the shape of every tensor, by its key.
        read: gives the tensor of a key, on the CPU, in the file's dtype.
        texts: what the file says about itself in words, by key.
    """

    file: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    texts: Mapping[str, str] = field(default_factory=dict)


def open_file(file: Path, *, allow_pickle: bool = False) -> Contents:
    """The contents of an adapter file.

    Raises:
        CheckpointError: it is missing, empty, damaged, of another kind, or a pickle that was not allowed.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix.lower() == ".safetensors":
        return _safetensors(file, start)
    if not allow_pickle:
        raise CheckpointError(
            f"{file} is a pickle, which can run code; allow_pickle=True (--allow-pickle) reads it as weights only"
        )
    return _pickle(file)


def _safetensors(file: Path, start: bytes) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(file, "pt")
        keys = list(handle.keys())
        shapes = {key: tuple(handle.get_slice(key).get_shape()) for key in keys}
        texts = handle.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        if start.lstrip()[:1] == b"<":
            raise CheckpointError(f"{file} is a web page, not a safetensors file; fetch it again") from error
        if start[:2] in (b"PK", b"\x80\x02"):
            raise CheckpointError(f"{file} is a pickle under another name, not a safetensors file") from error
        size = file.stat().st_size
        raise CheckpointError(f"{file} ({size:,} bytes) is no whole safetensors file: {error}") from error
    if not keys:
        raise CheckpointError(f"{file} holds no tensor")
    return Contents(file=file, shapes=shapes, read=handle.get_tensor, texts=_beside(file) | texts)


def _beside(file: Path) -> dict[str, str]:
    """What peft writes next to its weights, in the words in which diffusers puts it into the file itself."""
    config = file.with_name("adapter_config.json")
    if not config.is_file():
        return {}
    try:
        found = json.loads(config.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config} cannot be read: {error}") from error
    return {"lora_adapter_metadata": json.dumps(found)} if isinstance(found, dict) else {}


def _pickle(file: Path) -> Contents:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file} is damaged, or holds more than tensors and is not read: {reason}") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    leaves = dict(_leaves("", found))
    tensors = {key: value for key, value in leaves.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{file} holds no tensor")
    return Contents(
        file=file, shapes={key: tuple(tensor.shape) for key, tensor in tensors.items()}, read=tensors.__getitem__,
        texts={key: value for key, value in leaves.items() if isinstance(value, str)},
    )  # fmt: skip


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value
