"""Stable Video Diffusion: a picture becomes the first frame of a clip. No words.

SVD, 2311.15127. A U-Net with layers over time, on EDM's path (2206.00364) with v-prediction. It sees the picture three
times: through CLIP, as slightly noised latents beside every frame, and as its own first frame. Guidance grows from
frame to frame, because the first one is known and the last one is far from the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

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
from diffgen.families.clips import first_frame
from diffgen.families.common import Parts, encode_frames, in_float32, no_text_options
from diffgen.families.decoding import Piece, in_tiles
from diffgen.path import EDMPath, NoisePath, Prediction

# Frames that are decoded at once, and those that two tiles share. The XT model decodes its 25 in one.
TILE, OVERLAP = 25, 9
VISION = 224  # pixels of CLIP's picture, along both sides
MOTION = 127  # of 1 to 255, how much moves: the "motion bucket" that the network is told
AUGMENTATION = 0.02  # standard deviation of the noise on the picture beside the frames, which it is told too


@dataclass(frozen=True, kw_only=True)
class FrameRamp:
    """Classifier-free guidance whose scale grows evenly over the frames; without it the network sees no picture.

    Attributes:
        scale: of the last frame; at 1 there is no guidance.
        first: of the first frame.
    """

    scale: float = 3.0
    first: float = 1.0
    space: Literal["output", "x0"] = "output"

    def fresh(self) -> FrameRamp:
        """Itself: it remembers nothing."""
        return self

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The positive branch, and one without the picture where it has an effect."""
        positive = Branch(name="positive", cond=pos)
        if self.scale == 1 or pos.concat is None or pos.vision is None:
            return (positive,)
        blind = replace(pos, concat=torch.zeros_like(pos.concat), vision=torch.zeros_like(pos.vision))
        return positive, Branch(name="negative", cond=blind)

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """The guided prediction, of the shape of each prediction."""
        pos = preds["positive"]
        if "negative" not in preds:
            return pos
        ramp = torch.linspace(self.first, self.scale, pos.shape[2], device=pos.device).view(1, 1, -1, 1, 1)
        return preds["negative"] + ramp * (pos - preds["negative"])


