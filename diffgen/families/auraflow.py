"""AuraFlow: a rectified-flow transformer with two streams, told by UMT5 (Pile-T5) alone, on SDXL's autoencoder.

By Fal and Simo Ryu, after Stable Diffusion 3 (2403.03206) and muP (2203.03466). The network knows no text mask:
padding reaches it as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import Branch, Cap, Conditioning, Defaults, Latents, LatentSpec, Patch, Residuals, Step
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    in_float32,
    no_text_options,
    pictures,
)
from diffgen.families.scheduler import flow_path, flow_shift
from diffgen.families.t5 import encode_t5
from diffgen.path import NoisePath, Prediction

TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class AuraFlow:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' AuraFlowTransformer2DModel.
        vae: diffusers' AutoencoderKL.
        text_encoder: transformers' UMT5EncoderModel.
        tokenizer: its tokenizer.
        path, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    name: str = "auraflow"
    prediction: Prediction = "flow"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        # Every release was trained at up to 1024 pixels; the sample_size in their configs is half of that.
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor,
            multiple=factor * self.transformer.config.patch_size, size=(1024, 1024),
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
        """"hidden" [batch, 256, width], 0 at the padding, and notes on what was cut."""
        no_text_options(self.name, options)
        hidden, mask, notes = encode_t5(prompts, self.tokenizer, self.text_encoder, length=TOKENS)
        return Conditioning(text={"hidden": hidden * mask[:, :, None]}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning itself: no published AuraFlow takes pictures."""
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        out = self.transformer(
            x.squeeze(2).to(self.dtype),
            encoder_hidden_states=branch.cond.text["hidden"].to(self.dtype),
            timestep=torch.full((x.shape[0],), step.level, dtype=self.dtype, device=x.device),
            return_dict=False,
            **residuals,
        )[0]
        return out.float().unsqueeze(2)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> AuraFlow:
    """The family from a checkpoint's parts."""
    config, transformer, vae = parts.configs.get("scheduler", {}), parts["transformer"], parts["vae"]
    token = 2 ** (len(vae.config.block_out_channels) - 1) * transformer.config.patch_size
    return AuraFlow(
        transformer=transformer, vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=flow_path(config), defaults=Defaults(
            sampler="euler", schedule="normal", steps=50, guidance=3.5, sized=flow_shift(config, token=token)),
    )  # fmt: skip
