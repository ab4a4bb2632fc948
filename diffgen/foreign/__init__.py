"""What other tools write into their pictures, and what they call things: A1111, ComfyUI, InvokeAI, NovelAI."""

from diffgen.foreign.describe import Description, describe, describe_texts

__all__ = ["Description", "describe", "describe_texts"]
