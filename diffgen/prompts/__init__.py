"""The prompt language, as A1111 understands it: weights, chunks beyond 77 tokens, schedules, LoRA tags, wildcards.

`language` parses, `editing` reads schedules, `tokens` makes chunks, `encoding` runs text encoders and weighs their
states, `wildcards` expands templates. All but the wildcards are used through this package.
"""

from diffgen.prompts.editing import schedule
from diffgen.prompts.encoding import WEIGH_MODES, TextInfo, encode_clip, encode_sequence, frame_around, weigh
from diffgen.prompts.language import BREAK, LoraTag, Span, escape, extract_loras, parse
from diffgen.prompts.tokens import MAX_CHUNKS, Chunks, Frame, pad_chunks, tokenize

__all__ = [
    "BREAK", "MAX_CHUNKS", "WEIGH_MODES", "Chunks", "Frame", "LoraTag", "Span", "TextInfo", "encode_clip",
    "encode_sequence", "escape", "extract_loras", "frame_around", "pad_chunks", "parse", "schedule", "tokenize",
    "weigh",
]  # fmt: skip
