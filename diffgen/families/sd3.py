"""Stable Diffusion 3 and 3.5: a transformer over picture and text together, on the straight path (2403.03206).

Two CLIP encoders and T5 read the prompt. T5 may be missing: the network was trained with its tokens dropped to
zeros half the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from diffgen.errors import UsageError
from diffgen.families.clip import encode_layer
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    in_float32,
    pictures,
    text_notes,
)
from diffgen.families.scheduler import flow_path, flow_shift
from diffgen.families.t5 import encode_t5
from diffgen.path import NoisePath, Prediction

T5_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class StableDiffusion3:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' SD3Transformer2DModel.
        vae: diffusers' AutoencoderKL with 16 channels.
        tokenizers, encoders: of CLIP-L and CLIP-G, both with projection.
        tokenizer_3, text_encoder_3: of T5, or None.
        path, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    tokenizers: tuple[Any, Any]
    encoders: tuple[Any, Any]
    tokenizer_3: Any
    text_encoder_3: Any
    path: NoisePath
    defaults: Defaults
    prediction: Prediction = "flow"
    name: str = "sd3"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = self.transformer.config.sample_size * factor
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor,
            multiple=factor * self.transformer.config.patch_size, size=(size, size),
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        named = {
            "denoiser": self.transformer, "vae": self.vae, "text_encoder": self.encoders[0],
            "text_encoder_2": self.encoders[1], "text_encoder_3": self.text_encoder_3,
        }  # fmt: skip
        return {name: network for name, network in named.items() if network is not None}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(
        self, prompts: Sequence[str], *, clip_skip: int = 2
    ) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, 77 * chunks + 256, width], "pooled" [batch, p], and notes.

        Args:
            clip_skip: the layer of both CLIP encoders, counted from the end. 2 is what the network was trained on.
        """
        hidden, pools, chunks = [], [], 1
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            states, pooled, infos = encode_layer(prompts, tokenizer, encoder, layer=clip_skip, chunks=chunks)
            hidden.append(states)
            pools.append(pooled)
            chunks = states.shape[1] // 77
        clip, notes = torch.cat(hidden, dim=-1), text_notes(infos)
        if self.text_encoder_3 is None:
            long = clip.new_zeros(len(prompts), T5_TOKENS, self.transformer.config.joint_attention_dim)
        else:
            long, _, cut = encode_t5(
                prompts, self.tokenizer_3, self.text_encoder_3, length=T5_TOKENS, masked=False
            )
            notes = (*notes, *cut)
        clip = torch.nn.functional.pad(clip, (0, long.shape[-1] - clip.shape[-1]))
        text = {"hidden": torch.cat([clip, long], dim=1), "pooled": torch.cat(pools, dim=-1)}
        return Conditioning(text=text), notes

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
        config = self.transformer.config
        patches = max(x.shape[-2:]) // config.patch_size
        if patches > config.pos_embed_max_size:
            unit = self.spec.multiple
            raise UsageError(
                f"a side of {patches * unit} pixels is beyond this network's table of positions; "
                f"the longest is {config.pos_embed_max_size * unit}"
            )
        out = self.transformer(
            hidden_states=x.squeeze(2).to(self.dtype),
            timestep=torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            encoder_hidden_states=branch.cond.text["hidden"].to(self.dtype),
            pooled_projections=branch.cond.text["pooled"].to(self.dtype),
            return_dict=False,
            **residuals,
        )[0]
        return out.float().unsqueeze(2)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        if self.dtype == torch.float32:
            return ()
        return (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> StableDiffusion3:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: a part is missing.
    """
    config = parts.configs.get("scheduler", {})
    return StableDiffusion3(
        transformer=parts["transformer"], vae=parts["vae"],
        tokenizers=(parts["tokenizer"], parts["tokenizer_2"]),
        encoders=(parts["text_encoder"], parts["text_encoder_2"]),
        tokenizer_3=parts.components.get("tokenizer_3"), text_encoder_3=parts.components.get("text_encoder_3"),
        path=flow_path(config),
        defaults=Defaults(
            sampler="euler", schedule="normal", steps=28, guidance=7.0, sized=flow_shift(config, token=16)
        ),
    )  # fmt: skip
