"""Text through a T5 encoder (1910.10683), as a dozen families use it: one row of a fixed length a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffgen import prompts as language
from diffgen.families.common import text_notes


def encode_t5(
    prompts: Sequence[str], tokenizer: Any, encoder: Any, *, length: int, masked: bool = True
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The last hidden states of prompts in the weighting language, and notes on what was cut.

    Args:
        tokenizer: transformers' T5 tokenizer, padding on the right.
        encoder: transformers' T5EncoderModel or UMT5EncoderModel.
        length: tokens of every row, end token included.
        masked: whether the encoder is kept from looking at the padding. Some families were trained without.
    Returns: hidden [n, length, width], mask [n, length] int64 (1 on text and its end token), notes.
    Raises:
        UsageError: no prompts, or a weight that is not finite.
    """

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        seen = mask.to(encoder.device) if masked else None
        return encoder(ids.to(encoder.device), attention_mask=seen).last_hidden_state  # type: ignore[no-any-return]

    with torch.inference_mode():
        hidden, mask, infos = language.encode_sequence(prompts, tokenizer, encode, length=length)
    return hidden, mask.to(hidden.device), text_notes(infos)


def lower_case(prompt: str) -> str:
    """The prompt in lower case without outer spaces, as captions were in the training of some families.

    BREAK, the one word of the prompt language, stays.
    """
    return "BREAK".join(part.lower() for part in re.split(r"\bBREAK\b", prompt.strip()))
