"""Training of a small AutoencoderKL: 128x128 pictures to 16x16 latents of 8 channels and back.

Two measures make it learn in minutes on a CPU. Every residual block starts as the identity (its second
convolution is zero), and the norms have one group, so a picture's colours pass through them unmixed.
Latents are also decoded at half their size against the half-size picture (as in EQ-VAE, 2502.09509), which
keeps neighbouring latents alike and so easier for the denoiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL
from PIL import Image
from torch import Tensor

from diffgen.train.data import PictureSet
from diffgen.train.linear_start import start_linear


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """The network and its loss.

    Args:
        channels: widths from full resolution down; each further one halves the side.
        latent_channels: width of the latents.
        batch: pictures a step.
        crop: side of the training crops, pixels.
        crop_until: share of the steps trained on crops; whole pictures after that.
        noise: standard deviation of the noise added to latents, relative to theirs.
        kl: weight of the Kullback-Leibler term that keeps the latents' scale near 1.
        half: share of the steps on half-size latents.
        decoder_only: keep the encoder as it is, for polishing once a denoiser depends on it.
    """

    channels: tuple[int, ...] = (16, 48, 96, 128)
    latent_channels: int = 8
    batch: int = 8
    crop: int = 64
    crop_until: float = 0.5
    noise: float = 0.1
    kl: float = 1e-3
    half: float = 0.25
    decoder_only: bool = False


def new_autoencoder(settings: AutoencoderSettings, pictures: Tensor, seed: int) -> AutoencoderKL:
    """An untrained AutoencoderKL that starts as a linear patch code of `pictures` ([n, 3, h, w] in -1..1)."""
    count = len(settings.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * count,
            up_block_types=("UpDecoderBlock2D",) * count,
            block_out_channels=settings.channels,
            layers_per_block=1,
            latent_channels=settings.latent_channels,
            norm_num_groups=1,
            mid_block_add_attention=False,
            sample_size=128,
            scaling_factor=1.0,
            force_upcast=False,
        )
    start_linear(model, pictures)
    return model


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + MSE + colour + edges + the same at a quarter of the size; pictures in -1..1 [batch, 3, h, w]."""
    error = output - target
    chroma = error - error.mean(1, keepdim=True)
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    pooled = F.avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + error.square().mean() + 2 * chroma.square().mean() + 0.25 * edges + 0.5 * pooled


class AutoencoderTask:
    """See `diffgen.train.loop.Task`."""

    def __init__(
        self, pictures: PictureSet, settings: AutoencoderSettings, *, model: AutoencoderKL, steps: int
    ) -> None:
        self.settings, self.steps, self.pictures = settings, steps, pictures
        self.model = model.train()
        if settings.decoder_only:
            for part in (model.encoder, model.quant_conv):
                part.requires_grad_(False)
        self.indices = pictures.indices(held_out=False)
        self.held_out = pictures.indices(held_out=True)

    def batch(self, step: int, generator: torch.Generator) -> Tensor:
        """Random pictures with flips and, for a fifth, exchanged colour channels: [batch, 3, side, side] in -1..1."""
        settings = self.settings
        chosen = self.indices[torch.randint(len(self.indices), (settings.batch,), generator=generator).numpy()]
        x = torch.from_numpy(np.ascontiguousarray(self.pictures.pictures[chosen])).permute(0, 3, 1, 2)
        side = settings.crop if step < settings.crop_until * self.steps else x.shape[-1]
        rows = []
        for picture in x:
            top, left = torch.randint(0, x.shape[-1] - side + 1, (2,), generator=generator).tolist()
            flip, permute = torch.rand(2, generator=generator).tolist()
            picture = picture[:, top : top + side, left : left + side]
            picture = picture.flip(-1) if flip < 0.5 else picture
            rows.append(picture[torch.randperm(3, generator=generator)] if permute < 0.2 else picture)
        return torch.stack(rows).float() / 127.5 - 1

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x = self.batch(step, generator)
        dtype = self.model.dtype
        mean = self.model.encode(x.to(dtype)).latent_dist.mean
        # The log-variance is fixed, so only the mean's half of the Kullback-Leibler term is left.
        size = 0.5 * mean.float().square().mean()
        z = mean + self.settings.noise * torch.randn(mean.shape, generator=generator).to(dtype)
        if torch.rand(1, generator=generator).item() < self.settings.half:
            z, x = F.avg_pool2d(z, 2), F.interpolate(x, scale_factor=0.5, mode="area")
        rebuilt = reconstruction_loss(self.model.decode(z).sample.float(), x)
        return {"loss": rebuilt + self.settings.kl * size, "rebuilt": rebuilt, "latent_square": 2 * size}

    @torch.no_grad()
    def rebuild(self, indices: np.ndarray) -> Tensor:
        """Pictures through the autoencoder, [n, 3, h, w] in 0..1, float32."""
        out = []
        for part in np.array_split(indices, max(1, len(indices) // 8)):
            x = torch.from_numpy(self.pictures.pictures[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
            out.append(self.model.decode(self.model.encode(x.to(self.model.dtype)).latent_dist.mean).sample.float())
        return (torch.cat(out).clamp(-1, 1) + 1) / 2

    def psnr(self, indices: np.ndarray) -> float:
        """Peak signal-to-noise ratio in dB, from the mean squared error over all the pictures."""
        true = torch.from_numpy(self.pictures.pictures[indices]).permute(0, 3, 1, 2).float() / 255
        return float(-10 * torch.log10((self.rebuild(indices) - true).square().mean()))

    def sample(self, step: int) -> Image.Image:
        """Held-out pictures above what the autoencoder makes of them; prints the PSNR."""
        print(f"step {step}: PSNR over held-out pictures {self.psnr(self.held_out):.2f} dB", flush=True)
        chosen = self.held_out[:12]
        made = (self.rebuild(chosen) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        rows = [np.concatenate(list(part), axis=1) for part in (self.pictures.pictures[chosen], made)]
        return Image.fromarray(np.concatenate(rows))

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


@torch.no_grad()
def normalise(model: AutoencoderKL, latents: Tensor) -> None:
    """Fold per-channel normalisation into the 1x1 convolutions around the latents, in place.

    Args:
        latents: a sample of the model's latent means [n, channels, h, w], float32. Afterwards these would have mean
            0 and standard deviation 1, and `decode` undoes it, so `scaling_factor` stays 1.
    """
    count = latents.shape[1]
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    model.quant_conv.weight[:count] /= std.view(-1, 1, 1, 1)
    model.quant_conv.bias[:count] = (model.quant_conv.bias[:count] - mean) / std
    weight = model.post_quant_conv.weight
    model.post_quant_conv.bias += (weight[:, :, 0, 0] * mean).sum(1)
    weight *= std.view(1, -1, 1, 1)
