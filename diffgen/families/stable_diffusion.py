"""Stable Diffusion 1.x and 2.x: a U-Net with cross-attention to one CLIP text encoder.

Latent diffusion, 2112.10752. Version 2 predicts v (2202.00512) at 768 pixels and pads prompts with "!".
The U-Net may take further channels: a mask and the latents of what it leaves, for inpainting, or the latents of
the picture to edit, for InstructPix2Pix (2211.09800).
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
from diffgen.errors import CheckpointError, UsageError
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_frames,
    encode_scaled,
    in_float32,
    pictures,
    text_notes,
)
from diffgen.families.guides import EditGuidance
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
            # 77 for every published model; the model in the box reads shorter prompts.
            length = self.text_encoder.config.max_position_embeddings
            hidden, _, infos = language.encode_clip(prompts, self.tokenizer, encode_ids, length=length)
        return Conditioning(text={"hidden": hidden}), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with the U-Net's further channels [batch, channels, 1, h, w] in "concat".

        Inpainting checkpoints take "image" and "mask", InstructPix2Pix takes "reference" in the picture's size.

        Raises:
            UsageError: a picture is missing, or there is one that this U-Net has no channels for.
        """
        if "inpaint" in self.caps and self.unet.config.in_channels > self.spec.channels:
            return replace(cond, concat=inpaint_channels(self.vae, *pictures(self.name, visual, "image", "mask")))
        if "edit" in self.caps:
            # Trained on latents as the encoder gives them, without the scale.
            return replace(cond, concat=encode_frames(self.vae, *pictures(self.name, visual, "reference")))
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond = branch.cond
        inputs = with_channels(x, cond, self.unet.config.in_channels)
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


def inpaint_channels(vae: Any, image: Tensor, mask: Tensor) -> Latents:
    """[batch, 1 + channels, 1, h, w]: the mask at the latents' size, then the scaled latents of what it leaves.

    Args:
        image: [batch, 3, 1, height, width] in -1..1.
        mask: [batch, 1, 1, height, width]; from 0.5 on it is painted anew.
    """
    hole = (mask >= 0.5).to(image.dtype)
    kept = encode_scaled(vae, image * (1 - hole))
    small = torch.nn.functional.interpolate(hole.squeeze(2), size=kept.shape[-2:])
    return torch.cat([small.unsqueeze(2), kept], dim=1)


def with_channels(x: Latents, cond: Conditioning, count: int) -> Latents:
    """`x` and the further channels of `cond`, `count` in all.

    Raises:
        UsageError: the network takes more or fewer channels than these, or they are of another size.
    """
    if cond.concat is not None and cond.concat.shape[-2:] != x.shape[-2:]:
        seen, wanted = ("x".join(map(str, z.shape[:-3:-1])) for z in (cond.concat, x))
        raise UsageError(f"the attached picture has {seen} latents; the drawn one has {wanted}: give it the same size")
    inputs = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
    if inputs.shape[1] != count:
        raise UsageError(
            f"this network takes {count} channels; got {inputs.shape[1]}: an inpainting or editing checkpoint "
            "needs its pictures, and any other takes none"
        )
    return inputs


def kind_of(parts: Parts) -> tuple[str, frozenset[Cap]]:
    """(suffix of the name, capabilities) by the channels that the U-Net takes beside the latents.

    Raises:
        CheckpointError: they are neither none, nor a mask and latents, nor latents; or the U-Net is told the
            guidance scale.
    """
    if parts["unet"].config.get("time_cond_proj_dim"):
        raise CheckpointError(f"the U-Net of {parts.origin} takes the guidance scale as an input, as a whole LCM does")
    latents = parts["vae"].config.latent_channels
    extra = parts["unet"].config.in_channels - latents
    if extra == 0:
        return "", frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})
    if extra == latents + 1:
        return "-inpaint", frozenset({"inpaint", "negative_prompt"})
    if extra == latents:
        return "-edit", frozenset({"edit", "negative_prompt"})
    raise CheckpointError(
        f"the U-Net of {parts.origin} takes {extra} channels beside the latents; "
        f"accepted: 0, {latents} (editing), {latents + 1} (inpainting)"
    )


def build(parts: Parts) -> StableDiffusion:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: a part is missing, or the U-Net's input is of no known layout.
    """
    path, prediction, defaults = read_scheduler(parts.configs.get("scheduler", {}))
    suffix, caps = kind_of(parts)
    if "edit" in caps:
        defaults = replace(defaults, guide=EditGuidance)
    return StableDiffusion(
        unet=parts["unet"], vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=path, prediction=prediction, defaults=defaults, name=f"stable-diffusion{suffix}", caps=caps,
    )  # fmt: skip
