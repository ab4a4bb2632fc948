"""Weight files of full size that take no room: a true header, and a hole where the weights would be."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

from diffgen.checkpoints.manifest import expected
from diffgen.checkpoints.table import rows

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}


def network(name: str, layout: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published network, from the lists that are carried."""
    row = next(row for row in rows() if (row.name, row.layout) == (name, layout))
    return {prefix + key: shape for key, shape in expected(row).items()}


def write(
    file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16", metadata: Mapping[str, str] | None = None
) -> Path:
    """A safetensors file with these tensors, all zeros that lie nowhere."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for key, shape in shapes.items():
        end = at + math.prod(shape) * SIZES[dtype]
        table[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + at)
    return file


def sd15(file: Path, **options: str) -> Path:
    shapes = {
        **network("sd15", "unet", "model.diffusion_model."), **network("vae-4", "kl", "first_stage_model."),
        **network("clip-l", "same", "cond_stage_model.transformer."),
    }  # fmt: skip
    return write(file, shapes, **options)  # type: ignore[arg-type]
