"""What a picture may be called: its label, its synonyms, with and without an article and the style's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from diffgen.train.data import Record

STYLED = ("{style} emoji of {thing}", "{style} {thing}", "{thing}, {style} style", "{style} picture of {thing}")
PLAIN = ("{thing}", "emoji of {thing}", "a picture of {thing}", "{thing} on white")
STYLED_SHARE = 0.65
SYNONYM_SHARE = 0.2
ARTICLE_SHARE = 0.45


def article(thing: str) -> str:
    """`thing` with "a" or "an", unless it is a plural, a number or a pair.

    >>> article("apple"), article("two cats"), article("grapes")
    ('an apple', 'two cats', 'grapes')
    """
    if thing.startswith("two ") or " and " in thing or (thing.endswith("s") and not thing.endswith("ss")):
        return thing
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def caption(record: Record, rng: np.random.Generator) -> str:
    """One of the picture's captions, drawn at random; the label or a synonym is always part of it."""
    thing = record.label
    if record.names and rng.random() < SYNONYM_SHARE:
        thing = record.names[int(rng.integers(len(record.names)))]
    if rng.random() < ARTICLE_SHARE:
        thing = article(thing)
    pool = STYLED if rng.random() < STYLED_SHARE else PLAIN
    return pool[int(rng.integers(len(pool)))].format(style=record.style, thing=thing)


def captions(record: Record, count: int, rng: np.random.Generator) -> list[str]:
    """`count` draws of `caption`; the first is always the plain label."""
    return [record.label, *(caption(record, rng) for _ in range(count - 1))]
