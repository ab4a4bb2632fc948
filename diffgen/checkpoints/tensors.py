"""Weights out of files, one tensor at a time, straight into their dtype and device.

A tensor that is wanted as it lies on disk is a view of the mapped file: nothing is copied until it is used. Any
other is read, changed and let go before the next, so that a file in one dtype and a network in another never
both lie in memory.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from diffgen.checkpoints.headers import MARKS, SCALES, Entry, Header, is_pickle, read_header
from diffgen.checkpoints.keys import Piece
from diffgen.errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Source(Protocol):
    """One file of weights."""

    header: Header

    def get(self, key: str, rows: slice | None, dtype: torch.dtype | None) -> Tensor:
        """The rows of a tensor on the CPU, in `dtype` where it is a float; None leaves it as it is."""


def open_source(path: Path, *, allow_pickle: bool = False) -> Source:
    """The weights of a safetensors, GGUF or, where allowed, pickle file.

    Raises:
        CheckpointError: the file is damaged, something else, or a pickle that was not allowed.
    """
    with path.open("rb") as stream:
        pickled = is_pickle(stream.read(16))
    if pickled:
        return _Pickle(path, allow_pickle)
    header = read_header(path)
    if header.format == "gguf":
        from diffgen.checkpoints.gguf import GGUF

        return GGUF(header)
    return _SafeTensors(header)


class _SafeTensors:
    def __init__(self, header: Header) -> None:
        self.header = header
        for entry in header.entries.values():
            if entry.dtype not in DTYPES:
                raise CheckpointError(f"{header.path} has tensors of dtype {entry.dtype}, which torch does not know")

    @cached_property
    def _map(self) -> mmap.mmap:
        # Private: what is written to a weight later stays in memory.
        with self.header.path.open("rb") as stream:
            if not sys.platform.startswith("linux"):
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            # Linux would count a private mapping as memory, and refuse a file larger than the machine's.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
            return mmap.mmap(stream.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)

    def get(self, key: str, rows: slice | None, dtype: torch.dtype | None) -> Tensor:
        entry = self.header.entries[key]
        kind, shape, start, stop = DTYPES[entry.dtype], entry.shape, entry.start, entry.stop
        if rows is not None:
            width = (stop - start) // shape[0]
            start, stop = start + rows.start * width, start + rows.stop * width
            shape = (rows.stop - rows.start, *shape[1:])
        if start == stop:
            return torch.empty(shape, dtype=dtype if dtype and kind.is_floating_point else kind)
        # Files of other writers may begin a tensor anywhere, and torch wants it aligned.
        raw = torch.frombuffer(self._map, dtype=torch.uint8, offset=start, count=stop - start)
        value = (raw if start % kind.itemsize == 0 else raw.clone()).view(kind).view(shape)
        scale = self._scale(key) if kind.itemsize == 1 and kind.is_floating_point else None
        if scale is None and (dtype == kind or not kind.is_floating_point or (dtype is None and kind.itemsize > 1)):
            return value
        value = _converted(value.float() * scale if scale is not None else value, dtype or torch.bfloat16)
        self._forget(start, stop)
        return value

    def _forget(self, start: int, stop: int) -> None:
        """Lets go of the pages that lie wholly within a range: a converted copy took their place."""
        first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _scale(self, key: str) -> Tensor | None:
        stem = key.removesuffix("weight")
        for name in SCALES:
            if stem + name in self.header.entries:
                return self.get(stem + name, None, torch.float32)
        return None


_CHUNK = 1 << 16


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The same as value.to(dtype), bit for bit, and between the two 16-bit floats three times as fast.

    torch has no fast way from one to the other, but both ways through float32, which holds either exactly.
    """
    if not value.dtype.itemsize == dtype.itemsize == 2:
        return value.to(dtype)
    found = torch.empty(value.shape, dtype=dtype)
    room = torch.empty(_CHUNK)
    source, target = value.reshape(-1), found.view(-1)
    for at in range(0, len(source), _CHUNK):
        part = source[at : at + _CHUNK]
        target[at : at + _CHUNK] = room[: len(part)].copy_(part)
    return found


