"""One network, two ways of naming its weights: the table between an original file and a diffusers network.

A `Rule` pairs a name in the original file with one or several names in the network. It speaks of modules as well
as of tensors: what stands behind the name (".weight") is carried over. `*` stands for a number, the same on both
sides. The same rules serve reading and writing, so what was converted comes back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
How = Literal["same", "part", "join", "swap", "transpose", "flatten", "unflatten"]


@dataclass(frozen=True)
class Rule:
    """One line of a layout.

    Attributes:
        theirs: the name in the original file.
        ours: the name in the network; several where the original holds them in one tensor, one above the other.
        how: "swap" for halves that change places, "transpose", "flatten" for 1 x 1 convolutions that are linear here.
        shares: the rows of each of `ours`, as small whole numbers.
    """

    theirs: str
    ours: str | tuple[str, ...]
    how: How = "same"
    shares: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How an original file names a network's weights.

    Attributes:
        rules: the more specific name wins; of several for one name of ours the first is written.
        rest: whether names that no rule knows are the same on both sides.
        dropped: names in the original file that the network has no use for; those behind them belong to them.
    """

    rules: tuple[Rule, ...] = ()
    rest: bool = False
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Where a tensor comes from: all of `sources`, or the rows `first` to `last` of `units` of the one source."""

    sources: tuple[str, ...]
    how: How = "same"
    first: int = 0
    last: int = 1
    units: int = 1

    def rows(self, height: int) -> slice | None:
        """The rows it takes of a source `height` rows high; None for all."""
        if self.units == 1:
            return None
        return slice(height * self.first // self.units, height * self.last // self.units)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape it will have, given those of the sources."""
        first = shapes[self.sources[0]]
        if self.how == "join":
            return (sum(shapes[key][0] for key in self.sources), *first[1:])
        if self.how == "transpose":
            return first[::-1]
        if self.how == "unflatten":
            return (*first, 1, 1) if len(first) == 2 else first
        if rows := self.rows(first[0] if first else 1):
            first = (rows.stop - rows.start, *first[1:])
        if self.how == "flatten" and len(first) > 2 and set(first[2:]) == {1}:
            return first[:2]
        return first

    def take(self, fetch: Callable[[str, slice | None], Tensor], height: Callable[[str], int]) -> Tensor:
        """The tensor itself, through `fetch(name, rows)`. A view of the fetched one wherever that is possible."""
        import torch

        if self.how == "join":
            return torch.cat([fetch(key, None) for key in self.sources])
        source = self.sources[0]
        value = fetch(source, self.rows(height(source)))
        if self.how == "swap":
            return torch.cat(value.chunk(2)[::-1])
        if self.how == "transpose":
            return value.T.contiguous()
        if self.how == "flatten" and value.ndim > 2:
            return value.flatten(1) if set(value.shape[2:]) == {1} else value
        if self.how == "unflatten" and value.ndim == 2:
            return value[:, :, None, None]
        return value


def inward(keys: Iterable[str], layout: Layout) -> tuple[dict[str, Piece], list[str]]:
    """(network name -> piece of the original file, names in the file that the layout does not know)."""
    table = {rule.theirs: rule for rule in layout.rules}
    found: dict[str, Piece] = {}
    unknown: list[str] = []
    for key in keys:
        if any(key == name or key.startswith(name + ".") for name in layout.dropped):
            continue
        name, numbers, tail = _match(key, table)
        if name is None:
            if layout.rest:
                found[key] = Piece((key,))
            else:
                unknown.append(key)
            continue
        rule = table[name]
        if isinstance(rule.ours, str):
            found[_fill(rule.ours, numbers) + tail] = Piece((key,), rule.how)
            continue
        at, units = 0, sum(rule.shares)
        for ours, share in zip(rule.ours, rule.shares, strict=True):
            found[_fill(ours, numbers) + tail] = Piece((key,), "part", at, at + share, units)
            at += share
    return found, unknown


_BACK: dict[How, How] = {"flatten": "unflatten", "swap": "swap", "transpose": "transpose", "same": "same"}


def outward(keys: Iterable[str], layout: Layout) -> tuple[dict[str, Piece], list[str]]:
    """(name in the original file -> piece of the network, network names that the layout does not know)."""
    table: dict[str, tuple[Rule, int]] = {}
    for rule in layout.rules:
        for index, ours in enumerate((rule.ours,) if isinstance(rule.ours, str) else rule.ours):
            table.setdefault(ours, (rule, index))
    found: dict[str, Piece] = {}
    joined: dict[str, dict[int, str]] = {}
    unknown: list[str] = []
    for key in keys:
        name, numbers, tail = _match(key, table)
        if name is None:
            if layout.rest:
                found[key] = Piece((key,))
            else:
                unknown.append(key)
            continue
        rule, index = table[name]
        theirs = _fill(rule.theirs, numbers) + tail
        if isinstance(rule.ours, str):
            found[theirs] = Piece((key,), _BACK[rule.how])
        else:
            joined.setdefault(theirs, {})[index] = key
    for theirs, parts in joined.items():
        found[theirs] = Piece(tuple(parts[index] for index in sorted(parts)), "join")
    return found, unknown


def _match(key: str, table: Mapping[str, object]) -> tuple[str | None, list[str], str]:
    """(the longest name in `table` that `key` begins with, the numbers it has for `*`, what stands behind it)."""
    parts = key.split(".")
    starred = ["*" if part.isdigit() else part for part in parts]
    for length in range(len(parts), 0, -1):
        tail = "".join("." + part for part in parts[length:])
        if (plain := ".".join(parts[:length])) in table:
            return plain, [], tail
        if (general := ".".join(starred[:length])) in table:
            return general, [part for part in parts[:length] if part.isdigit()], tail
        # Some numbers stand for themselves, such as those of layers in a sequence.
        for name in _mixed(parts[:length], starred[:length]):
            if name in table:
                return name, [p for p, n in zip(parts, name.split("."), strict=False) if n == "*"], tail
    return None, [], ""


def _mixed(parts: list[str], starred: list[str]) -> Iterable[str]:
    places = [k for k, part in enumerate(starred) if part == "*"]
    for pattern in range(1, (1 << len(places)) - 1):
        chosen = {place for bit, place in enumerate(places) if pattern >> bit & 1}
        yield ".".join("*" if k in chosen else part for k, part in enumerate(parts))


def _fill(name: str, numbers: list[str]) -> str:
    for number in numbers:
        name = name.replace("*", number, 1)
    return name
