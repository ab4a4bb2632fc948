"""Mochi 1: a flow transformer over the latents of a video autoencoder, told by T5.

Genmo, github.com/genmoai/mochi, 2024. The network counts time the other way round: it is told how clean the sample is,
and gives the direction towards the clean one. So the time and the sign are turned here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from diffgen.families.clips import per_channel
from diffgen.families.common import Parts, in_float32, no_text_options, pictures
from diffgen.families.decoding import Piece, cached_convolutions, in_batches
from diffgen.families.scheduler import flow_shift
from diffgen.families.t5 import encode_t5
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 256
TIMES = 1000


@dataclass(frozen=True, kw_only=True)
class Mochi:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' MochiTransformer3DModel.
        vae: diffusers' AutoencoderKLMochi.
        text_encoder, tokenizer: transformers' T5EncoderModel and its tokenizer.
        blank: whether an empty prompt is no text at all, instead of an end token.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    blank: bool = False
    prediction: Prediction = "flow"
    name: str = "mochi"
    caps: frozenset[Cap] = frozenset({"text_to_video", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = self.vae.spatial_compression_ratio
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor,
            multiple=factor * self.transformer.config.patch_size, frame_factor=self.vae.temporal_compression_ratio,
            frames=85, fps=30.0, size=(848, 480),
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
        """ "hidden" [batch, 256, width] and "mask" [batch, 256], 1 on text, and notes."""
        no_text_options(self.name, options)
        hidden, mask, notes = encode_t5(prompts, self.tokenizer, self.text_encoder, length=TOKENS)
        empty = torch.tensor([self.blank and not prompt for prompt in prompts], device=hidden.device)
        if empty.any():
            ids = torch.zeros(1, TOKENS, dtype=torch.long, device=hidden.device)
            with torch.inference_mode():
                nothing = self.text_encoder(ids, attention_mask=ids).last_hidden_state
            hidden, mask = torch.where(empty[:, None, None], nothing, hidden), mask * ~empty[:, None]
        return Conditioning(text={"hidden": hidden, "mask": mask.bool()}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning itself: this network takes no pictures."""
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        mode = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        mean, scale = self._statistics(mode)
        return (mode - mean) / scale

    def decode(self, z: Latents) -> Tensor:
        mean, scale = self._statistics(z)
        return self.vae.decode((z * scale + mean).to(self.vae.dtype), return_dict=False)[0].float()

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """Two latents at a time; the autoencoder's caches hold what lies before."""
        vae, (mean, scale) = self.vae, self._statistics(z)
        if vae.use_tiling:
            # Its tiles over the picture each go through the whole clip.
            yield Piece(pixels=self.decode(z))
            return
        factor, size = vae.temporal_compression_ratio, vae.num_latent_frames_batch_size
        # The first latent stands for one frame, and is decoded to as many as any other.
        surplus = factor - 1 if vae.drop_last_temporal_frames else 0

        def scaled(latents: Latents) -> Tensor:
            return (latents * scale + mean).to(vae.dtype)

        with cached_convolutions(vae.decoder):
            for k, pixels in enumerate(in_batches(vae.decoder, z, size, scaled)):
                yield Piece(pixels=pixels[:, :, surplus:] if k == 0 else pixels)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of the latents, [1, channels, 1, 1, 1]; 0 and 1 where none are known."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            mean, std = [0.0], [1.0]
        return per_channel(mean, like), per_channel(std, like) / config.scaling_factor

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond = branch.cond
        out = self.transformer(
            hidden_states=x.to(self.dtype),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            timestep=torch.full((x.shape[0],), TIMES - step.t, dtype=torch.float32, device=x.device),
            encoder_attention_mask=cond.text["mask"],
            return_dict=False,
            **residuals,
        )[0]
        return -out.float()

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> Mochi:
    """The family from a checkpoint's parts."""
    return Mochi(
        transformer=parts["transformer"], vae=parts["vae"], text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"], path=FlowPath(time_scale=TIMES),
        blank=bool(parts.index.get("force_zeros_for_empty_prompt")),
        defaults=Defaults(
            sampler="euler", schedule="linear_quadratic", steps=64, guidance=4.5,
            sized=flow_shift(parts.configs.get("scheduler", {}), token=16, frame=6),
        ),
    )  # fmt: skip
