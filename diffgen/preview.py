"""A picture of the latents without the autoencoder: a linear map from latent channels to RGB.

The map is fitted for each autoencoder by least squares, from a few synthetic pictures that it encodes itself:
ramps, blobs and edges of many colours. So it needs no table of known models. It is for looking at while a
picture forms, never for keeping: it shows one pixel a latent, and no detail below that.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffgen.contracts import Family, Latents

PICTURES = 8
SIDE = 8  # latents along each side of a synthetic picture
RIDGE = 1e-3  # keeps channels that these pictures do not move from being amplified

_fitted: dict[int, tuple[weakref.ref[Any], Projection]] = {}


@dataclass(frozen=True, kw_only=True)
class Projection:
    """The map: `weights` [channels, 3] and `bias` [3], from latents to RGB in 0..1."""

    weights: Tensor
    bias: Tensor

    def __call__(self, x0: Latents) -> np.ndarray:
        """uint8 [height, width, 3] of latents [batch, channels, frames, h, w].

        The pictures of a batch stand side by side; of a clip the middle frame is shown.
        """
        return self._shown(x0[:, :, x0.shape[2] // 2])

    def frames(self, x0: Latents, most: int = 32) -> list[np.ndarray]:
        """As `__call__`, one for each frame of a clip, or for `most` of them evenly spread."""
        count = x0.shape[2]
        wanted = range(count) if count <= most else [k * count // most for k in range(most)]
        return [self._shown(x0[:, :, k]) for k in wanted]

    def _shown(self, z: Tensor) -> np.ndarray:
        """uint8 [height, width, 3] of latents [batch, channels, h, w]."""
        rgb = torch.einsum("bchw,cd->hbwd", z.float(), self.weights.to(z.device)) + self.bias.to(z.device)
        # NaN may well be what there is to see; it shows as black.
        unit = torch.nan_to_num(rgb.flatten(1, 2), nan=0.0).clamp(0, 1)
        return (unit * 255).round().to(torch.uint8).cpu().numpy()


def projection(family: Family) -> Projection:
    """The projection of a family's autoencoder, fitted at the first call and kept as long as the family."""
    known = _fitted.get(id(family))
    if known is not None and known[0]() is family:
        return known[1]
    made = fit(family, torch.Generator("cpu").manual_seed(0))
    key = id(family)
    _fitted[key] = (weakref.ref(family, lambda _: _fitted.pop(key, None)), made)
    return made


def fit(family: Family, generator: torch.Generator) -> Projection:
    """The least-squares map from the latents of synthetic pictures to their RGB.

    `generator` is on the CPU. Encodes 8 pictures of 8 x 8 latents, which is as much work as one picture of
    181 x 181 pixels for an autoencoder of factor 8.
    """
    factor = family.spec.factor
    pictures = synthetic(PICTURES, SIDE * factor, generator)
    with torch.inference_mode():
        z = family.encode((pictures * 2 - 1).unsqueeze(2).to(family.device))[:, :, 0].float().cpu()
    # A family may pack pixels into latents of another size than its factor says.
    seen = torch.nn.functional.adaptive_avg_pool2d(pictures, (z.shape[-2], z.shape[-1]))
    rows = z.permute(0, 2, 3, 1).flatten(0, 2).double()
    wanted = seen.permute(0, 2, 3, 1).flatten(0, 2).double()
    middle, mean = rows.mean(0), wanted.mean(0)
    centred = rows - middle
    spread = centred.T @ centred
    ridge = RIDGE * spread.diagonal().mean().clamp(min=1e-12) * torch.eye(len(spread), dtype=spread.dtype)
    weights = torch.linalg.solve(spread + ridge, centred.T @ (wanted - mean))
    return Projection(weights=weights.float(), bias=(mean - middle @ weights).float())


def synthetic(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Pictures [count, 3, side, side] in 0..1: a ramp between two colours, three soft blobs, one hard edge."""

    def colours(number: int) -> Tensor:
        return torch.rand(number, 3, 1, 1, generator=generator)

    line = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = torch.rand(count, 1, 1, 1, generator=generator) * 2 * torch.pi
    along = ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin() + 0.7) / 1.4
    pictures = colours(count) * along + colours(count) * (1 - along)
    for _ in range(3):
        centre = torch.rand(count, 2, 1, 1, generator=generator)
        size = 0.1 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
        far = (x - centre[:, :1]) ** 2 + (y - centre[:, 1:]) ** 2
        blob = torch.exp(-far / (2 * size**2))
        pictures = pictures * (1 - blob) + colours(count) * blob
    edge = torch.rand(count, 1, 1, 1, generator=generator) * 0.6 + 0.3
    return torch.where(along > edge, pictures, colours(count).expand_as(pictures)).clamp(0, 1)