@dataclass(frozen=True, kw_only=True)
class StableVideoDiffusion:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        unet: diffusers' UNetSpatioTemporalConditionModel.
        vae: diffusers' AutoencoderKLTemporalDecoder.
        image_encoder: transformers' CLIPVisionModelWithProjection.
        mean, std: of the three colours, as `image_encoder` was trained with.
        path: from the checkpoint's scheduler config.
    """

    unet: Any
    vae: Any
    image_encoder: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    path: NoisePath
    defaults: Defaults
    prediction: Prediction = "v"
    name: str = "stable-video-diffusion"
    caps: frozenset[Cap] = frozenset({"image_to_video"})

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        # The U-Net halves the latents at every level but the last.
        depth = 2 ** (len(self.unet.config.block_out_channels) - 1)
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor, multiple=factor * depth,
            frames=self.unet.config.num_frames, fps=7.0, size=(1024, 576), draw="bfchw", draw_visual="pixels",
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        return {"denoiser": self.unet, "vae": self.vae, "image_encoder": self.image_encoder}

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """An empty conditioning, and a note where words were given that nothing reads."""
        no_text_options(self.name, options)
        return Conditioning(), (f"the prompt was not used; {self.name} reads no words",) if any(prompts) else ()

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with the picture as CLIP sees it, as noised latents beside every frame, and the amount of noise.

        Raises:
            UnsupportedError: another frame than the first is given.
        """
        pixels, noise = first_frame(self.name, visual), visual["noise"]
        amount = cond.extra.get("noise_augmentation", noise.new_full((1, 1), AUGMENTATION))
        beside = encode_frames(self.vae, pixels + amount[:, :, None, None, None].to(noise) * noise)
        small = shrunk(pixels.squeeze(2), VISION) / 2 + 0.5
        mean, std = (small.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        seen = self.image_encoder(((small - mean) / std).to(self.image_encoder.dtype)).image_embeds
        return replace(
            cond,
            concat=beside.expand(-1, -1, visual["image"].shape[2], -1, -1),
            vision=seen[:, None].expand(noise.shape[0], -1, -1),
        )

    def encode(self, pixels: Tensor) -> Latents:
        return encode_frames(self.vae, pixels) * self.vae.config.scaling_factor

    def decode(self, z: Latents) -> Tensor:
        frames = (z / self.vae.config.scaling_factor).to(self.vae.dtype).transpose(1, 2)
        clips = [self.vae.decode(clip, num_frames=clip.shape[0], return_dict=False)[0] for clip in frames]
        return torch.stack(clips).transpose(1, 2).float()

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """In tiles: the autoencoder looks both ways in time and keeps no caches."""
        return in_tiles(self.decode, z, tile=TILE, overlap=OVERLAP)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond = branch.cond
        assert cond.concat is not None and cond.vision is not None, "the task attaches a picture"
        # EDM's v is that of the sample scaled to unit variance: alpha and sigma divided by this root.
        root = math.sqrt(1 + step.sigma**2)
        # The network was trained on the frame rate less one.
        usual = {"fps": self.spec.fps, "motion": MOTION, "noise_augmentation": AUGMENTATION}
        told = [cond.extra.get(name, x.new_full((x.shape[0],), value)) for name, value in usual.items()]
        ids = torch.stack([values.flatten().to(x) for values in told], dim=1) - x.new_tensor([1, 0, 0])
        out = self.unet(
            torch.cat([x / root, cond.concat], dim=1).transpose(1, 2).to(self.dtype),
            torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device),
            encoder_hidden_states=cond.vision.to(self.dtype),
            added_time_ids=ids.to(self.dtype),
            return_dict=False,
            **residuals,
        )[0]
        return out.float().transpose(1, 2) * root

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the U-Net in float32", in_float32("denoiser")),)


def shrunk(picture: Tensor, side: int) -> Tensor:
    """The picture [batch, channels, height, width] at `side` x `side`, bicubic, blurred first where it shrinks.

    The blur is Gaussian, with half the shrinking factor less one as its standard deviation; its window is cut at
    two of them. The corners of both pictures lie on each other. All of it is how the model was trained.
    """
    for axis, length in ((3, picture.shape[3]), (2, picture.shape[2])):
        sigma = max((length / side - 1) / 2, 0.001)
        reach = int(max(4 * sigma, 3)) // 2
        places = torch.arange(-reach, reach + 1, dtype=picture.dtype, device=picture.device)
        weights = torch.softmax(-(places**2) / (2 * sigma**2), dim=0)
        rows = picture.movedim(axis, -1)
        padded = functional.pad(rows.flatten(0, 1), (reach, reach), mode="reflect")
        blurred = functional.conv1d(padded.flatten(0, 1)[:, None], weights[None, None])
        picture = blurred.view(rows.shape).movedim(-1, axis)
    return functional.interpolate(picture, (side, side), mode="bicubic", align_corners=True)


def build(parts: Parts) -> StableVideoDiffusion:
    """The family from a checkpoint's parts."""
    config, looks = parts.configs.get("scheduler", {}), parts["feature_extractor"]
    path = EDMPath(sigma_min=config.get("sigma_min") or 0.002, sigma_max=config.get("sigma_max") or 700.0)
    return StableVideoDiffusion(
        unet=parts["unet"], vae=parts["vae"], image_encoder=parts["image_encoder"], mean=tuple(looks.image_mean),
        std=tuple(looks.image_std), path=path,
        defaults=Defaults(sampler="euler", schedule="karras", steps=25, guidance=3.0, guide=FrameRamp,
            told=frozenset({"motion", "noise_augmentation"}),
            sized=lambda *extent: {"motion": MOTION, "noise_augmentation": AUGMENTATION}),
    )  # fmt: skip
