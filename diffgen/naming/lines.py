"""The lines of `tables`, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Line:
    """One original layer.

    Attributes:
        original: the authors' name, with wildcards.
        ours: diffusers' names; several where it cut the layer into parts, in the order of their rows.
        shares: how many rows each part has, as small whole numbers.
        swap: "swap" where the halves of the rows changed places, "swap?" where they did in some layers only, else "".
    """

    original: str
    ours: tuple[str, ...]
    shares: tuple[int, ...]
    swap: str = ""


def lines(table: str) -> Iterator[Line]:
    """Every line of a table, its {lists} spelled out."""
    for text in table.split("\n"):
        choices = [found.split(",") for found in re.findall(r"\{([^}]*)\}", text)]
        for k in range(len(choices[0]) if choices else bool(text)):
            yield _line(re.sub(r"\{([^}]*)\}", lambda found: found[1].split(",")[k], text))  # noqa: B023


def _line(text: str) -> Line:
    original, _, ours = text.partition(" = ")
    swap = next((word for word in ("swap?", "swap") if ours.startswith(f"{word} ")), "")
    names: list[str] = []
    shares: list[int] = []
    for part in ours.removeprefix(swap).strip().split(" + "):
        share, _, name = part.rpartition(" ")
        # What begins with a dot lies beside the first part.
        names.append(names[0].rpartition(".")[0] + name if name.startswith(".") else name)
        shares.append(int(share or 1))
    return Line(original=original, ours=tuple(names), shares=tuple(shares), swap=swap)
