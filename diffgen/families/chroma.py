"""Chroma: Flux's transformer with a smaller modulation and no distillation, reading T5 alone.

Lodestone Rock, 2025 (github.com/lodestone-rock/flow). Text beyond the prompt, its end token and one padding token
is hidden from the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    from_tokens,
    in_float32,
    no_text_options,
    pictures,
    to_tokens,
)
from diffgen.families.flux import grid
from diffgen.families.scheduler import flow_shift
from diffgen.families.t5 import encode_t5
from diffgen.path import FlowPath, NoisePath, Prediction

T5_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Chroma:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' ChromaTransformer2DModel.
        vae: diffusers' AutoencoderKL with 16 channels.
        tokenizer, text_encoder: of T5.
        defaults: with the checkpoint's own shift.
    """

    transformer: Any
    vae: Any
    tokenizer: Any
    text_encoder: Any
    defaults: Defaults
    path: NoisePath = field(default_factory=FlowPath)
    prediction: Prediction = "flow"
    name: str = "chroma"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor, multiple=2 * factor, size=(1024, 1024)
        )

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
        """"hidden" [batch, tokens, width], "mask" [batch, tokens] of bool, and notes.

        There are as many tokens as the longest prompt shows: positions of text are all zero, so the hidden rest
        can be left out, and is most of the 512.
        """
        no_text_options(self.name, options)
        hidden, mask, notes = encode_t5(prompts, self.tokenizer, self.text_encoder, length=T5_TOKENS)
        shown = (mask.sum(1, keepdim=True) + 1).clamp(max=T5_TOKENS)
        most = int(shown.max())
        seen = torch.arange(most, device=mask.device) < shown
        return Conditioning(text={"hidden": hidden[:, :most], "mask": seen}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` itself: this network takes no pictures.

        Raises:
            UsageError: there is a picture.
        """
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        tokens, seen = to_tokens(x), branch.cond.text["mask"]
        hidden = branch.cond.text["hidden"].to(self.dtype)
        mask = None
        if not bool(seen.all()):
            mask = torch.cat([seen, seen.new_ones(tokens.shape[:2])], dim=1)
        out = self.transformer(
            hidden_states=tokens.to(self.dtype),
            timestep=torch.full((x.shape[0],), step.t / 1000, dtype=torch.float32, device=x.device),
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=x.device),
            img_ids=grid(x.shape[-2], x.shape[-1]).to(x.device),
            attention_mask=mask,
            return_dict=False,
            **residuals,
        )[0]
        return from_tokens(out.float(), x.shape[-2])

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        if self.dtype == torch.float32:
            return ()
        return (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> Chroma:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: a part is missing.
    """
    return Chroma(
        transformer=parts["transformer"], vae=parts["vae"], tokenizer=parts["tokenizer"],
        text_encoder=parts["text_encoder"],
        defaults=Defaults(
            sampler="euler", schedule="even", steps=35, guidance=5.0,
            sized=flow_shift(parts.configs.get("scheduler", {}), token=16),
        ),
    )  # fmt: skip
