"""Z-Image and its Turbo student: one stream of text and picture tokens, told by Qwen 3. 2511.22699.

Its time runs the other way, 0 at noise and 1 at the picture, and it predicts x0 - noise. Its guidance counts from
0: pos + g (pos - neg), which is classifier-free guidance of scale 1 + g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgen import prompts as language
from diffgen.contracts import Branch, Cap, Conditioning, Defaults, Latents, LatentSpec, Patch, Residuals, Step
from diffgen.families.chat import chat_frame
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
from diffgen.guidance import CFG
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class ZImage:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' ZImageTransformer2DModel.
        vae: diffusers' AutoencoderKL, that of Flux.1.
        text_encoder: transformers' Qwen3Model.
        tokenizer: its tokenizer, with a chat template.
        path, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    name: str = "z-image"
    prediction: Prediction = "flow"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor,
            multiple=factor * self.transformer.config.all_patch_size[0], size=(1024, 1024),
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
        """"hidden" [batch, tokens, width] and "mask" [batch, tokens], and notes on what was cut.

        Each prompt is a question to the chat model, of at most 512 tokens with its template.
        """
        no_text_options(self.name, options)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            out = self.text_encoder(ids.to(self.text_encoder.device), output_hidden_states=True)
            return out.hidden_states[-2]  # type: ignore[no-any-return]

        with torch.inference_mode():
            hidden, mask, infos = language.encode_sequence(
                prompts, self.tokenizer, encode, length=TOKENS, padding="after",
                frame=chat_frame(self.tokenizer, enable_thinking=True),
            )  # fmt: skip
        return Conditioning(text={"hidden": hidden, "mask": mask.bool().to(self.device)}), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning itself: these Z-Image checkpoints take no pictures."""
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        text = branch.cond.text
        # Text and picture share one row of tokens, so each picture comes with its own text, unpadded.
        texts = [hidden[mask].to(self.dtype) for hidden, mask in zip(text["hidden"], text["mask"], strict=True)]
        out = self.transformer(
            list(x.to(self.dtype).unbind()),
            torch.full((x.shape[0],), 1 - step.level, dtype=torch.float32, device=x.device),
            texts,
            return_dict=False,
            **residuals,
        )[0]
        return -torch.stack([picture.float() for picture in out])

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def _guide(*, scale: float, **settings: Any) -> CFG:
    return CFG(scale=1 + scale, **settings)


def build(parts: Parts) -> ZImage:
    """The family from a checkpoint's parts."""
    config, transformer, vae = parts.configs.get("scheduler", {}), parts["transformer"], parts["vae"]
    token = 2 ** (len(vae.config.block_out_channels) - 1) * transformer.config.all_patch_size[0]
    # Nothing else in the folder tells Turbo, published with shift 3, from its teacher with 6.
    turbo = config.get("shift", 1.0) <= 3
    return ZImage(
        transformer=transformer, vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=FlowPath(), defaults=Defaults(
            sampler="euler", schedule="even", steps=8 if turbo else 50, guidance=0.0 if turbo else 5.0,
            guide=_guide, sized=flow_shift(config, token=token)),
    )  # fmt: skip