class _Pickle:
    """A PyTorch checkpoint, through the unpickler that makes tensors and plain values only."""

    def __init__(self, path: Path, allowed: bool) -> None:
        if not allowed:
            raise CheckpointError(
                f"{path} is a pickle, which can run code when opened; convert it to safetensors, or allow it with "
                "allow_pickle=True (--allow-pickle), which reads tensors and plain values only"
            )
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=_zipped(path))
        except Exception as error:  # torch raises a dozen kinds here, all meaning the file is not acceptable
            raise CheckpointError(f"{path} cannot be read as weights only: {str(error).splitlines()[0]}") from None
        found = found.get("state_dict", found) if isinstance(found, Mapping) else {}
        self._tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor) and v.dtype in NAMES}
        if not self._tensors:
            raise CheckpointError(f"{path} is a pickle that holds no weights")
        entries = {
            key: Entry(NAMES[value.dtype], tuple(value.shape), 0, value.nbytes) for key, value in self._tensors.items()
        }
        self.header = Header(path=path, format="pickle", entries=entries, metadata={}, size=path.stat().st_size)

    def get(self, key: str, rows: slice | None, dtype: torch.dtype | None) -> Tensor:
        value = self._tensors[key] if rows is None else self._tensors[key][rows]
        return value.to(dtype) if dtype and value.is_floating_point() else value


def _zipped(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"


def is_mark(key: str) -> bool:
    """Whether a name is no weight but tells how others are stored."""
    return key.rpartition(".")[2] in MARKS


class Weights:
    """A network's weights as pieces of one or several files, under the network's own names."""

    def __init__(self, pieces: Mapping[str, tuple[Source, Piece]], made: Mapping[str, Tensor] | None = None) -> None:
        self._pieces = pieces
        self._made = dict(made or {})

    @classmethod
    def plain(cls, sources: Iterable[Source]) -> Weights:
        """Every tensor of the files under its own name."""
        return cls({key: (source, Piece((key,))) for source in sources for key in source.header.entries})

    def __contains__(self, name: str) -> bool:
        return name in self._pieces or name in self._made

    def __iter__(self) -> Iterator[str]:
        yield from self._pieces
        yield from self._made

    def renamed(self, names: Mapping[str, str]) -> Weights:
        """The same tensors under other names: `names` has the old one for each new one."""
        pieces = {new: self._pieces[old] for new, old in names.items() if old in self._pieces}
        return Weights(pieces, {new: self._made[old] for new, old in names.items() if old in self._made})

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a tensor has when it is asked for as it is."""
        if name in self._made:
            return self._made[name].dtype
        source, piece = self._pieces[name]
        kind = DTYPES.get(source.header.entries[piece.sources[0]].dtype, torch.bfloat16)
        return torch.bfloat16 if kind.itemsize == 1 and kind.is_floating_point else kind

    def with_made(self, name: str, tensor: Tensor) -> Weights:
        """With a tensor that no file holds."""
        return Weights(self._pieces, {**self._made, name: tensor})

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that a tensor will have."""
        if name in self._made:
            return tuple(self._made[name].shape)
        source, piece = self._pieces[name]
        return piece.shape({key: source.header.entries[key].shape for key in piece.sources})

    def get(self, name: str, dtype: torch.dtype | None, device: torch.device) -> Tensor:
        """A tensor in `dtype` (None keeps the one on disk) on `device`."""
        if name in self._made:
            return self._made[name].to(device, dtype)
        source, piece = self._pieces[name]
        entries = source.header.entries
        # A counter, such as that of a batch norm, has no rows at all.
        value = piece.take(lambda key, rows: source.get(key, rows, dtype), lambda key: (*entries[key].shape, 1)[0])
        return value.to(device)
