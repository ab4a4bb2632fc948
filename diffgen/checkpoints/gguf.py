"""GGUF files: quantised denoisers, as llama.cpp's tools and ComfyUI-GGUF write them.

Weights are brought back to floats while loading, block by block as ggml defines them, through the `gguf` package.
"""

from __future__ import annotations

import mmap
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgen.checkpoints.gguf_header import TYPES
from diffgen.checkpoints.headers import Header
from diffgen.errors import CheckpointError

_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
_WHOLE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
          "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}  # fmt: skip


class GGUF:
    """The weights of one GGUF file.

    Raises:
        CheckpointError: the `gguf` package is not installed and there are quantised tensors.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        if any(entry.dtype not in _WHOLE for entry in header.entries.values()):
            try:
                import gguf  # noqa: F401
            except ImportError:
                raise CheckpointError(
                    f"{header.path} is quantised; reading it needs the package gguf: pip install 'diffgen[gguf]'"
                ) from None

    @cached_property
    def _bytes(self) -> Any:
        with self.header.path.open("rb") as stream:
            return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def get(self, key: str, rows: slice | None, dtype: torch.dtype | None) -> Tensor:
        """The rows of a tensor, no longer quantised: in `dtype`, or in bfloat16 where None is asked for."""
        entry = self.header.entries[key]
        kind, shape, start, stop = entry.dtype, entry.shape, entry.start, entry.stop
        if rows is not None:
            width = (stop - start) // shape[0]
            start, stop = start + rows.start * width, start + rows.stop * width
            shape = (rows.stop - rows.start, *shape[1:])
        raw = self._bytes[start:stop]
        if kind in _WHOLE:
            value = torch.from_numpy(raw.copy()).view(_WHOLE[kind]).view(shape)
            return value.to(dtype) if dtype and value.is_floating_point() else value
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        floats = dequantize(raw, GGMLQuantizationType(_NUMBERS[kind]))
        return torch.from_numpy(floats).view(shape).to(dtype or torch.bfloat16)
