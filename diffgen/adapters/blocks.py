"""Weights of blocks: which of a network's layers a pattern means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from diffgen.errors import UsageError

# A1111's short names, as its block-weight extension writes them, in latent-diffusion's words.
_SHORT = {"IN": "input_blocks", "OUT": "output_blocks"}
_SHOWN = 12


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
    """Refuses a pattern that fits no layer of the file.

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
