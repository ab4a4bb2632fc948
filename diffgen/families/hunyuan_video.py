"""HunyuanVideo: a flow transformer over text and video tokens together, told by LLaMA and CLIP.

HunyuanVideo, 2412.03603. LLaMA reads the prompt inside an instruction; the tokens of the instruction are cut off the
result. The published model is guidance-distilled: the scale is an input of the network. SkyReels V1 (Skywork, 2025)
is the same network, trained further to begin with a picture, whose latents stand beside the clip's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from diffgen.families.clips import encode_drawn, first_frame, held
from diffgen.families.common import Parts, in_float32, no_text_options, pictures, text_notes
from diffgen.families.decoding import Piece, in_tiles, joined
from diffgen.families.scheduler import flow_shift
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 256
TILE, OVERLAP = 4, 1  # latents that are decoded at once, and those that two tiles share
LAYER = 3  # of LLaMA's hidden states, counted from the end
# What the model was trained with, word for word; CROP tokens of it stand before the prompt.
CROP = 95
BEFORE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
AFTER = "<|eot_id|>"


@dataclass(frozen=True, kw_only=True)
class HunyuanVideo:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' HunyuanVideoTransformer3DModel.
        vae: diffusers' AutoencoderKLHunyuanVideo.
        text_encoder, tokenizer: transformers' LlamaModel and its tokenizer.
        text_encoder_2, tokenizer_2: transformers' CLIPTextModel and its tokenizer, for the pooled text.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    text_encoder_2: Any
    tokenizer_2: Any
    path: NoisePath
    defaults: Defaults
    prediction: Prediction = "flow"
    name: str = "hunyuan-video"

    @property
    def caps(self) -> frozenset[Cap]:
        embedded: set[Cap] = {"guidance_embedding"} if self.transformer.config.guidance_embeds else set()
        beside = self.transformer.config.in_channels > self.vae.config.latent_channels
        return frozenset({"image_to_video" if beside else "text_to_video", "negative_prompt", *embedded})

    @property
    def spec(self) -> LatentSpec:
        factor = self.vae.spatial_compression_ratio
        frames, size = (97, (960, 544)) if "image_to_video" in self.caps else (129, (1280, 720))
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor,
            multiple=factor * self.transformer.config.patch_size, frame_factor=self.vae.temporal_compression_ratio,
            frames=frames, fps=24.0, size=size, draw_visual="latents",
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        return {
            "denoiser": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }  # fmt: skip

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """ "hidden" [batch, 256, width], "mask" [batch, 256], 1 on text, "pooled" [batch, width], and notes."""
        no_text_options(self.name, options)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            out = self.text_encoder(ids.to(self.device), mask.to(self.device), output_hidden_states=True)
            return out.hidden_states[-LAYER]  # type: ignore[no-any-return]

        def encode_pooled(ids: Tensor) -> tuple[Tensor, Tensor]:
            out = self.text_encoder_2(ids.to(self.device))
            return out.last_hidden_state, out.pooler_output

        frame = language.frame_around(self.tokenizer, BEFORE, AFTER)
        with torch.inference_mode():
            hidden, mask, infos = language.encode_sequence(
                prompts, self.tokenizer, encode, length=TOKENS + CROP, frame=frame
            )
            _, pooled, _ = language.encode_clip(prompts, self.tokenizer_2, encode_pooled)
        text = {"hidden": hidden[:, CROP:], "mask": mask[:, CROP:].to(hidden.device), "pooled": pooled}
        return Conditioning(text=text), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with a first frame beside the latents, drawn from the autoencoder's distribution over the picture.

        Raises:
            UsageError: the network takes no picture, or another frame is given.
        """
        if "image_to_video" not in self.caps:
            pictures(self.name, visual)
            return cond
        noise = visual["noise"]
        drawn = encode_drawn(self.vae, first_frame(self.name, visual), noise) * self.vae.config.scaling_factor
        frames = self.spec.shape(batch=1, width=0, height=0, frames=visual["image"].shape[2])[2]
        return replace(cond, concat=held(drawn, frames, noise.shape[0])[0])

    def encode(self, pixels: Tensor) -> Latents:
        mode = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        return mode * self.vae.config.scaling_factor  # type: ignore[no-any-return]

    def decode(self, z: Latents) -> Tensor:
        return joined(self.decode_pieces(z))

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """In tiles of the size that the model is published with: its decoder looks at all frames it is given."""
        return in_tiles(self._decode, z, tile=TILE, overlap=OVERLAP, factor=self.spec.frame_factor, published=True)

    def _decode(self, z: Latents) -> Tensor:
        latents = (z / self.vae.config.scaling_factor).to(self.vae.dtype)
        return self.vae.decode(latents, return_dict=False)[0].float()

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond = branch.cond
        scale = None
        if self.transformer.config.guidance_embeds:
            given = cond.extra["guidance"] if "guidance" in cond.extra else x.new_tensor([self.defaults.guidance])
            scale = given.expand(x.shape[0]).to(x.device, self.dtype) * 1000
        out = self.transformer(
            hidden_states=(x if cond.concat is None else torch.cat([x, cond.concat], dim=1)).to(self.dtype),
            timestep=torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            encoder_attention_mask=cond.text["mask"].to(self.dtype),
            pooled_projections=cond.text["pooled"].to(self.dtype),
            guidance=scale,
            return_dict=False,
            **residuals,
        )[0]
        return out.float()

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def build(parts: Parts) -> HunyuanVideo:
    """The family from a checkpoint's parts."""
    transformer, vae = parts["transformer"], parts["vae"]
    vae.use_framewise_decoding = False  # the family divides clips itself, so that frames can be used as they come
    token = vae.spatial_compression_ratio * transformer.config.patch_size
    shift = flow_shift(parts.configs.get("scheduler", {}), token=token, frame=vae.temporal_compression_ratio)
    defaults = Defaults(sampler="euler", schedule="even", steps=50, guidance=6.0, sized=shift)
    if transformer.config.in_channels > vae.config.latent_channels:
        # SkyReels was trained on without distillation: it wants classifier-free guidance.
        defaults = replace(defaults, guidance=1.0, sized=lambda *extent: {**shift(*extent), "true_cfg": 6.0})
    return HunyuanVideo(
        transformer=transformer, vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        text_encoder_2=parts["text_encoder_2"], tokenizer_2=parts["tokenizer_2"], path=FlowPath(),
        defaults=defaults,
    )  # fmt: skip
