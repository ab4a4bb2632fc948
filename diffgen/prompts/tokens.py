"""Weighted spans to token rows: chunks of 75 tokens between begin and end, as CLIP-style encoders want them.

The reference behaviour is `tokenize_line` of AUTOMATIC1111's webui 1.10 (`modules/sd_hijack_clip.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffgen.errors import UsageError
from diffgen.prompts.language import Span

# 3,000 tokens of CLIP. Cross-attention grows with them, and no encoder was trained on so long a prompt.
MAX_CHUNKS = 40
# How far back the reference looks for a comma to break a chunk at, in tokens.
_BACKTRACK = 20


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """A tokenised prompt.

    Args:
        ids: [chunks, length] token ids, each row begin, at most length - 2 tokens, end, padding.
        weights: [chunks, length] each token's weight; 1.0 for begin, end and padding.
        empty: [length] the row of the empty prompt, for `pad_chunks`.
        tokens: how many content tokens the prompt has, without begin, end and padding.
        unknown: the words the tokenizer has no token for, each once.
    """

    ids: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    empty: tuple[int, ...]
    tokens: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a tokenizer puts around the content: tokens before it, after it, and the token that pads."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int

    def room(self, length: int) -> int:
        """How many content tokens fit a row of `length`; UsageError when none does."""
        room = length - len(self.before) - len(self.after)
        if room < 1:
            raise UsageError(f"a row of {length} tokens leaves no room for text; use a longer one")
        return room

    def row(self, ids: Sequence[int], length: int) -> tuple[int, ...]:
        """[length] begin, `ids`, end, padding."""
        row = (*self.before, *ids, *self.after)
        return row + (self.pad,) * (length - len(row))

    def weights(self, weights: Sequence[float], length: int) -> tuple[float, ...]:
        """[length] `weights` where `row` has the content, 1.0 elsewhere."""
        row = (1.0,) * len(self.before) + tuple(weights)
        return row + (1.0,) * (length - len(row))


def bare(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, nothing added and nothing cut."""
    # verbose=False: the library would warn of every text beyond its limit, and chunks are there for those.
    found = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
    return [list(ids) for ids in found["input_ids"]]


def frame_of(tokenizer: Any) -> Frame:
    """The tokenizer's frame, found by looking at how it frames a letter."""
    [content] = bare(tokenizer, ["a"])
    full = list(tokenizer("a")["input_ids"])
    start = next(k for k in range(len(full)) if full[k : k + len(content)] == content)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return Frame(before=tuple(full[:start]), after=tuple(full[start + len(content) :]), pad=pad)


def weighted_tokens(spans: Sequence[Span], tokenizer: Any) -> tuple[list[list[tuple[int, float]]], tuple[str, ...]]:
    """Each span's (token, weight) pairs, none for BREAK, and the words without a token, each once.

    Spans are tokenised one by one, as the reference does, so a weight never reaches into its neighbour.

    Raises:
        UsageError: a weight is not finite.
    """
    for span in spans:
        if not math.isfinite(span.weight):
            named = span.text.strip()[:40]
            raise UsageError(f"the weight of {named!r} is {span.weight}, not a finite number")
    found = bare(tokenizer, [span.text for span in spans]) if spans else []
    missing: list[str] = []
    unk = getattr(tokenizer, "unk_token_id", None)
    for span, ids in zip(spans, found, strict=True):
        if unk is not None and unk in ids:
            # CLIP's unknown token is its end token too, which a person may have typed.
            words = [word for word in span.text.split() if tokenizer.unk_token not in word]
            missing += [word for word in words if unk in bare(tokenizer, [word])[0]]
    pairs = [[(token, span.weight) for token in ids] for span, ids in zip(spans, found, strict=True)]
    return pairs, tuple(dict.fromkeys(missing))


def tokenize(spans: Sequence[Span], tokenizer: Any, *, length: int = 77, max_chunks: int = MAX_CHUNKS) -> Chunks:
    """Weighted spans to rows of `length` tokens for a CLIP-style encoder.

    A full row breaks after its last comma when that is within 20 tokens of the end, else where it is full;
    BREAK ends a row early. A plain prompt that fits equals
    `tokenizer(text, padding="max_length", truncation=True, max_length=length)`.

    Args:
        tokenizer: of transformers; its own begin, end and padding tokens are used (SD 2 pads with "!").
    Raises:
        UsageError: more than `max_chunks` rows, a weight that is not finite, or a length without room.
    """
    frame = frame_of(tokenizer)
    room = frame.room(length)
    pairs, missing = weighted_tokens(spans, tokenizer)
    comma = bare(tokenizer, [","])[0]
    breaks = [span.is_break for span in spans]
    rows = _split(zip(breaks, pairs, strict=True), room, comma[0] if len(comma) == 1 else None)
    tokens = sum(map(len, pairs))
    if len(rows) > max_chunks:
        raise UsageError(
            f"the prompt has {tokens:,} tokens in {len(rows)} chunks of {room}; "
            f"the limit is {max_chunks} chunks ({max_chunks * room:,} tokens)"
        )
    return Chunks(
        ids=tuple(frame.row([token for token, _ in row], length) for row in rows),
        weights=tuple(frame.weights([weight for _, weight in row], length) for row in rows),
        empty=frame.row((), length),
        tokens=tokens,
        unknown=missing,
    )


def _split(
    spans: Iterable[tuple[bool, list[tuple[int, float]]]], room: int, comma: int | None
) -> list[list[tuple[int, float]]]:
    rows: list[list[tuple[int, float]]] = []
    row: list[tuple[int, float]] = []
    last_comma: int | None = None
    for is_break, pairs in spans:
        if is_break:
            rows.append(row)
            row, last_comma = [], None
        for token, weight in pairs:
            if len(row) == room:
                keep = room
                if last_comma is not None and token != comma and room - last_comma <= _BACKTRACK:
                    keep = last_comma + 1
                rows.append(row[:keep])
                row, last_comma = row[keep:], None
            if token == comma:
                last_comma = len(row)
            row.append((token, weight))
    if row or not rows:
        rows.append(row)
    return rows


def pad_chunks(a: Chunks, b: Chunks) -> tuple[Chunks, Chunks]:
    """Both with as many rows as the longer one; the added rows are the empty prompt at weight 1."""
    count = max(len(a.ids), len(b.ids))
    return pad_to(a, count), pad_to(b, count)


def pad_to(chunks: Chunks, count: int) -> Chunks:
    """`chunks` with empty rows added up to `count`; unchanged when it has as many or more."""
    extra = count - len(chunks.ids)
    ones = (1.0,) * len(chunks.empty)
    ids, weights = chunks.ids + (chunks.empty,) * extra, chunks.weights + (ones,) * extra
    return replace(chunks, ids=ids, weights=weights)
