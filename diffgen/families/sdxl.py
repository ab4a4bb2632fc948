"""Stable Diffusion XL: two CLIP text encoders, and the picture's size told to the U-Net.

SDXL (2307.01952), its refiner, which has the second encoder alone and is told an aesthetic score, its inpainting
variant, and its few-step students (turbo 2311.17042, lightning 2402.13929).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
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
from diffgen.families.clip import encode_layer
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    in_float32,
    pictures,
    text_notes,
)
from diffgen.families.scheduler import read as read_scheduler
from diffgen.families.stable_diffusion import inpaint_channels, kind_of, with_channels
from diffgen.path import NoisePath, Prediction

# What the refiner is told of the wanted and of the unwanted picture, out of 10: the paper's own demo values.
SCORE, NEGATIVE_SCORE = 6.0, 2.5


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL or AutoencoderTiny.
        tokenizers, encoders: transformers' CLIPTokenizers, and the CLIP text encoders they belong to, in the
            order in which the U-Net takes their widths. The last one's pooled text is used.
        path, prediction, defaults: from the checkpoint's scheduler config.
        zero_empty: an empty prompt means zeros, not the encoded empty prompt.
        scored: the U-Net is told an aesthetic score in place of the target size.
    """

    unet: Any
    vae: Any
    tokenizers: tuple[Any, ...]
    encoders: tuple[Any, ...]
    path: NoisePath
    prediction: Prediction
    defaults: Defaults
    caps: frozenset[Cap]
    zero_empty: bool = True
    scored: bool = False
    name: str = "sdxl"

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = self.unet.config.sample_size * factor
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor, multiple=factor, size=(size, size)
        )

    @property
    def components(self) -> Mapping[str, Any]:
        names = ("text_encoder", "text_encoder_2")[-len(self.encoders) :]
        return {"denoiser": self.unet, "vae": self.vae, **dict(zip(names, self.encoders, strict=True))}

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def encode_text(
        self, prompts: Sequence[str], *, clip_skip: int = 2
    ) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, 77 * chunks, width], "pooled" [batch, p], and notes.

        Args:
            clip_skip: the layer counted from the end, in both encoders. 2 is what the U-Net was trained on.
        """
        hidden, chunks = [], 1
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            states, pooled, infos = encode_layer(prompts, tokenizer, encoder, layer=clip_skip, chunks=chunks)
            hidden.append(states)
            chunks = states.shape[1] // 77
        text = {"hidden": torch.cat(hidden, dim=-1), "pooled": pooled}
        if self.zero_empty:
            filled = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=pooled.device)
            text = {name: values * filled.view(-1, *[1] * (values.ndim - 1)) for name, values in text.items()}
        return Conditioning(text=text), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with the mask and the masked latents of "image" and "mask" in "concat", for inpainting checkpoints.

        Raises:
            UsageError: a picture is missing, or there is one that this U-Net has no channels for.
        """
        if self.unet.config.in_channels == self.spec.channels:
            pictures(self.name, visual)
            return cond
        image, mask = pictures(self.name, visual, "image", "mask")
        with self._wide_enough():
            return replace(cond, concat=inpaint_channels(self.vae, image, mask))

    def encode(self, pixels: Tensor) -> Latents:
        with self._wide_enough():
            return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        with self._wide_enough():
            return decode_scaled(self.vae, z)

    def _wide_enough(self) -> AbstractContextManager[None]:
        """The published autoencoder overflows in float16, and says so in its configuration."""
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            return in_float32("vae")(self.components)
        return nullcontext()

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond, count = branch.cond, x.shape[0]
        out = self.unet(
            with_channels(x, cond, self.unet.config.in_channels).squeeze(2).to(self.dtype),
            torch.full((count,), step.t, dtype=torch.float32, device=x.device),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            added_cond_kwargs={
                "text_embeds": cond.text["pooled"].to(self.dtype),
                "time_ids": self._ids(x, branch.name, cond.extra),
            },
            return_dict=False,
            **residuals,
        )[0]
        return out.float().unsqueeze(2)

    def _ids(self, x: Latents, name: str, extra: Mapping[str, Tensor]) -> Tensor:
        """[batch, 6 or 5]: original height and width, top and left of the crop, target size or aesthetic score."""
        size = x.new_tensor([[side * self.spec.factor for side in x.shape[:-3:-1]]])
        usual = {"original_size": size, "crop": torch.zeros_like(size), "target_size": size}
        rows = (extra.get(key, value).to(x).flip(1).expand(x.shape[0], 2) for key, value in usual.items())
        original, crop, target = rows
        if not self.scored:
            return torch.cat([original, crop, target], dim=1).float()
        # Branches that share a batch are named in its order, joined by "+".
        parts = name.split("+")
        scores = [NEGATIVE_SCORE if part == "negative" else SCORE for part in parts]
        last = x.new_tensor(scores).repeat_interleave(x.shape[0] // len(parts))[:, None]
        return torch.cat([original, crop, last], dim=1).float()

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the U-Net in float32", in_float32("denoiser")),)


def _sized(told: Set[str], width: int, height: int, frames: int, steps: int) -> Mapping[str, Any]:
    """What the network is told of the picture's origin: that it was never larger, nor cut."""
    usual = {"original_size": [width, height], "crop": [0, 0], "target_size": [width, height]}
    return {name: value for name, value in usual.items() if name in told}


def build(parts: Parts) -> StableDiffusionXL:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: a part is missing, or the checkpoint is of a relative that is not drawn this way.
    """
    config = parts.configs.get("scheduler", {})
    kind = str(config.get("_class_name", ""))
    if kind.startswith("EDM"):
        raise CheckpointError(f"{parts.origin} was trained on the EDM path ({kind}), which this family does not walk")
    path, prediction, defaults = read_scheduler(config)
    suffix, caps = kind_of(parts)
    if "edit" in caps:
        raise CheckpointError(f"{parts.origin} is an SDXL editing checkpoint; accepted: text to image, inpainting")
    scored = bool(parts.index.get("requires_aesthetics_score", False))
    if scored:
        # Trained on the last fifth of the path alone, so it needs a picture to begin with.
        suffix, caps = "-refiner", caps - {"text_to_image"}
    names = [name for name in ("tokenizer", "tokenizer_2") if name in parts.components]
    if defaults.guidance > 1:
        defaults = replace(defaults, guidance=5.0, steps=30)
    told = {"original_size", "crop"} if scored else {"original_size", "crop", "target_size"}
    defaults = replace(defaults, told=frozenset(told), sized=partial(_sized, told))
    return StableDiffusionXL(
        unet=parts["unet"], vae=parts["vae"], tokenizers=tuple(parts[name] for name in names),
        encoders=tuple(parts[name.replace("tokenizer", "text_encoder")] for name in names),
        path=path, prediction=prediction, defaults=defaults, caps=caps, name=f"sdxl{suffix}",
        zero_empty=bool(parts.index.get("force_zeros_for_empty_prompt", True)), scored=scored,
    )  # fmt: skip
