"""Flux Redux: a picture becomes tokens that stand behind the text's, so that Flux.1 draws variations of it.

Black Forest Labs, 2024. SigLIP (2303.15343) looks at the picture; two layers bring its tokens to the width of T5's.
It is no family, since it draws nothing: its tokens are the "vision" of `diffgen.families.flux.Flux.attach`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgen.families.common import Parts

PIPELINE = "FluxPriorReduxPipeline"


@dataclass(frozen=True, kw_only=True)
class Redux:
    """The networks of one checkpoint.

    Args:
        image_encoder: transformers' SiglipVisionModel.
        feature_extractor: its pre-processing.
        image_embedder: diffusers' ReduxImageEncoder.
    """

    image_encoder: Any
    feature_extractor: Any
    image_embedder: Any

    def look(self, pixels: Tensor, strength: float = 1.0) -> Tensor:
        """Tokens [batch, tokens, width] of pictures.

        Several pictures are looked at together by laying their tokens side by side along the second axis.

        Args:
            pixels: [batch, 3, 1, height, width] in -1..1, of any size.
            strength: what the tokens are multiplied with; below 1 the words count for more.
        """
        levels = ((pixels[:, :, 0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
        ready = self.feature_extractor(images=list(levels), return_tensors="pt", do_resize=True)
        seen = ready["pixel_values"].to(self.image_encoder.device, self.image_encoder.dtype)
        with torch.inference_mode():
            tokens = self.image_encoder(pixel_values=seen).last_hidden_state
            return self.image_embedder(tokens.to(self.image_embedder.dtype)).image_embeds * strength  # type: ignore[no-any-return]


def build(parts: Parts) -> Redux:
    """Redux from a checkpoint's parts; the text encoders that some copies bring are left alone.

    Raises:
        CheckpointError: a part is missing.
    """
    names = ("image_encoder", "feature_extractor", "image_embedder")
    return Redux(**{name: parts[name] for name in names})
