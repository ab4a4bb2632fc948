"""AnimateDiff on Stable Diffusion 1.x: a picture model whose U-Net has attention over time between its layers.

AnimateDiff, 2307.04725. Text, autoencoder and path are the picture model's; the motion modules were trained beside
its frozen weights, so they fit every checkpoint of that family. They know a fixed number of positions in time, which
is the most frames they draw at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from diffgen.errors import UnsupportedError
from diffgen.families.common import Parts
from diffgen.families.scheduler import read as read_scheduler
from diffgen.families.stable_diffusion import StableDiffusion
from diffgen.path import NoisePath, Prediction

FRAMES = 16  # of the clips that the published motion modules were trained on


@dataclass(frozen=True, kw_only=True)
class AnimateDiff:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        picture: the picture model, whose U-Net is diffusers' UNetMotionModel.
        defaults: from the checkpoint's scheduler config.
    """

    picture: StableDiffusion
    defaults: Defaults
    name: str = "animatediff"
    caps: frozenset[Cap] = frozenset({"text_to_video", "negative_prompt"})

    @property
    def path(self) -> NoisePath:
        return self.picture.path

    @property
    def prediction(self) -> Prediction:
        return self.picture.prediction

    @property
    def spec(self) -> LatentSpec:
        most = self.picture.unet.config.motion_max_seq_length
        return replace(self.picture.spec, frames=min(FRAMES, most), most_frames=most, fps=8.0)

    @property
    def components(self) -> Mapping[str, Any]:
        return self.picture.components

    @property
    def device(self) -> torch.device:
        return self.picture.device

    @property
    def dtype(self) -> torch.dtype:
        return self.picture.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """As the picture model: "hidden" [batch, 77 * chunks, width], and notes."""
        return self.picture.encode_text(prompts, **options)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """Refuses: the network looks at no picture.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{self.name} takes no picture; given: {', '.join(sorted(visual))}")

    def encode(self, pixels: Tensor) -> Latents:
        return self.picture.encode(pixels)

    def decode(self, z: Latents) -> Tensor:
        # A frame at a time: the autoencoder knows nothing of the others, and memory stays that of one picture.
        return torch.cat([self.picture.decode(z[:, :, k : k + 1]) for k in range(z.shape[2])], dim=2)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        hidden = branch.cond.text["hidden"].to(self.dtype)
        out = self.picture.unet(
            x.to(self.dtype),
            torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            encoder_hidden_states=hidden.repeat_interleave(x.shape[2], dim=0),
            return_dict=False,
            **residuals,
        )[0]
        return out.float()

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return self.picture.safer()


def build(parts: Parts) -> AnimateDiff:
    """The family from a checkpoint's parts: a U-Net with its motion modules, or a plain one and a motion adapter."""
    from diffusers import UNet2DConditionModel, UNetMotionModel

    path, prediction, defaults = read_scheduler(parts.configs.get("scheduler", {}))
    unet = parts["unet"]
    if isinstance(unet, UNet2DConditionModel):
        unet = UNetMotionModel.from_unet2d(unet, parts["motion_adapter"]).requires_grad_(False).eval()
    picture = StableDiffusion(
        unet=unet, vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=path, prediction=prediction, defaults=defaults,
    )  # fmt: skip
    return AnimateDiff(picture=picture, defaults=defaults)
