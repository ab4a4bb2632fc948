"""Prompts to conditioning: everything between what a person types and a text encoder's hidden states.

Text is parsed by `language` and cut into chunks by `tokens`; this file weighs hidden states and runs the encoder.
The reference behaviour is AUTOMATIC1111's webui 1.10 (`modules/sd_hijack_clip.py`, `modules/sd_emphasis.py`).

Every row goes through the encoder in a batch of one. In a larger batch the matrix products round otherwise
(1.7e-6 seen on a CLIP-L-sized layer: 5 rows against 1, 2 threads), and a prompt has to give the same bytes
whatever stands beside it. Equal rows are encoded once, so n pictures of one prompt cost one encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diffgen.errors import UsageError, unknown
from diffgen.prompts.language import parse
from diffgen.prompts.tokens import (
    MAX_CHUNKS,
    Frame,
    bare,
    frame_of,
    pad_to,
    tokenize,
    weighted_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor

WeighMode = Literal["mean", "plain"]
WEIGH_MODES: tuple[WeighMode, ...] = ("mean", "plain")


@dataclass(frozen=True, kw_only=True)
class TextInfo:
    """What became of one prompt, for the report: nothing is dropped in silence.

    Args:
        tokens: content tokens the prompt has, dropped ones included.
        chunks: rows the prompt itself needed, padding rows not counted.
        unknown: words the tokenizer has no token for.
        dropped: content tokens beyond the encoder's limit; always 0 where prompts are chunked.
        dropped_words: the first five words of what was dropped.
    """

    tokens: int
    chunks: int = 1
    unknown: tuple[str, ...] = ()
    dropped: int = 0
    dropped_words: tuple[str, ...] = ()


def weigh(hidden: Tensor, weights: Tensor, mode: WeighMode = "mean") -> Tensor:
    """Multiply each token's hidden state by its weight.

    Args:
        hidden: [rows, tokens, dim] float, the text encoder's output.
        weights: [rows, tokens] float.
        mode: "mean" then scales each row so that its mean is what it was: the webui's "Original" emphasis,
            which encodes chunk by chunk. "plain" does not: its "No norm".
    Returns: [rows, tokens, dim] in hidden's dtype, computed in float32 or wider. `hidden` itself when every
        weight is 1; rows whose weights are all 1 keep their bits; no row depends on another.
    Raises:
        UsageError: an unknown mode, or shapes that do not fit.
    """
    import torch

    if mode not in WEIGH_MODES:
        raise unknown("weight mode", mode, WEIGH_MODES)
    if weights.shape != hidden.shape[:2]:
        raise UsageError(f"weights {tuple(weights.shape)} do not fit hidden states {tuple(hidden.shape)}")
    plain = (weights == 1).all(dim=1).tolist()
    if all(plain):
        return hidden
    wide = torch.promote_types(hidden.dtype, torch.float32)
    factors = weights.to(device=hidden.device, dtype=wide)
    out = hidden.clone()
    for k, skip in enumerate(plain):
        if not skip:
            row = hidden[k].to(wide)
            scaled = row * factors[k, :, None]
            if mode == "mean":
                ratio = row.mean() / scaled.mean()
                # A mean of exactly 0 cannot be restored; leaving the row alone beats a NaN picture.
                scaled = torch.where(ratio.isfinite(), scaled * ratio, scaled)
            out[k] = scaled.to(hidden.dtype)
    return out


def encode_clip(
    texts: Sequence[str],
    tokenizer: Any,
    encode_ids: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    length: int = 77,
    chunks: int = 1,
    max_chunks: int = MAX_CHUNKS,
    mode: WeighMode = "mean",
) -> tuple[Tensor, Tensor, tuple[TextInfo, ...]]:
    """Encode prompts of any length with a CLIP-style encoder.

    A prompt's own rows are the same bytes in every batch. Shorter prompts are padded with the encoded empty
    prompt, which a denoiser does see: to keep a picture's bytes, batch prompts of equal `TextInfo.chunks`.

    Args:
        texts: prompts, LoRA tags taken out and schedules resolved.
        encode_ids: ids [1, length] int64 on the CPU -> (hidden [1, length, d], pooled [1, p]). The family's;
            it moves devices and does clip skip. It is called once for each different row.
        chunks: at least this many chunks in the result, e.g. what the negative prompt needed.
    Returns: hidden [n, length * chunks, d], pooled [n, p] of each prompt's first chunk, a TextInfo a prompt.
    Raises:
        UsageError: no prompts, a prompt of more than `max_chunks` chunks, or a weight that is not finite.
    """
    import torch

    _some(texts)
    parts = [tokenize(parse(text), tokenizer, length=length, max_chunks=max_chunks) for text in texts]
    count = max(chunks, *(len(part.ids) for part in parts))
    seen: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def encoded(ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if ids not in seen:
            seen[ids] = encode_ids(torch.tensor([ids]))
        return seen[ids]

    hidden = []
    for part in (pad_to(part, count) for part in parts):
        rows = torch.cat([encoded(ids)[0] for ids in part.ids])
        hidden.append(weigh(rows, torch.tensor(part.weights), mode).flatten(0, 1))
    pooled = torch.cat([encoded(part.ids[0])[1] for part in parts])
    info = tuple(TextInfo(tokens=p.tokens, chunks=len(p.ids), unknown=p.unknown) for p in parts)
    return torch.stack(hidden), pooled, info


def encode_sequence(
    texts: Sequence[str],
    tokenizer: Any,
    encode: Callable[[Tensor, Tensor], Tensor],
    *,
    length: int = 512,
    mode: WeighMode = "mean",
    frame: Frame | None = None,
    padding: Literal["right", "left", "after"] = "right",
) -> tuple[Tensor, Tensor, tuple[TextInfo, ...]]:
    """Encode prompts with an encoder that takes one long sequence (T5, Gemma, Qwen ...). BREAK means nothing here.

    What does not fit is cut at the end and reported: the number of tokens and the first words of it. A chat
    template's end is never cut.

    Args:
        tokenizer: of transformers.
        encode: (ids [1, n], mask [1, n]) int64 on the CPU -> hidden [1, n, d]. The mask is 1 on content and
            its frame, 0 on padding. It is called once for each different row.
        length: the most tokens of a row, its frame included.
        frame: what stands around each prompt, such as a chat template; None is the tokenizer's own.
        padding: "right" and "left" pad each row to `length` for the encoder; "after" lets it see the text
            alone, and fills up with zeros to the longest prompt of the result.
    Returns: hidden [n, tokens, d], mask [n, tokens] int64, a TextInfo a prompt. Tokens are `length`, or for
        "after" those of the longest prompt.
    Raises:
        UsageError: no prompts, a weight that is not finite, or a length without room.
    """
    import torch

    _some(texts)
    frame = frame or frame_of(tokenizer)
    room = frame.room(length)
    # The length is part of the key, because a padding token may also stand for text.
    seen: dict[tuple[tuple[int, ...], int], Tensor] = {}
    hidden, masks, infos = [], [], []
    for text in texts:
        spans, missing = weighted_tokens(parse(text), tokenizer)
        pairs = [pair for span in spans for pair in span]
        ids = [token for token, _ in pairs]
        words = tokenizer.decode(ids[room : room + 40]).split() if len(ids) > room else []
        cut = max(0, len(ids) - room)
        info = TextInfo(tokens=len(ids), unknown=missing, dropped=cut, dropped_words=tuple(words[:5]))
        used = length - max(0, room - len(ids))
        full = used if padding == "after" else length
        # A row is built padded on the right; on the left the same row starts with its padding.
        turn = used if padding == "left" else 0
        row = frame.row(ids[:room], full)
        key = (*row[turn:], *row[:turn]), used
        mask = torch.tensor([[1] * used + [0] * (full - used)]).roll(-turn, 1)
        if key not in seen:
            seen[key] = encode(torch.tensor([key[0]]), mask)
        weights = torch.tensor([frame.weights([weight for _, weight in pairs[:room]], full)]).roll(-turn, 1)
        hidden.append(weigh(seen[key], weights, mode))
        masks.append(mask)
        infos.append(info)
    filled = [torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True) for rows in (hidden, masks)]
    return filled[0], filled[1], tuple(infos)


def frame_around(tokenizer: Any, before: str, after: str = "") -> Frame:
    """The tokenizer's own frame with fixed text inside it, around the prompt: a chat template or an instruction.

    The three parts are tokenised apart. That gives the ids of the whole text where `before` ends in, and
    `after` begins with, something that no token reaches across: a control token or a line break.
    """
    own = frame_of(tokenizer)
    # "" has no tokens, but some tokenizers give it one.
    head, tail = (tuple(bare(tokenizer, [text])[0]) if text else () for text in (before, after))
    return Frame(before=own.before + head, after=tail + own.after, pad=own.pad)


def _some(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not texts:
        raise UsageError("prompts come as a list of at least one text, which may be empty")
