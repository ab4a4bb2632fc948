"""Stable Diffusion 1.x and 2.x: a U-Net with cross-attention to one CLIP text encoder.

Latent diffusion, 2112.10752. Version 2 predicts v (2202.00512) at 768 pixels and pads prompts with "!".
The U-Net's input may have further channels for inpainting (mask and masked latents).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffgen import prompts as language
from diffgen.contracts import (
    Branch,
    Cap,
    Conditioning,
    Defaults,
    Latents,
    LatentSpec,
    Patch,
    Residuals,
    Step,
)
from diffgen.errors import UsageError
from diffgen.families.common import Parts, decode_frames, encode_frames, in_float32, text_notes
from diffgen.families.scheduler import read as read_scheduler
from diffgen.path import NoisePath, Prediction


@dataclass(frozen=True, kw_only=True)
class StableDiffusion:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL or AutoencoderTiny.
        text_encoder: transformers' CLIPTextModel.
        tokenizer: its CLIPTokenizer.
        path, prediction, defaults: from the checkpoint's scheduler config.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    prediction: Prediction
    defaults: Defaults
    name: str = "stable-diffusion"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = self.unet.config.sample_size
        width, height = (size, size) if isinstance(size, int) else (size[1], size[0])
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor, multiple=factor,
            size=(width * factor, height * factor),
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        return {"denoiser": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def encode_text(
        self, prompts: Sequence[str], *, clip_skip: int = 1
    ) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, 77 * chunks, width] for A1111-weighted prompts, all of one length, and notes.

        Args:
            clip_skip: 1 uses the last layer, 2 the one before it ..., then the final norm, as A1111 counts.
        """
        layers = self.text_encoder.config.num_hidden_layers
        if not 1 <= clip_skip <= layers:
            raise UsageError(f"clip skip must be 1 to {layers} for this text encoder; got {clip_skip}")

        def encode_ids(ids: Tensor) -> tuple[Tensor, Tensor]:
            out = self.text_encoder(ids.to(self.device), output_hidden_states=clip_skip > 1)
            if clip_skip == 1:
                return out.last_hidden_state, out.pooler_output
            return self.text_encoder.final_layer_norm(out.hidden_states[-clip_skip]), out.pooler_output

        with torch.inference_mode():
            hidden, _, infos = language.encode_clip(prompts, self.tokenizer, encode_ids)
        return Conditioning(text={"hidden": hidden}), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with "concat" latents [batch, extra channels, 1, h, w] for inpainting checkpoints.

        Raises:
            UsageError: the U-Net has no room for them.
        """
        extra = self.unet.config.in_channels - self.spec.channels
        concat = visual.get("concat")
        if concat is None or concat.shape[1] != extra:
            seen = 0 if concat is None else concat.shape[1]
            raise UsageError(f"this U-Net takes {extra} extra input channels; got {seen}")
        return replace(cond, concat=concat)

    def encode(self, pixels: Tensor) -> Latents:
        return encode_frames(self.vae, pixels) * self.vae.config.scaling_factor

    def decode(self, z: Latents) -> Tensor:
        return decode_frames(self.vae, z / self.vae.config.scaling_factor)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond = branch.cond
        inputs = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
        out = self.unet(
            inputs.squeeze(2).to(self.dtype),
            torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            return_dict=False,
            **residuals,
        )[0]
        return out.float().unsqueeze(2)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the U-Net in float32", in_float32("denoiser")),)


def build(parts: Parts) -> StableDiffusion:
    """The family from a checkpoint's parts."""
    path, prediction, defaults = read_scheduler(parts.configs.get("scheduler", {}))
    return StableDiffusion(
        unet=parts["unet"], vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=path, prediction=prediction, defaults=defaults,
    )  # fmt: skip
