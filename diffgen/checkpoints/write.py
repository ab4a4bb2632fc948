"""Writes safetensors files a tensor at a time, so that a file larger than memory can be made."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from diffgen.checkpoints.tensors import NAMES
from diffgen.errors import CheckpointError


@dataclass(frozen=True)
class Item:
    """A tensor that is about to be written: its dtype and shape are known before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


# Called with a file, how many of its bytes are written, and how many it will have.
Progress = Callable[[Path, int, int], None]


def write_safetensors(
    file: Path, items: Mapping[str, Item], metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Writes `items` under their names, sorted by dtype and name as other writers do.

    The file appears under its name when it is whole: a reader of an older one keeps what it has.

    Args:
        progress: called after every tensor.

    Raises:
        CheckpointError: the file cannot be written.
    """
    order = sorted(items, key=lambda name: (-items[name].dtype.itemsize, name))
    table: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    at = 0
    for name in order:
        item = items[name]
        end = at + math.prod(item.shape) * item.dtype.itemsize
        table[name] = {"dtype": NAMES[item.dtype], "shape": list(item.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name in order:
                value = items[name].read().contiguous()
                assert value.dtype == items[name].dtype and tuple(value.shape) == items[name].shape, name
                stream.write(value.flatten().view(torch.uint8).numpy().data)
                if progress is not None:
                    progress(file, stream.tell(), 8 + len(text) + at)
        temporary.replace(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
