"""What a weight file says of itself before a single weight is read: names, shapes, dtypes, where the bytes lie.

Reads safetensors and GGUF headers with the standard library alone, so that looking at a 20 GB file costs
milliseconds and no torch. A file that is something else is named for what it is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffgen.errors import CheckpointError

# Bytes a value of each safetensors dtype.
SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# Ends of names that are no weight but tell how others are stored: 8-bit ones divided by a number, in ComfyUI's ways.
SCALES = ("scale_weight", "weight_scale")
MARKS = ("scaled_fp8", "scale_input", "input_scale", "comfy_quant", *SCALES)
_MOST_HEADER = 100 << 20  # the format's own limit
_TEXTS = {
    b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<?xml": "an XML page", b"version https://git-lfs":
    "a Git LFS pointer, the file itself was not fetched", b"{": "a JSON text",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor in a file: its dtype as the format names it, shape, and first and last + 1 byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """A weight file's table of contents. `size` is the whole file's, in bytes."""

    path: Path
    format: Literal["safetensors", "gguf", "pickle"]
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int


def read_header(path: Path) -> Header:
    """The table of contents of a safetensors or GGUF file.

    Raises:
        CheckpointError: the file is missing, empty, truncated, a pickle, or something else altogether.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(512)
            if start[:4] == b"GGUF":
                from diffgen.checkpoints.gguf_header import read_gguf

                return read_gguf(path, stream, size)
            if is_pickle(start):
                raise CheckpointError(f"{path} is a pickle, which can run code when opened; see allow_pickle")
            return _safetensors(path, stream, size, start)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def is_pickle(start: bytes) -> bool:
    """Whether a file beginning with these bytes is one of PyTorch's: a zip archive or a bare pickle."""
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def _safetensors(path: Path, stream: Any, size: int, start: bytes) -> Header:
    if size == 0:
        raise CheckpointError(f"{path} is damaged: it is empty")
    for sign, name in _TEXTS.items():
        if start.lstrip().lower().startswith(sign):
            raise CheckpointError(f"{path} is {name}, not a weight file; download it again")
    length = struct.unpack("<Q", start[:8])[0] if size >= 8 else _MOST_HEADER
    if start[8:9] != b"{" or length > _MOST_HEADER:
        raise CheckpointError(f"{path} is damaged or no weight file: it begins with {start[:8]!r}, not with a header")
    if 8 + length > size:
        raise CheckpointError(f"{path} is damaged: truncated within its header, {size} bytes of at least {8 + length}")
    stream.seek(8)
    try:
        table = json.loads(stream.read(length))
        metadata = {str(k): str(v) for k, v in table.pop("__metadata__", {}).items()}
        entries = {key: _entry(value, 8 + length) for key, value in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: its safetensors header cannot be read ({error})") from None
    _check(path, entries, size)
    return Header(path=path, format="safetensors", entries=entries, metadata=metadata, size=size)


def _entry(value: Mapping[str, Any], base: int) -> Entry:
    first, last = value["data_offsets"]
    return Entry(str(value["dtype"]), tuple(int(n) for n in value["shape"]), base + int(first), base + int(last))


def _check(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    for key, entry in entries.items():
        if entry.dtype in SIZES and entry.stop - entry.start != entry.count * SIZES[entry.dtype]:
            raise CheckpointError(f"{path} is damaged: {key} has {entry.stop - entry.start} bytes for {entry.shape}")
    end = max((entry.stop for entry in entries.values()), default=0)
    if end > size:
        late = sum(entry.stop > size for entry in entries.values())
        raise CheckpointError(
            f"{path} is damaged: truncated, {size} bytes of {end}; {late} of {len(entries)} tensors are cut off"
        )
