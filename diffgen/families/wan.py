"""Wan 2.1 and 2.2: a flow transformer over the latents of a causal video autoencoder, told by UMT5.

Wan, 2503.20314. Version 2.2 has two denoisers of one shape: one for the noisy part of the walk, one for the rest.
Image-to-video comes in two forms. The 14B models take the first frame beside the latents, along the channels,
with a mask of the frames that are given (2.1 also reads the picture through CLIP). The 5B model holds the first
frame clean, and its network is told the time of every token by itself.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from PIL import Image
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
from diffgen.families.clips import beginning, held, per_channel
from diffgen.families.common import Parts, in_float32, no_text_options, pictures
from diffgen.families.decoding import Piece
from diffgen.families.guides import staged
from diffgen.families.t5 import encode_t5
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 512
TIMES = 1000
TOP = {"top": 1 - 17 * 2.0**-24}  # the float32 nearest to 1 - 1e-6, where diffusers' flow UniPC begins


@dataclass(frozen=True, kw_only=True)
class Wan:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' WanTransformer3DModel; in Wan 2.2 the one for the noisy part.
        transformer_2: the one for the rest, or None.
        boundary: share of the walk's time, 0..1, below which `transformer_2` predicts.
        vae: diffusers' AutoencoderKLWan.
        text_encoder, tokenizer: transformers' UMT5EncoderModel and its tokenizer.
        image_encoder, image_processor: CLIP's vision half and its pre-processing; None where the denoiser
            has no input for it.
        token_times: whether each token is told its own time, so that a frame can be held clean (the 5B model).
    """

    transformer: Any
    transformer_2: Any = None
    boundary: float = 0.0
    vae: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any = None
    image_processor: Any = None
    token_times: bool = False
    path: NoisePath
    defaults: Defaults
    prediction: Prediction = "flow"
    name: str = "wan"

    @property
    def caps(self) -> frozenset[Cap]:
        beside = self.transformer.config.in_channels > self.vae.config.z_dim
        if self.token_times and not beside:
            return frozenset({"text_to_video", "image_to_video", "negative_prompt"})
        if beside:
            return frozenset({"image_to_video", "keyframes", "negative_prompt"})
        return frozenset({"text_to_video", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        config = self.vae.config
        factor, large = config.scale_factor_spatial, config.z_dim > 16
        return LatentSpec(
            channels=config.z_dim, factor=factor, multiple=factor * self.transformer.config.patch_size[1],
            frame_factor=config.scale_factor_temporal, frames=121 if large else 81, fps=24.0 if large else 16.0,
            size=(1280, 704) if large else (832, 480),
            # The transformer has a table of positions.
            most_frames=config.scale_factor_temporal * (self.transformer.config.rope_max_seq_len - 1) + 1,
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        found = {
            "denoiser": self.transformer, "denoiser_2": self.transformer_2, "vae": self.vae,
            "text_encoder": self.text_encoder, "image_encoder": self.image_encoder,
        }  # fmt: skip
        return {name: network for name, network in found.items() if network is not None}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """ "hidden" [batch, 512, width], zero behind the text's end, and notes."""
        no_text_options(self.name, options)
        hidden, mask, notes = encode_t5([_clean(p) for p in prompts], self.tokenizer, self.text_encoder, length=TOKENS)
        return Conditioning(text={"hidden": hidden * mask[..., None]}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with frames that are given: beside the latents, or as clean latents to hold.

        Args:
            visual: "image" [1, 3, frames, height, width] in -1..1, 0 where none is given, and "given"
                [1, 1, frames, 1, 1], 1 where one is. A model that holds frames holds a beginning only.

        Raises:
            UnsupportedError: this model cannot use the frames that are given.
        """
        if "image_to_video" not in self.caps:
            pictures(self.name, visual)
            return cond
        batch, frames, given = cond.text["hidden"].shape[0], visual["image"], visual["given"]
        if self.token_times:
            first = self.encode(beginning(self.name, visual, self.spec.frame_factor))
            kept, clean = held(first, (frames.shape[2] - 1) // self.spec.frame_factor + 1, batch)
            return replace(cond, clean=clean, extra={**cond.extra, "kept": kept})
        latents = self.encode(frames)
        # The first latent frame stands for one frame of pixels, and every other for `unit`: each gets a mask.
        unit, (high, wide) = self.spec.frame_factor, latents.shape[-2:]
        mask = torch.cat([given[:, :, :1].repeat(1, 1, unit, 1, 1), given[:, :, 1:]], dim=2)
        mask = mask.reshape(1, -1, unit, 1, 1).transpose(1, 2).expand(-1, -1, -1, high, wide)
        cond = replace(cond, concat=torch.cat([mask, latents], dim=1).expand(batch, -1, -1, -1, -1))
        if self.image_encoder is None or self.transformer.config.image_dim is None:
            return cond
        return replace(cond, vision=self._look(frames, given).expand(batch, -1, -1))

    def _look(self, frames: Tensor, given: Tensor) -> Tensor:
        """[1, tokens, width]: the first frame as CLIP sees it, then the last one where the network wants both."""
        ends = [0, -1] if self.sees_both_ends else [0]
        if self.sees_both_ends and not all(bool(given[0, 0, end]) for end in ends):
            raise UsageError(f"this {self.name} checkpoint goes from a first frame to a last one; give it both")
        levels = [((frames[0, :, end] + 1) * 127.5).round().byte().permute(1, 2, 0) for end in ends]
        pictures = [Image.fromarray(level.cpu().numpy()) for level in levels]
        pixels = self.image_processor(images=pictures, return_tensors="pt").pixel_values
        seen = self.image_encoder(pixels.to(self.device, self.image_encoder.dtype), output_hidden_states=True)
        return seen.hidden_states[-2].flatten(0, 1)[None]  # type: ignore[no-any-return]

    @property
    def sees_both_ends(self) -> bool:
        """Whether CLIP's tokens of two pictures are told apart by positions (2.1's first-and-last-frame model)."""
        return self.transformer.config.pos_embed_seq_len is not None

    def encode(self, pixels: Tensor) -> Latents:
        mode = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        mean, std = self._statistics(mode)
        return (mode - mean) / std

    def decode(self, z: Latents) -> Tensor:
        mean, std = self._statistics(z)
        return self.vae.decode((z * std + mean).to(self.vae.dtype), return_dict=False)[0].float()

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """A latent at a time. The autoencoder's own caches hold what lies before, so that the result is `decode`'s."""
        if self.vae.use_tiling:
            # Its tiles over the picture each go through the whole clip.
            yield Piece(pixels=self.decode(z))
            return
        vae, (mean, std) = self.vae, self._statistics(z)
        vae.clear_cache()
        try:
            for k in range(z.shape[2]):
                vae._conv_idx = [0]
                caches = {"feat_cache": vae._feat_map, "feat_idx": vae._conv_idx}
                latent = vae.post_quant_conv((z[:, :, k : k + 1] * std + mean).to(vae.dtype))
                pixels = vae.decoder(latent, first_chunk=k == 0, **caches)
                if vae.config.patch_size is not None:
                    pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
                yield Piece(pixels=pixels.clamp(-1, 1).float())
        finally:
            vae.clear_cache()

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of the latents, [1, channels, 1, 1, 1]."""
        config = self.vae.config
        return per_channel(config.latents_mean, like), per_channel(config.latents_std, like)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond = branch.cond
        late = self.transformer_2 is not None and step.t < self.boundary * TIMES
        inputs = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
        out = (self.transformer_2 if late else self.transformer)(
            hidden_states=inputs.to(self.dtype),
            timestep=self._times(x, step.t, cond.clean),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            encoder_hidden_states_image=None if cond.vision is None else self._told(cond.vision),
            return_dict=False,
            **residuals,
        )[0]
        return out.float()

    def _told(self, vision: Tensor) -> Tensor:
        """CLIP's tokens as the network takes them: two pictures as two rows."""
        return (vision.unflatten(1, (2, -1)).flatten(0, 1) if self.sees_both_ends else vision).to(self.dtype)

    def _times(self, x: Latents, time: float, clean: Tensor | None) -> Tensor:
        """[batch], or [batch, tokens] where some tokens are clean: their time is 0."""
        times = torch.full((x.shape[0],), time, dtype=torch.float32, device=x.device)
        if clean is None:
            return times
        _, high, wide = self.transformer.config.patch_size
        return times[:, None] * (1 - clean[:, 0, :, ::high, ::wide].flatten(1))

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        if self.dtype == torch.float32:
            return ()
        names = [name for name in ("denoiser", "denoiser_2") if name in self.components]
        return (("the transformer in float32", in_float32(*names)),)


def _clean(prompt: str) -> str:
    """The prompt as the model's own code reads it: HTML entities resolved, every run of white space one blank."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def build(parts: Parts) -> Wan:
    """The family from a checkpoint's parts."""
    config = parts.configs.get("scheduler", {})
    multistep = config.get("_class_name") != "FlowMatchEulerDiscreteScheduler"
    shift = float(config.get("flow_shift" if multistep else "shift", 1.0))
    boundary, two = float(parts.index.get("boundary_ratio") or 0.0), "transformer_2" in parts.components
    beside = parts["transformer"].config.in_channels > parts["vae"].config.z_dim
    # The authors' own scales, for the noisy part of the walk and for the rest.
    high, low = ((3.5, 3.5) if beside else (4.0, 3.0)) if two else (5.0, 5.0)
    return Wan(
        transformer=parts["transformer"], transformer_2=parts.components.get("transformer_2"),
        boundary=boundary, vae=parts["vae"],
        text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        image_encoder=parts.components.get("image_encoder"), image_processor=parts.components.get("image_processor"),
        token_times=bool(parts.index.get("expand_timesteps")),
        # The multistep samplers that the model was published with tell it whole times.
        path=FlowPath(time_scale=TIMES, whole=multistep),
        defaults=Defaults(
            sampler="unipc" if multistep else "euler", schedule="sgm_uniform" if multistep else "even",
            steps=40 if two else 50, guidance=high, guide=partial(staged, boundary * TIMES),
            settings={**(TOP if multistep else {}), **({"guidance_2": low} if two else {})},
            sized=lambda width, height, frames, steps: {"shift": shift},
        ),
    )  # fmt: skip
