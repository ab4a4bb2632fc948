"""A start for an AutoencoderKL from which it learns in minutes: a linear code of 8x8 patches.

From random weights the network first collapses to one colour axis, because white backgrounds dominate every
activation, and takes thousands of steps to find the others. Here the encoder's strided convolutions begin as
space-to-depth, its last one as the principal components of 8x8 patches, and the decoder as plain upsampling
of the components that carry a patch's mean colour. Residual blocks begin as identities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

PATCH = 8


def principal_patches(pictures: Tensor, count: int) -> Tensor:
    """The first principal components of 8x8 patches: [count, 3, 8, 8], each scaled to give variance near 1.

    Args:
        pictures: [n, 3, h, w] in -1..1, float32.
    """
    patches = F.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    best = vectors.flip(1)[:, :count].T
    spread = values.flip(0)[:count].clamp(min=1e-4).sqrt()
    # A quarter power keeps weak components visible without letting them drown the first ones.
    return (best / spread[:, None] ** 0.5 / spread[0] ** 0.5).reshape(count, 3, PATCH, PATCH)


def _no_bias(conv: nn.Conv2d) -> None:
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _pass_through(conv: nn.Conv2d) -> None:
    """Copy the first channels; the others keep a tenth of their random start, so that they can differ."""
    with torch.no_grad():
        middle = conv.kernel_size[0] // 2
        same = min(conv.in_channels, conv.out_channels)
        conv.weight.mul_(0.1)
        conv.weight[:same] = 0
        conv.weight[range(same), range(same), middle, middle] = 1
        _no_bias(conv)


def _space_to_depth(conv: nn.Conv2d, channels: int) -> None:
    """Make a 3x3 stride-2 convolution (padded right and below) write the 2x2 pixels of `channels` as 4 x channels."""
    with torch.no_grad():
        conv.weight[: 4 * channels] = 0
        _no_bias(conv)
        for channel in range(channels):
            for part in range(4):
                conv.weight[4 * channel + part, channel, part // 2, part % 2] = 1


def _patch_kernel(patches: Tensor) -> Tensor:
    """The components as weights over twice-packed pixels: [count, 3, 8, 8] to [count, 48, 2, 2]."""
    count = patches.shape[0]
    # A row inside the patch is 4 * i2 + 2 * i1 + i0, where i0 was packed first.
    split = patches.reshape(count, 3, 2, 2, 2, 2, 2, 2)  # colour, i2, i1, i0, j2, j1, j0
    return split.permute(0, 1, 4, 7, 3, 6, 2, 5).reshape(count, 48, 2, 2)


@torch.no_grad()
def start_linear(model: AutoencoderKL, pictures: Tensor) -> None:
    """Set `model`'s weights as described above, in place.

    Args:
        model: four levels, at least 12 and 48 channels in the first two.
        pictures: some training pictures [n, 3, h, w] in -1..1, float32.
    """
    for module in model.modules():
        if type(module).__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _pass_through(module.conv_shortcut)
    encoder, decoder = model.encoder, model.decoder
    for end in (encoder, decoder):
        nn.init.constant_(end.conv_norm_out.bias, 4.0)  # far up its slope SiLU is nearly linear
    _pass_through(encoder.conv_in)
    downs = [block.downsamplers[0].conv for block in encoder.down_blocks if block.downsamplers]
    _space_to_depth(downs[0], 3)
    _space_to_depth(downs[1], 12)
    patches = principal_patches(pictures, downs[2].out_channels)
    downs[2].weight.zero_()
    downs[2].bias.zero_()
    downs[2].weight[:, :48, :2, :2] = _patch_kernel(patches)
    for conv in (encoder.conv_out, decoder.conv_in):
        _pass_through(conv)
    for conv in [block.upsamplers[0].conv for block in decoder.up_blocks if block.upsamplers]:
        _pass_through(conv)
    _calibrate(model, pictures)


def _calibrate(model: AutoencoderKL, pictures: Tensor) -> None:
    """Give the latents mean 0 and deviation 1, and fit the last convolution to the colours by least squares."""
    count = model.config.latent_channels
    for conv in (model.quant_conv, model.post_quant_conv):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    model.quant_conv.weight[range(count), range(count), 0, 0] = 1
    model.post_quant_conv.weight[range(count), range(count), 0, 0] = 1
    # Noise is added by the trainer, not learned: the variance head would only learn to switch it off.
    model.quant_conv.bias[count:] = -8.0
    latents = model.encode(pictures).latent_dist.mean
    std, mean = latents.std((0, 2, 3)), latents.mean((0, 2, 3))
    model.quant_conv.weight[:count] /= std.view(-1, 1, 1, 1)
    model.quant_conv.bias[:count] = -mean / std
    seen: list[Tensor] = []
    hook = model.decoder.conv_out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.decode((latents - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1))
    hook.remove()
    features = seen[0].permute(0, 2, 3, 1).flatten(0, 2)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    wanted = pictures.permute(0, 2, 3, 1).flatten(0, 2)
    ridge = 1e-4 * len(features) * torch.eye(features.shape[1])
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
    model.decoder.conv_out.weight.zero_()
    model.decoder.conv_out.weight[:, :, 1, 1] = solved[:-1].T
    model.decoder.conv_out.bias.copy_(solved[-1])
