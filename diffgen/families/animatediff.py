"""AnimateDiff: a picture model of Stable Diffusion's kind, whose U-Net has attention over time between its layers.

AnimateDiff, 2307.04725. Text, autoencoder and path are the picture model's; the motion modules were trained beside
its frozen weights, so they fit every checkpoint of that family. They know a fixed number of positions in time, which
is the most frames they draw at once.
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
    Family,
    Latents,
    LatentSpec,
    Patch,
    Residuals,
    Step,
)
from diffgen.errors import CheckpointError, UnsupportedError
from diffgen.families import sdxl, stable_diffusion
from diffgen.families.common import Parts, as_frames, from_frames
from diffgen.families.decoding import Piece, joined, one_by_one
from diffgen.families.motion import frames_of, insert, longest
from diffgen.families.scheduler import read as read_scheduler
from diffgen.path import NoisePath, Prediction

FRAMES = 16  # of the clips that the published motion modules were trained on


@dataclass(frozen=True, kw_only=True)
class AnimateDiff:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        picture: the picture model. Its U-Net has motion modules: put in by `diffgen.families.motion`, or it is
            diffusers' UNetMotionModel.
        defaults: what a clip is drawn with.
    """

    picture: Any
    defaults: Defaults
    name: str = "animatediff"
    caps: frozenset[Cap] = frozenset({"text_to_video", "frame_text", "negative_prompt"})

    @property
    def path(self) -> NoisePath:
        return self.picture.path

    @property
    def prediction(self) -> Prediction:
        return self.picture.prediction

    @property
    def spec(self) -> LatentSpec:
        most = longest(self.picture.unet)
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
        # A frame at a time, as in `decode`.
        return torch.cat([self.picture.encode(pixels[:, :, k : k + 1]) for k in range(pixels.shape[2])], dim=2)

    def decode(self, z: Latents) -> Tensor:
        return joined(self.decode_pieces(z))

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """A frame at a time: the autoencoder knows nothing of the others."""
        return one_by_one(self.picture.decode, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        """As the picture model, with all frames of all clips as its batch.

        Text may be told frame by frame: "hidden" [batch, frames, tokens, width], and so all of it.
        """
        frames, unet = x.shape[2], self.picture.unet
        cond = _per_frame(branch.cond, frames)
        if not hasattr(unet, "motion_frames"):
            out = unet(
                x.to(self.dtype),
                torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
                encoder_hidden_states=cond.text["hidden"].to(self.dtype),
                return_dict=False,
                **residuals,
            )[0]
            return out.float()  # type: ignore[no-any-return]
        with frames_of(unet, frames):
            rows = self.picture.predict(as_frames(x).unsqueeze(2), step, replace(branch, cond=cond), residuals)
        return from_frames(rows.squeeze(2), x.shape[0])

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return self.picture.safer()


def _per_frame(cond: Conditioning, frames: int) -> Conditioning:
    """The conditioning with one row a frame: repeated, or the frame's own where the text has frames."""
    text = cond.text
    rows = cond.map(lambda tensor: tensor.repeat_interleave(frames, dim=0))
    if text["hidden"].ndim == 4:
        return replace(rows, text={name: tensor.flatten(0, 1) for name, tensor in text.items()})
    return rows


def with_motion(picture: Family, adapter: Any) -> AnimateDiff:
    """The clip family of a picture model and a motion adapter. The picture model's U-Net is changed.

    Raises:
        CheckpointError: the model has no U-Net of that build, or draws no pictures of words alone.
    """
    unet = getattr(picture, "unet", None)
    if unet is None or "text_to_image" not in picture.caps:
        raise CheckpointError(
            f"a motion module goes into Stable Diffusion or SDXL, as they are for pictures from words; "
            f"this model is {picture.name}"
        )
    insert(unet, adapter)
    caps: set[Cap] = {"text_to_video", "frame_text"}
    if "negative_prompt" in picture.caps:
        caps.add("negative_prompt")
    name = "animatediff-xl" if picture.name.startswith("sdxl") else "animatediff"
    return AnimateDiff(picture=picture, defaults=picture.defaults, name=name, caps=frozenset(caps))


def build(parts: Parts) -> AnimateDiff:
    """The family from a checkpoint's parts: a U-Net with its motion modules, or a plain one and a motion adapter."""
    from diffusers import UNetMotionModel

    unet = parts["unet"]
    if not isinstance(unet, UNetMotionModel):
        kind = sdxl if "tokenizer_2" in parts.components else stable_diffusion
        return with_motion(kind.build(parts), parts["motion_adapter"])
    path, prediction, defaults = read_scheduler(parts.configs.get("scheduler", {}))
    picture = stable_diffusion.StableDiffusion(
        unet=unet, vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=path, prediction=prediction, defaults=defaults,
    )  # fmt: skip
    return AnimateDiff(picture=picture, defaults=defaults)
