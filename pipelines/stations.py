"""Prompts at times: read from text, and mixed over the frames of a clip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from diffgen.contracts import Conditioning, Family, Guidance
from diffgen.errors import UsageError
from diffgen.guidance.travelling import Travelling, mixed, shares

_ENTRY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|f)?\s*:\s*(.*\S)\s*", re.DOTALL)


def parse(text: str, fps: float) -> tuple[tuple[float, str], ...]:
    """(frame, prompt) of each entry, in order of time. Times are seconds ("2s", "2.5"), or frames ("48f").

    Raises:
        UsageError: an entry has no time or no prompt, or two have the same time.
    """
    found: dict[float, str] = {}
    for entry in text.split(";"):
        if not entry.strip():
            continue
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise UsageError(f'prompts at times are written "0s: a seed; 2s: a tree"; got {entry.strip()!r}')
        frame = float(match[1]) * (1.0 if match[2] == "f" else fps)
        if frame in found:
            raise UsageError(f"two prompts stand at {match[1]}{match[2] or 's'}")
        found[frame] = match[3]
    if not found:
        raise UsageError('prompts at times are written "0s: a seed; 2s: a tree"; got nothing')
    return tuple(sorted(found.items()))


def with_prefix(prompt: str, text: str) -> str:
    """A prompt of the travel behind what holds all the time."""
    return f"{prompt.rstrip().rstrip(',')}, {text}" if prompt.strip() else text


def told(
    family: Family, states: Sequence[Conditioning], neg: Conditioning | None, times: Sequence[float], latents: int,
    guidance: Guidance,
) -> tuple[Conditioning, Conditioning | None, Guidance]:  # fmt: skip
    """(positive, negative, guidance) for prompts at `times`, in frames, over `latents` in time."""
    lead, factor = family.spec.frame_lead, family.spec.frame_factor
    texts = mixed(states, shares(times, [max(k - lead, 0) * factor for k in range(latents)]))
    if "frame_text" not in family.caps:
        return states[0], neg, Travelling(base=guidance, texts=texts)
    if neg is not None:
        steady = {k: v.unsqueeze(1).expand(-1, latents, *v.shape[1:]) for k, v in neg.text.items()}
        neg = replace(neg, text=steady)
    return replace(states[0], text=texts), neg, guidance
