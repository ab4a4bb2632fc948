"""GGUF's table of contents, read with the standard library. Format: ggml's docs/gguf.md, versions 2 and 3."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from diffgen.checkpoints.headers import Entry, Header
from diffgen.errors import CheckpointError

# Quantisation by its number: (name, values a block, bytes a block).
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 30: ("BF16", 1, 2),
}  # fmt: skip
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_SHAPE = "comfy.gguf.orig_shape."


def read_gguf(path: Path, stream: BinaryIO, size: int) -> Header:
    """The header of a GGUF file whose stream is open.

    Raises:
        CheckpointError: it is truncated, of an unknown version, or has an unknown kind of tensor.
    """
    try:
        return _read(path, stream, size)
    except (struct.error, EOFError, UnicodeDecodeError, OverflowError, MemoryError):
        raise CheckpointError(f"{path} is damaged: truncated within its GGUF header") from None


def _read(path: Path, stream: BinaryIO, size: int) -> Header:
    stream.seek(4)
    version, tensors, pairs = _unpack(stream, "<I"), _unpack(stream, "<Q"), _unpack(stream, "<Q")
    if version not in (2, 3):
        raise CheckpointError(f"{path} is GGUF version {version}; accepted: 2, 3")
    values = {}
    for _ in range(pairs):
        name = _string(stream)
        values[name] = _value(stream, _unpack(stream, "<I"))
    table = []
    for _ in range(tensors):
        name = _string(stream)
        # The fastest axis comes first in the file.
        shape = tuple(_unpack(stream, "<Q") for _ in range(_unpack(stream, "<I")))[::-1]
        table.append((name, shape, _unpack(stream, "<I"), _unpack(stream, "<Q")))
    unit = int(values.get("general.alignment", 32))
    base = math.ceil(stream.tell() / unit) * unit
    entries = {}
    for name, shape, number, offset in table:
        if number not in TYPES:
            raise CheckpointError(f"{path}: {name} is quantised in a way (number {number}) that diffgen cannot read")
        kind, block, width = TYPES[number]
        stop = base + offset + math.prod(shape) // block * width
        if stop > size:
            raise CheckpointError(f"{path} is damaged: truncated, {name} ends at byte {stop} of {size}")
        # ComfyUI's converter flattens what GGUF cannot hold and keeps the shape beside it.
        entries[name] = Entry(kind, tuple(values.get(_SHAPE + name, shape)), base + offset, stop)
    metadata = {name: str(value) for name, value in values.items() if not isinstance(value, list)}
    return Header(path=path, format="gguf", entries=entries, metadata=metadata, size=size)


def _unpack(stream: BinaryIO, form: str) -> Any:
    return struct.unpack(form, stream.read(struct.calcsize(form)))[0]


def _string(stream: BinaryIO) -> str:
    length = _unpack(stream, "<Q")
    text = stream.read(length)
    if len(text) < length:
        raise EOFError
    return text.decode("utf-8")


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(stream)
    if kind == _ARRAY:
        inner, count = _unpack(stream, "<I"), _unpack(stream, "<Q")
        return [_value(stream, inner) for _ in range(count)]
    return _unpack(stream, _SCALARS[kind])
