"""Lumina-Image 2.0: one stream of text and picture tokens, told by Gemma 2. 2503.21758.

Its time runs the other way, 0 at noise and 1 at the picture, and it predicts x0 - noise. Guidance gives each
row of the guided prediction the norm of the positive one's, as its authors' sampler does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgen import prompts as language
from diffgen.contracts import Branch, Cap, Conditioning, Defaults, Latents, LatentSpec, Patch, Residuals, Step
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    in_float32,
    no_text_options,
    pictures,
    text_notes,
)
from diffgen.families.scheduler import flow_shift
from diffgen.guidance import CFG, Renormed
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 256
# The authors' own words, part of what the network was trained with. The prompt follows after a space.
SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start>"
)


@dataclass(frozen=True, kw_only=True)
class Lumina2:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' Lumina2Transformer2DModel.
        vae: diffusers' AutoencoderKL, that of Flux.1.
        text_encoder: transformers' Gemma2Model.
        tokenizer: its tokenizer.
        path, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    name: str = "lumina2"
    prediction: Prediction = "flow"
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
        """"hidden" [batch, 256, width] and "mask" [batch, 256], and notes on what was cut.

        The first prompt, the positive one, follows the system prompt; the others stand alone.
        """
        no_text_options(self.name, options)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            device = self.text_encoder.device
            out = self.text_encoder(ids.to(device), attention_mask=mask.to(device), output_hidden_states=True)
            return out.hidden_states[-2]  # type: ignore[no-any-return]

        frame = language.frame_around(self.tokenizer, SYSTEM)
        with torch.inference_mode():
            hidden, mask, infos = language.encode_sequence(
                [" " + prompts[0]], self.tokenizer, encode, length=TOKENS, frame=frame
            )
            if len(prompts) > 1:
                rest, masks, more = language.encode_sequence(prompts[1:], self.tokenizer, encode, length=TOKENS)
                hidden, mask, infos = torch.cat([hidden, rest]), torch.cat([mask, masks]), infos + more
        return Conditioning(text={"hidden": hidden, "mask": mask.to(self.device)}), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning itself: no published Lumina 2 takes pictures."""
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        text = branch.cond.text
        out = self.transformer(
            hidden_states=x.squeeze(2).to(self.dtype),
            timestep=torch.full((x.shape[0],), 1 - step.level, dtype=torch.float32, device=x.device),
            encoder_hidden_states=text["hidden"].to(self.dtype),
            encoder_attention_mask=text["mask"],
            return_dict=False,
            **residuals,
        )[0]
        return -out.float().unsqueeze(2)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def _row_norm(prediction: Latents) -> Tensor:
    return prediction.norm(dim=-1, keepdim=True)


def _guide(**settings: Any) -> Renormed:
    return Renormed(base=CFG(**settings), norm=_row_norm)


def build(parts: Parts) -> Lumina2:
    """The family from a checkpoint's parts."""
    config, transformer, vae = parts.configs.get("scheduler", {}), parts["transformer"], parts["vae"]
    token = 2 ** (len(vae.config.block_out_channels) - 1) * transformer.config.patch_size
    return Lumina2(
        transformer=transformer, vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=FlowPath(), defaults=Defaults(
            sampler="euler", schedule="even", steps=30, guidance=4.0, guide=_guide,
            sized=flow_shift(config, token=token)),
    )  # fmt: skip
