"""What several families share: picture autoencoders applied frame by frame, and the step up to float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import Components, Latents, Patch


def _as_frames(tensor: Tensor) -> Tensor:
    """[batch, channels, frames, h, w] to [batch * frames, channels, h, w]."""
    return tensor.transpose(1, 2).flatten(0, 1)


def _from_frames(tensor: Tensor, batch: int) -> Tensor:
    return tensor.unflatten(0, (batch, -1)).transpose(1, 2).contiguous()


def encode_frames(vae: Any, pixels: Tensor) -> Latents:
    """The mode of a picture autoencoder's latents, float32, unscaled.

    Args:
        pixels: [batch, 3, frames, height, width] in -1..1.
    """
    out = vae.encode(_as_frames(pixels).to(vae.dtype))
    latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
    return _from_frames(latents.float(), pixels.shape[0])


def decode_frames(vae: Any, z: Latents) -> Tensor:
    """Pixels [batch, 3, frames, height, width], about -1..1, float32, of a picture autoencoder."""
    return _from_frames(vae.decode(_as_frames(z).to(vae.dtype), return_dict=False)[0].float(), z.shape[0])


def in_float32(*names: str) -> Patch:
    """A patch that runs the named components in float32 and restores their dtype to the bit."""

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        with ExitStack() as stack:
            for name in names:
                module = components[name]
                before: torch.dtype = module.dtype
                module.to(torch.float32)
                # Widening is exact, so narrowing again gives back the very same weights.
                stack.callback(module.to, before)
            yield

    return patch
