"""LTX-Video: a flow transformer over the strongly compressed latents of a video autoencoder, told by T5.

LTX-Video, 2501.00103. A latent stands for 32 x 32 pixels and 8 frames, so every latent is one token. Positions are
told in pixels and seconds, so the frame rate is an input of the network. A first frame is held clean, and its
tokens are told time 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from diffgen.errors import CheckpointError
from diffgen.families.clips import beginning, encode_drawn, held, per_channel
from diffgen.families.common import Parts, in_float32, no_text_options
from diffgen.families.decoding import Piece, in_tiles
from diffgen.families.scheduler import flow_shift
from diffgen.families.t5 import encode_t5
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 128
TILE, OVERLAP = 12, 6  # latents that are decoded at once, and those that two tiles share


@dataclass(frozen=True, kw_only=True)
class LTX:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' LTXVideoTransformer3DModel.
        vae: diffusers' AutoencoderKLLTXVideo.
        text_encoder, tokenizer: transformers' T5EncoderModel and its tokenizer.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    prediction: Prediction = "flow"
    name: str = "ltx-video"
    caps: frozenset[Cap] = frozenset({"text_to_video", "image_to_video", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = self.vae.spatial_compression_ratio
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor, multiple=factor,
            frame_factor=self.vae.temporal_compression_ratio, frames=161, fps=25.0, size=(704, 512),
            draw_visual="latents",
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
        """ "hidden" [batch, 128, width] and "mask" [batch, 128], 1 on text, and notes."""
        no_text_options(self.name, options)
        # The text encoder looks at the padding too, and the transformer does not: so the model was trained.
        hidden, mask, notes = encode_t5(prompts, self.tokenizer, self.text_encoder, length=TOKENS, masked=False)
        return Conditioning(text={"hidden": hidden, "mask": mask}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with a beginning to hold. One frame alone is drawn from the autoencoder's distribution over it.

        Raises:
            UnsupportedError: later frames are given.
        """
        pixels, noise = beginning(self.name, visual, self.spec.frame_factor), visual["noise"]
        drawn = encode_drawn(self.vae, pixels, noise) if pixels.shape[2] == 1 else None
        mean, std = self._statistics(noise)
        first = self.encode(pixels) if drawn is None else (drawn - mean) / std
        frames = (visual["image"].shape[2] - 1) // self.spec.frame_factor + 1
        kept, clean = held(first, frames, noise.shape[0])
        return replace(cond, clean=clean, extra={**cond.extra, "kept": kept})

    def encode(self, pixels: Tensor) -> Latents:
        mode = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        mean, std = self._statistics(mode)
        return (mode - mean) / std

    def decode(self, z: Latents) -> Tensor:
        mean, std = self._statistics(z)
        latents = (z * std / self.vae.config.scaling_factor + mean).to(self.vae.dtype)
        # Later autoencoders take one more denoising step while decoding; time 0 asks for none.
        time = latents.new_zeros(z.shape[0]) if self.vae.config.timestep_conditioning else None
        return self.vae.decode(latents, time, return_dict=False)[0].float()

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """In tiles: the autoencoder looks both ways in time and keeps no caches."""
        return in_tiles(self.decode, z, tile=TILE, overlap=OVERLAP, factor=self.spec.frame_factor)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of the latents, [1, channels, 1, 1, 1]."""
        return per_channel(self.vae.latents_mean, like), per_channel(self.vae.latents_std, like)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond, (frames, high, wide) = branch.cond, x.shape[2:]
        times = torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device)
        if cond.clean is not None:
            times = times[:, None] * (1 - cond.clean.flatten(1))
        # All rows of a batch are clips of one frame rate.
        fps = float(cond.extra["fps"][0]) if "fps" in cond.extra else self.spec.fps
        factor = self.spec.factor
        out = self.transformer(
            hidden_states=x.flatten(2).transpose(1, 2).to(self.dtype),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            timestep=times,
            encoder_attention_mask=cond.text["mask"],
            num_frames=frames,
            height=high,
            width=wide,
            rope_interpolation_scale=(self.spec.frame_factor / fps, factor, factor),
            return_dict=False,
            **residuals,
        )[0]
        return out.float().transpose(1, 2).unflatten(2, (frames, high, wide))

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> LTX:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: the transformer takes patches of several latents, which no published one does.
    """
    transformer, vae, config = parts["transformer"], parts["vae"], parts.configs.get("scheduler", {})
    patch = transformer.config.patch_size, transformer.config.patch_size_t
    if patch != (1, 1):
        raise CheckpointError(f"{parts.origin}: the transformer takes patches of {patch} latents; accepted: (1, 1)")
    shift = flow_shift(config, token=vae.spatial_compression_ratio, frame=vae.temporal_compression_ratio)
    return LTX(
        transformer=transformer, vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=FlowPath(),
        defaults=Defaults(
            sampler="euler", schedule="even", steps=50, guidance=3.0,
            settings={"terminal": config["shift_terminal"]} if config.get("shift_terminal") else {}, sized=shift,
        ),
    )  # fmt: skip
