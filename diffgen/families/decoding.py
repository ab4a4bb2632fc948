"""Decoding a clip a piece at a time, so that memory does not grow with its length.

| autoencoder | how | equal to decoding it whole |
|---|---|---|
| of pictures (AnimateDiff) | a frame at a time | to the bit |
| causal in time, with caches (Wan, CogVideoX, Mochi) | a latent or two at a time, the past in the caches | yes |
| without them (LTX, HunyuanVideo, SVD) | tiles whose overlaps are blended | nearly |

Piece sizes are fixed for a family and not chosen by the machine, so that a recipe gives one clip everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from torch import Tensor

from diffgen.contracts import Latents


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Frames that are decoded.

    Attributes:
        pixels: [batch, 3, frames, height, width], about -1..1, float32.
        seam: where this piece was blended with the one before, the root of the mean squared difference of the two,
            in the units of `pixels`; None where nothing was blended.
    """

    pixels: Tensor
    seam: float | None = None


@runtime_checkable
class InPieces(Protocol):
    """A family that decodes clips piece by piece."""

    def decode_pieces(self, z: Latents) -> Iterator[Piece]:
        """The frames of latents in their order. Joined, they are what `Family.decode` gives."""


def joined(pieces: Iterator[Piece]) -> Tensor:
    """All frames of `pieces` [batch, 3, frames, height, width]."""
    return torch.cat([piece.pixels for piece in pieces], dim=2)


def one_by_one(decode: Callable[[Latents], Tensor], z: Latents) -> Iterator[Piece]:
    """A frame at a time, for autoencoders that know nothing of time."""
    for k in range(z.shape[2]):
        yield Piece(pixels=decode(z[:, :, k : k + 1]))


def in_tiles(
    decode: Callable[[Latents], Tensor],
    z: Latents,
    *,
    tile: int,
    overlap: int,
    factor: int = 1,
    published: bool = False,
) -> Iterator[Piece]:
    """Tiles of `tile` latents in time, of which neighbours share `overlap`; there one goes over into the other.

    Where a latent stands for several frames (`factor` above 1), the first latent of what is decoded stands for one.
    So every tile begins one latent early, and the frame of that latent is dropped.

    A tile knows nothing of what lies beyond its ends, and is wrong there. So the outer quarters of what two tiles
    share are taken from the one that has them further inside, and the last tile reaches back to be a whole one.
    `published` does neither, which is diffusers' temporal tiling.

    Args:
        decode: latents [batch, channels, n, h, w] to pixels of 1 + (n - 1) * `factor` frames.
        z: latents of the whole clip; up to `tile` + 1 of them are one tile.
    """
    lead = int(factor > 1)
    last, stride = z.shape[2] - lead, tile - overlap
    starts = [start for start in range(0, max(last, 1), stride) if published or start + overlap < last or not start]
    if not published:
        starts[-1] = max(0, min(starts[-1], last - tile))
    kept: Tensor | None = None
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        pixels = decode(z[:, :, start : start + tile + lead])
        if start:
            pixels = pixels[:, :, lead:]
        seam = None
        if kept is not None:
            shared = min(kept.shape[2], pixels.shape[2])
            before, after = kept[:, :, kept.shape[2] - shared :], pixels[:, :, :shared]
            seam = float((before - after).square().mean().sqrt())
            ramp = torch.arange(shared, dtype=pixels.dtype, device=pixels.device).view(1, 1, -1, 1, 1) / shared
            ramp = ramp if published else (2 * ramp - 0.5).clamp(0, 1)
            pixels[:, :, :shared] = before * (1 - ramp) + after * ramp
        own = pixels.shape[2] if following is None else (following - start) * factor + (0 if start else lead)
        # A copy, since a view would keep the whole tile in memory while the next one is decoded.
        kept = pixels[:, :, own:].clone()
        yield Piece(pixels=pixels[:, :, :own], seam=seam)


def in_batches(decoder: Any, z: Latents, size: int, scaled: Callable[[Latents], Tensor]) -> Iterator[Tensor]:
    """Latents through a decoder that takes and gives a `conv_cache`, `size` at a time, what is over in the first.

    The cache holds what the causal convolutions saw last, so that nothing is lost between two batches. `scaled` makes
    of some latents what the decoder takes.
    """
    over, cache = z.shape[2] % size, None
    ends = range(size + over, z.shape[2] + 1, size) if z.shape[2] >= size else (z.shape[2],)
    start = 0
    for end in ends:
        pixels, cache = decoder(scaled(z[:, :, start:end]), conv_cache=cache)
        start = end
        yield pixels.float()


@contextmanager
def cached_convolutions(decoder: Any) -> Iterator[None]:
    """Makes the causal convolutions that repeat the first frame before it use the `conv_cache` they are given.

    Those of diffusers repeat it before every batch, as if each were the beginning of the clip.
    """
    convolutions = [
        module
        for module in decoder.modules()
        if isinstance(module, CogVideoXCausalConv3d) and module.pad_mode == "replicate"
    ]
    for module in convolutions:
        module.forward = partial(_continued, module)
    try:
        yield
    finally:
        for module in convolutions:
            del module.forward


def _continued(module: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The convolution over `inputs` behind what it saw last, and what it saw now."""
    before = module.time_kernel_size - 1
    if before:
        head = inputs[:, :, :1].expand(-1, -1, before, -1, -1) if conv_cache is None else conv_cache
        inputs = torch.cat([head, inputs], dim=2)
    sides = (module.width_pad, module.width_pad, module.height_pad, module.height_pad, 0, 0)
    seen = inputs[:, :, inputs.shape[2] - before :].clone() if before else None
    return module.conv(torch.nn.functional.pad(inputs, sides, mode="replicate")), seen
