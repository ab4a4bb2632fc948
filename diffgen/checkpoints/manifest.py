"""Every tensor that a published network has, with its shape: what a file is compared with before it is loaded.

The lists lie in `configs/keys/`, a line a tensor, with `[0-29]` for numbers that run. They are made from the carried
configurations by `write_keys.py`, so that reading a header needs no network and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby, product
from pathlib import Path

from diffgen.checkpoints.headers import MARKS, Entry
from diffgen.checkpoints.table import COUNTS, Row

FOLDER = Path(__file__).parent / "configs" / "keys"
Shapes = Mapping[str, tuple[int, ...]]
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
# Beginnings that one writer puts before a text encoder's names and another leaves out.
_SHELLS = ("text_model.", "model.", "vision_model.")
# In files of text encoders, and of no consequence.
_IGNORED = (
    "position_ids", "logit_scale", "spiece_model", "lm_head.weight", "encoder.embed_tokens.weight", "attn_mask",
    "visual_projection.weight",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A network in a file beside the published one. Names are the file's, without prefix."""

    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]


def file_of(row: Row) -> Path:
    """Where the list of a row of the table lies."""
    return FOLDER / f"{row.name}.{row.layout}.txt"


def expected(row: Row) -> Shapes:
    """Names and shapes of a published network in its original layout; empty where none is carried."""
    found = _list(file_of(row))
    # Of two ways to name one network in the same layout one is carried.
    return found if {_bare(key) for key in row.marks} <= {_bare(key) for key in found} else {}


@cache
def _list(file: Path) -> Shapes:
    return unfold(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else {}


def compare(row: Row, entries: Mapping[str, Entry]) -> Comparison | None:
    """A file's network, by its names without prefix, against the published one; None where no list is carried."""
    want = expected(row)
    if not want:
        return None
    bare = {_bare(key): key for key in entries if (key in want or not key.endswith(_IGNORED)) and not _mark(key)}
    wanted = {_bare(key): key for key in _resized(want, row, bare)}
    shapes = {_bare(key): shape for key, shape in want.items()}
    missing = [wanted[key] for key in wanted if key not in bare and not key.endswith(_IGNORED)]
    unexpected = [bare[key] for key in bare if key not in wanted and not _unread(key, row, wanted)]
    wrong = []
    for key in wanted.keys() & bare.keys():
        # A layer beyond the published number has the shape of the first.
        shape = shapes.get(key) or shapes[_first_of(key, row)]
        got = entries[bare[key]].shape
        if got != shape and (*shape, 1, 1) != got:
            wrong.append(f"{bare[key]} is {by(got)} instead of {by(shape)}")
    matched = len(wanted.keys() & bare.keys()) - len(wrong)
    return Comparison(matched=matched, missing=tuple(sorted(missing)), unexpected=tuple(sorted(unexpected)),
                      misshapen=tuple(sorted(wrong)))  # fmt: skip


def _unread(key: str, row: Row, wanted: Iterable[str]) -> bool:
    """Whether it is of the layers that SD 2's encoder has beyond the one it is read at; published files have them."""
    if row.layout != "open-clip":
        return False
    stack = "transformer.resblocks"
    return key == "text_projection" or bool(_numbers(stack, [key]) - _numbers(stack, wanted))


def _mark(key: str) -> bool:
    return key.rpartition(".")[2] in MARKS


def by(shape: Iterable[int]) -> str:
    """A shape in words."""
    return "x".join(map(str, shape)) or "one number"


def _bare(key: str) -> str:
    return next((key.removeprefix(shell) for shell in _SHELLS if key.startswith(shell)), key)


def _numbers(name: str, keys: Iterable[str]) -> set[int]:
    number = re.compile(re.escape(name) + r"\.(\d+)\.")
    return {int(match[1]) for key in keys if (match := number.match(key))}


def _resized(want: Shapes, row: Row, have: Iterable[str]) -> list[str]:
    """The wanted names with as many layers as the file has: loading reads their number off the file as well."""
    keys, present = list(want), list(have)
    for name in COUNTS.get(row.layout or "", {}).values():
        published, own = max(_numbers(name, keys), default=-1), max(_numbers(name, present), default=-1)
        if own < 0 or own == published:
            continue
        first = [key for key in keys if key.startswith(f"{name}.0.")]
        keys = [key for key in keys if not key.startswith(f"{name}.")]
        keys += [name + f".{k}." + key[len(name) + 3 :] for k in range(own + 1) for key in first]
    return keys


def _first_of(key: str, row: Row) -> str:
    for name in COUNTS.get(row.layout or "", {}).values():
        if key.startswith(f"{name}."):
            return re.sub(rf"^{re.escape(name)}\.\d+\.", f"{name}.0.", key)
    return key


def fold(shapes: Shapes) -> list[str]:
    """Lines for a list of tensors, numbers that run folded into ranges. The inverse of `unfold`."""
    rows: list[tuple[list[str], tuple[int, ...]]] = [(key.split("."), shape) for key, shape in shapes.items()]
    for place in range(max((len(parts) for parts, _ in rows), default=0)):
        groups: dict[tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]], list[int]] = {}
        folded = []
        for parts, shape in rows:
            if place < len(parts) and parts[place].isdigit():
                group = tuple(parts[:place]), tuple(parts[place + 1 :]), shape
                groups.setdefault(group, []).append(int(parts[place]))
            else:
                folded.append((parts, shape))
        for (before, after, shape), numbers in groups.items():
            for run in _runs(sorted(numbers)):
                text = str(run[0]) if len(run) == 1 else f"[{run[0]}-{run[-1]}]"
                folded.append(([*before, text, *after], shape))
        rows = folded
    return sorted(" ".join([".".join(parts), *map(str, shape)]) for parts, shape in rows)


def _runs(numbers: list[int]) -> Iterable[list[int]]:
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]


def unfold(lines: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes from lines as `fold` writes them."""
    found = {}
    for line in lines:
        name, *sizes = line.split()
        shape = tuple(map(int, sizes))
        ranges = [range(int(low), int(high) + 1) for low, high in _RANGE.findall(name)]
        template = _RANGE.sub("{}", name)
        for numbers in product(*ranges):
            found[template.format(*numbers)] = shape
    return found
