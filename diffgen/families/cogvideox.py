"""CogVideoX 1 and 1.5: a transformer over text and video tokens together, predicting v on a discrete path.

CogVideoX, 2408.06072. Its path has more noise at every index than Stable Diffusion's (the signal-to-noise ratio is
divided by `snr_shift_scale`), and ends at pure noise (2305.08891). Version 1.5 joins two latents in time in one token.
Image-to-video takes the first frame beside the latents, along the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
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
from diffgen.families.clips import encode_drawn, first_frame, held
from diffgen.families.common import Parts, in_float32, no_text_options, pictures
from diffgen.families.decoding import Piece, in_batches
from diffgen.families.guides import cosine
from diffgen.families.scheduler import discrete_path, prediction_of, walk_of
from diffgen.families.t5 import encode_t5
from diffgen.path import DiscretePath, NoisePath, Prediction

SAMPLERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}
SHIFT = 2.0  # what the 1.5 image-to-video network is told as its "ofs" input; it was trained with this one value


@dataclass(frozen=True, kw_only=True)
class CogVideoX:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' CogVideoXTransformer3DModel.
        vae: diffusers' AutoencoderKLCogVideoX.
        text_encoder, tokenizer: transformers' T5EncoderModel and its tokenizer.
        path, prediction, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    prediction: Prediction
    defaults: Defaults
    name: str = "cogvideox"

    @property
    def caps(self) -> frozenset[Cap]:
        beside = self.transformer.config.in_channels > self.vae.config.latent_channels
        return frozenset({"image_to_video" if beside else "text_to_video", "negative_prompt"})

    @property
    def joined(self) -> int:
        """Latents in time that make one token."""
        return self.transformer.config.patch_size_t or 1

    @property
    def spec(self) -> LatentSpec:
        config, joined = self.transformer.config, self.joined
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        # Version 1.5's configuration holds the largest grid it may be given, not what it was trained at.
        size = (1360, 768) if joined > 1 else (config.sample_width * factor, config.sample_height * factor)
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor, multiple=factor * config.patch_size,
            # The autoencoder works on pairs of latents behind the first one.
            frame_factor=self.vae.config.temporal_compression_ratio, frame_lead=joined - 1,
            frame_step=2 * self.vae.config.temporal_compression_ratio,
            frames=81 if joined > 1 else config.sample_frames, fps=16.0 if joined > 1 else 8.0, size=size,
            draw="bfchw", draw_visual="latents",
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
        """ "hidden" [batch, tokens, width], and notes. The padding is text like any other, as in training."""
        no_text_options(self.name, options)
        length = self.transformer.config.max_text_seq_length
        hidden, _, notes = encode_t5(prompts, self.tokenizer, self.text_encoder, length=length, masked=False)
        return Conditioning(text={"hidden": hidden}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with a first frame beside the latents, drawn from the autoencoder's distribution over the picture.

        Raises:
            UnsupportedError: another frame is given.
        """
        if "image_to_video" not in self.caps:
            pictures(self.name, visual)
            return cond
        noise, config = visual["noise"], self.vae.config
        drawn = encode_drawn(self.vae, first_frame(self.name, visual), noise)
        # Version 1.5 was trained on pictures that were divided by the factor, while its clips are multiplied.
        scale = 1 / config.scaling_factor if config.invert_scale_latents else config.scaling_factor
        frames = self.spec.shape(batch=1, width=0, height=0, frames=visual["image"].shape[2])[2]
        return replace(cond, concat=held(drawn * scale, frames, noise.shape[0])[0])

    def encode(self, pixels: Tensor) -> Latents:
        mode = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float() * self.vae.config.scaling_factor
        # The latents that fill up the first token stand for no frame; repeating the first one is the least strange.
        return torch.cat([mode[:, :, :1]] * (self.joined - 1) + [mode], dim=2)

    def decode(self, z: Latents) -> Tensor:
        latents = z[:, :, self.joined - 1 :] / self.vae.config.scaling_factor
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """Two latents at a time with the caches of the autoencoder, which `decode` uses in the same way."""
        vae = self.vae
        if vae.use_tiling:
            # Its tiles over the picture each go through the whole clip.
            yield Piece(pixels=self.decode(z))
            return

        def scaled(latents: Latents) -> Tensor:
            latents = (latents / vae.config.scaling_factor).to(vae.dtype)
            return latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)

        own = z[:, :, self.joined - 1 :]
        for pixels in in_batches(vae.decoder, own, vae.num_latent_frames_batch_size, scaled):
            yield Piece(pixels=pixels)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond, config = branch.cond, self.transformer.config
        inputs = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
        extra = {} if config.ofs_embed_dim is None else {"ofs": x.new_full((1,), SHIFT)}
        out = self.transformer(
            hidden_states=inputs.transpose(1, 2).to(self.dtype),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            timestep=torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            image_rotary_emb=self._rotary(x) if config.use_rotary_positional_embeddings else None,
            return_dict=False,
            **extra,
            **residuals,
        )[0]
        return out.float().transpose(1, 2)

    def _rotary(self, x: Latents) -> tuple[Tensor, Tensor]:
        """(cosines, sines) of the tokens' positions, stretched to the grid the model was trained on."""
        config, (frames, high, wide) = self.transformer.config, x.shape[2:]
        table: Any = get_3d_rotary_pos_embed  # typed as giving either form of the table
        patch = config.patch_size
        rows, columns = high // patch, wide // patch
        full_rows, full_columns = config.sample_height // patch, config.sample_width // patch
        common = dict(embed_dim=config.attention_head_dim, grid_size=(rows, columns), device=x.device)
        if self.joined > 1:
            return table(
                crops_coords=None, temporal_size=-(-frames // self.joined), grid_type="slice",
                max_size=(full_rows, full_columns), **common,
            )  # fmt: skip
        # The largest box of this shape in the trained grid, in its middle.
        if rows / columns > full_rows / full_columns:
            box = full_rows, round(full_rows / rows * columns)
        else:
            box = round(full_columns / columns * rows), full_columns
        top, left = round((full_rows - box[0]) / 2), round((full_columns - box[1]) / 2)
        corners = (top, left), (top + box[0], left + box[1])
        return table(crops_coords=corners, temporal_size=frames, **common)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def path_of(config: Mapping[str, Any]) -> DiscretePath:
    """The path of the scheduler config's betas, its signal-to-noise ratio divided, then stretched to pure noise."""
    scale = config.get("snr_shift_scale", 3.0)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **config}
    bars = discrete_path({**betas, "rescale_betas_zero_snr": False}).alphas_cumprod
    bars = tuple(bar / (scale + (1 - scale) * bar) for bar in bars)
    if config.get("rescale_betas_zero_snr"):
        roots = [bar**0.5 for bar in bars]
        bars = tuple(((root - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2 for root in roots)
    return DiscretePath(alphas_cumprod=bars, pure=True)


def build(parts: Parts) -> CogVideoX:
    """The family from a checkpoint's parts."""
    config = parts.configs.get("scheduler", {})
    _, schedule, settings = walk_of({"timestep_spacing": "leading", **config})
    return CogVideoX(
        transformer=parts["transformer"], vae=parts["vae"], text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"], path=path_of(config), prediction=prediction_of(config),
        defaults=Defaults(
            sampler=SAMPLERS.get(config.get("_class_name", ""), "ddim"), schedule=schedule, settings=settings,
            steps=50, guidance=6.0, guide=cosine,
        ),
    )  # fmt: skip
