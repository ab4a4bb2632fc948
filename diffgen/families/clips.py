"""What clip families share: the picture a clip begins with, and autoencoders whose latents have statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import Latents
from diffgen.errors import UnsupportedError


def first_frame(family: str, visual: Mapping[str, Tensor]) -> Tensor:
    """The picture a clip begins with, [1, 3, 1, height, width] in -1..1.

    Args:
        visual: as for `diffgen.contracts.Family.attach`, with "image" and "given".

    Raises:
        UnsupportedError: the first frame is not given, or another one is.
    """
    given = visual["given"].flatten().bool()
    if not given[0] or given[1:].any():
        raise UnsupportedError(f"{family} can be given the first frame of a clip, and no other")
    return visual["image"][:, :, :1]


def beginning(family: str, visual: Mapping[str, Tensor], unit: int) -> Tensor:
    """The frames a clip begins with, [1, 3, unit * k + 1, height, width] in -1..1.

    Args:
        visual: as for `diffgen.contracts.Family.attach`, with "image" and "given".
        unit: frames of a latent.

    Raises:
        UnsupportedError: later frames are given too, or the beginning is not one of whole latents.
    """
    given = visual["given"].flatten().bool()
    count = int(given.sum())
    if not count or not given[:count].all() or (count - 1) % unit:
        raise UnsupportedError(f"{family} can be given the first 1, {unit + 1}, {2 * unit + 1} ... frames of a clip")
    return visual["image"][:, :, :count]


def held(first: Latents, frames: int, batch: int) -> tuple[Latents, Tensor]:
    """A clip of latents [batch, channels, frames, h, w] that begins with `first`, and where it is clean.

    Args:
        first: latents [1 or batch, channels, n, h, w] to hold.

    Returns:
        The latents, 0 behind the first n, and the mask [batch, 1, frames, h, w], 1 in the first n.
    """
    count = first.shape[2]
    later = first.new_zeros(*first.shape[:2], frames - count, *first.shape[3:])
    kept = torch.cat([first, later], dim=2).expand(batch, -1, -1, -1, -1)
    clean = torch.zeros_like(kept[:, :1])
    clean[:, :, :count] = 1
    return kept, clean


def encode_drawn(vae: Any, pixels: Tensor, noise: Tensor) -> Latents:
    """Latents drawn from the autoencoder's distribution over `pixels` [1, ...] with `noise` [batch, ...], unscaled."""
    found = vae.encode(pixels.to(vae.dtype)).latent_dist
    return found.mean.float() + found.std.float() * noise  # type: ignore[no-any-return]


def per_channel(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """One value a channel as a tensor [1, channels, 1, 1, 1] beside `like`."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
