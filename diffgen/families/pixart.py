"""PixArt-Sigma: a diffusion transformer with cross-attention to T5, on SDXL's autoencoder. 2403.04692.

It keeps the variance-preserving path and noise prediction of its U-Net ancestors. The captions it was trained
on are in lower case, so prompts are too; links, hashtags and the like are not taken out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import Branch, Cap, Conditioning, Defaults, Latents, LatentSpec, Patch, Residuals, Step
from diffgen.errors import CheckpointError
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    in_float32,
    no_text_options,
    pictures,
)
from diffgen.families.scheduler import read as read_scheduler
from diffgen.families.t5 import encode_t5, lower_case
from diffgen.path import NoisePath, Prediction

TOKENS = 300


@dataclass(frozen=True, kw_only=True)
class PixArt:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' PixArtTransformer2DModel.
        vae: diffusers' AutoencoderKL.
        text_encoder: transformers' T5EncoderModel.
        tokenizer: its tokenizer.
        path, prediction, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    prediction: Prediction
    defaults: Defaults
    name: str = "pixart-sigma"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = self.transformer.config.sample_size * factor
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor,
            multiple=factor * self.transformer.config.patch_size, size=(side, side),
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        return {"denoiser": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, 300, width] and "mask" [batch, 300], and notes on what was cut."""
        no_text_options(self.name, options)
        texts = [lower_case(prompt) for prompt in prompts]
        hidden, mask, notes = encode_t5(texts, self.tokenizer, self.text_encoder, length=TOKENS)
        return Conditioning(text={"hidden": hidden, "mask": mask}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning itself: no published PixArt takes pictures."""
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        text = branch.cond.text
        out = self.transformer(
            x.squeeze(2).to(self.dtype),
            encoder_hidden_states=text["hidden"].to(self.dtype),
            encoder_attention_mask=text["mask"],
            timestep=torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
            **residuals,
        )[0]
        # The second half is the variance it learned beside the noise; no sampler here asks for it.
        return out[:, : x.shape[1]].float().unsqueeze(2)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> PixArt:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: the transformer wants sizes beside the text, as PixArt-Alpha's does.
    """
    transformer = parts["transformer"]
    if transformer.config.use_additional_conditions:
        raise CheckpointError(f"{parts.origin} holds a PixArt-Alpha transformer; diffgen knows PixArt-Sigma's")
    path, prediction, defaults = read_scheduler(parts.configs.get("scheduler", {}))
    return PixArt(
        transformer=transformer, vae=parts["vae"], text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"], path=path, prediction=prediction,
        defaults=replace(defaults, steps=20, guidance=4.5),
    )  # fmt: skip
