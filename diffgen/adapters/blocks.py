"""Weights of blocks: how a person writes them, and which of a network's layers a pattern means."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from diffgen.errors import UsageError

# A1111's short names, as its block-weight extension writes them, in latent-diffusion's words.
_SHORT = {"IN": "input_blocks", "OUT": "output_blocks"}
_SHOWN = 12


def _numbered(name: str, numbers: Iterable[int]) -> list[str]:
    return [f"{name}{number:02}" for number in numbers]


# By how many numbers there are: the blocks that A1111's block-weight extension and its kin in ComfyUI mean by a bare
# list. The short ones name the blocks with attention alone, of SD 1.x and of SDXL; the long ones name all.
_LISTS: dict[int, Sequence[str]] = {
    12: ["BASE", *_numbered("IN", (4, 5, 7, 8)), "MID", *_numbered("OUT", range(6))],
    17: ["BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "MID", *_numbered("OUT", range(3, 12))],
    20: ["BASE", *_numbered("IN", range(9)), "MID", *_numbered("OUT", range(9))],
    26: ["BASE", *_numbered("IN", range(12)), "MID", *_numbered("OUT", range(12))],
}


def parse_blocks(text: str) -> dict[str, float]:
    """Weights by block, from "IN04=0.5,mid_block=0" or from a list of 12, 17, 20 or 26 numbers as A1111 has them.

    >>> parse_blocks("IN04=0.5, mid_block=0")
    {'IN04': 0.5, 'mid_block': 0.0}

    Raises:
        UsageError: it is neither.
    """
    fields = [field.strip() for field in text.split(",")]
    named = [field.rpartition("=") for field in fields]
    values = [_number(value, text) for _, _, value in named]
    if all(name for name, _, _ in named):
        return {name.strip(): value for (name, _, _), value in zip(named, values, strict=True)}
    if any(given for _, given, _ in named) or len(values) not in _LISTS:
        counts = ", ".join(map(str, _LISTS))
        raise UsageError(
            f"block weights are NAME=NUMBER pairs, such as lbw=IN04=0.5,MID=0, or a list of {counts} numbers; "
            f"got {text!r}"
        )
    return dict(zip(_LISTS[len(values)], values, strict=True))


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{value!r} in the block weights {text!r} is no number")
    return number


def spelled(pattern: str) -> str:
    """A pattern in full: "IN04" is "input_blocks.4", "MID" and "M00" "middle_block", "BASE" "text_encoder*".

    >>> spelled("IN04"), spelled("up_blocks.1")
    ('input_blocks.4', 'up_blocks.1')
    """
    found = re.fullmatch(r"(IN|OUT)(\d+)", pattern)
    if found:
        return f"{_SHORT[found[1]]}.{int(found[2])}"
    return {"MID": "middle_block", "M00": "middle_block", "BASE": "text_encoder*"}.get(pattern, pattern)


def weight_of(blocks: Mapping[str, float], component: str, names: Iterable[str]) -> tuple[float, str | None]:
    """(weight, pattern) of a layer: that of the longest pattern that fits; 1 and None where none does.

    Args:
        component: the network it is in.
        names: every name the layer goes by.
    """
    candidates = [component, *(full for name in names for full in (name, f"{component}.{name}"))]
    fitting = [
        pattern
        for pattern in blocks
        if any(fnmatchcase(name, spelled(pattern)) or fnmatchcase(name, f"{spelled(pattern)}.*") for name in candidates)
    ]
    if not fitting:
        return 1.0, None
    longest = max(fitting, key=lambda pattern: len(spelled(pattern)))
    return blocks[longest], longest


def check_used(file: str, blocks: Iterable[str], used: Iterable[str | None], layers: Iterable[str]) -> None:
    """Refuses a pattern that fits no layer.

    Raises:
        UsageError: there is one; the message lists blocks that there are.
    """
    idle = sorted(set(blocks) - set(used))
    if idle:
        known = sorted({_block(layer) for layer in layers})
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise UsageError(f"{file} has no layer in the block {idle[0]!r}; it has {', '.join(known[:_SHOWN])}{more}")


def _block(layer: str) -> str:
    """The beginning of a layer's name up to its first number."""
    found = re.match(r"(.*?\.\d+)(\.|$)", layer)
    return found[1] if found else layer.split(".")[0]
