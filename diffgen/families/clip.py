"""Text through one of CLIP's encoders (2103.00020), as families use it that look at an inner layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffgen import prompts as language
from diffgen.errors import UsageError
from diffgen.prompts import TextInfo


def encode_layer(
    prompts: Sequence[str], tokenizer: Any, encoder: Any, *, layer: int = 2, chunks: int = 1
) -> tuple[Tensor, Tensor, tuple[TextInfo, ...]]:
    """Hidden states before the final norm, and the pooled text, of prompts in A1111's language.

    Args:
        tokenizer, encoder: transformers' CLIPTokenizer, and CLIPTextModel with or without projection.
        layer: counted from the end, 1 being the last.
        chunks: at least this many chunks of 77 tokens in the result.
    Returns: hidden [n, 77 * chunks, width], pooled [n, p] (projected where the encoder projects), a TextInfo a prompt.
    Raises:
        UsageError: the encoder has no such layer, or the prompt cannot be encoded.
    """
    layers = encoder.config.num_hidden_layers
    if not 1 <= layer <= layers:
        raise UsageError(f"clip skip must be 1 to {layers} for this text encoder; got {layer}")

    def encode(ids: Tensor) -> tuple[Tensor, Tensor]:
        out = encoder(ids.to(encoder.device), output_hidden_states=True)
        return out.hidden_states[-layer], out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output

    with torch.inference_mode():
        return language.encode_clip(prompts, tokenizer, encode, chunks=chunks)
