"""Pictures to judge a training run by: deterministic DDIM with classifier-free guidance, and a grid."""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from diffgen.path import DiscretePath, to_x0

PROMPTS = [
    "3d emoji of a red apple",
    "a cat face",
    "3d emoji of a house",
    "red heart",
    "3d emoji of a dog",
    "flat emoji of a car",
    "pizza",
    "a rocket",
    "a blue apple",
    "noto emoji of a tree",
    "sunflower",
    "3d emoji of a robot",
    "grinning face",
    "fluent emoji of a fish",
    "hamburger",
    "a green car",
    "3d emoji of a mushroom",
    "smiling face with sunglasses",
    "twemoji owl",
    "a crown",
    "two cats",
    "snowman",
    "astronaut",
    "purple heart",
]


def trailing(count: int, steps: int) -> list[int]:
    """Training indices from the last one down, evenly spaced, as diffusers' "trailing" spacing.

    >>> trailing(1000, 4)
    [999, 749, 499, 249]
    """
    return [round(count - i * count / steps) - 1 for i in range(steps)]


@torch.no_grad()
def draw(
    unet: UNet2DConditionModel,
    cond: Tensor,
    uncond: Tensor,
    noise: Tensor,
    path: DiscretePath,
    *,
    steps: int,
    guidance: float,
) -> Tensor:
    """Latents of v-predicting `unet`, float32 [n, channels, height, width].

    Args:
        cond: text states [n, tokens, width].
        uncond: the empty prompt's [1, tokens, width].
        noise: where to start from.
        steps: network evaluations a picture, each of both branches.
        guidance: 1 is none.
    """
    x = noise
    times = trailing(len(path.alphas_cumprod), steps)
    text = torch.cat([cond, uncond.expand(len(cond), -1, -1)]).to(unet.dtype)
    for now, then in zip(times, [*times[1:], None], strict=True):
        alpha, sigma = path.coefficients(path.level(now))
        next_alpha, next_sigma = (1.0, 0.0) if then is None else path.coefficients(path.level(then))
        output = unet(x.repeat(2, 1, 1, 1).to(unet.dtype), now, text).sample.float()
        with_text, without = output.chunk(2)
        x0 = to_x0("v", without + guidance * (with_text - without), x, alpha, sigma)
        x = next_sigma / sigma * x + (next_alpha - alpha * next_sigma / sigma) * x0
    return x


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 16) -> np.ndarray:
    """Latents to uint8 pictures [n, height, width, 3]."""
    parts = [vae.decode(part.to(vae.dtype)).sample.float() for part in latents.split(batch)]
    pixels = (torch.cat(parts).clamp(-1, 1) + 1) * 127.5
    return pixels.round().byte().permute(0, 2, 3, 1).numpy()


def grid(pictures: np.ndarray, columns: int = 8) -> Image.Image:
    """uint8 pictures [n, height, width, 3] in rows."""
    missing = -len(pictures) % columns
    padded = np.concatenate([pictures, np.full((missing, *pictures.shape[1:]), 255, np.uint8)])
    rows = [np.concatenate(list(padded[i : i + columns]), axis=1) for i in range(0, len(padded), columns)]
    return Image.fromarray(np.concatenate(rows))


def start_noise(count: int, channels: int, side: int, seed: int) -> Tensor:
    """One unit Gaussian a picture, each from its own seed."""
    return torch.stack(
        [torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    )
