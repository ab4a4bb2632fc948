"""Training of the denoiser: a UNet2DConditionModel on cached latents and cached text states."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffgen.errors import UsageError
from diffgen.path import DiscretePath, betas_path
from diffgen.train import preview
from diffgen.train.captions import captions
from diffgen.train.data import PictureSet
from diffgen.train.objective import Density, denoising_loss
from diffgen.train.text_encoder import encode, tokenize

# Cosine betas spend the training indices evenly over 16x16 latents; SD's would spend half of them on pure noise.
PATH = {"count": 1000, "kind": "squaredcos_cap_v2", "zero_snr": True}
ONE_SIDED = ("left", "right", "clock", "symbols")


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings:
    """The network and what it is shown.

    Args:
        channels: widths at 16x16, 8x8 and so on.
        heads: attention heads.
        layers: residual blocks a level on the way down; one more on the way up.
        batch: pictures a step in each process.
        drop: share of the captions replaced by the empty prompt, for classifier-free guidance.
        captions: different captions kept for each picture.
        density: which noise levels are shown.
        guidance, preview_steps: of the sample grid.
    """

    channels: tuple[int, ...] = (96, 192)
    heads: int = 4
    layers: int = 1
    batch: int = 16
    drop: float = 0.1
    captions: int = 6
    density: Density = field(default_factory=Density)
    guidance: float = 3.5
    preview_steps: int = 20


def box_path() -> DiscretePath:
    """The noise path of the model in the box."""
    return betas_path(**PATH)  # type: ignore[arg-type]


def new_denoiser(
    settings: DenoiserSettings, *, latent_channels: int, text_width: int, seed: int
) -> UNet2DConditionModel:
    """An untrained U-Net: convolutions alone at full size, text attention below it and in the middle."""
    rest = len(settings.channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNet2DConditionModel(
            sample_size=16,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=settings.channels,
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * rest),
            up_block_types=(*("CrossAttnUpBlock2D",) * rest, "UpBlock2D"),
            layers_per_block=settings.layers,
            cross_attention_dim=text_width,
            attention_head_dim=settings.heads,  # the number of heads, whatever it is called
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        )
    torch.nn.init.zeros_(model.conv_out.weight)
    torch.nn.init.zeros_(model.conv_out.bias)
    return model


def fingerprint(*modules: torch.nn.Module) -> str:
    """A name for these exact weights, so that a cache made with others is never used."""
    digest = hashlib.sha256()
    for module in modules:
        for value in module.state_dict().values():
            digest.update(value.float().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def latent_bank(vae: AutoencoderKL, pictures: PictureSet, indices: np.ndarray, batch: int = 16) -> Tensor:
    """Latent means of each picture and of its mirror image: bfloat16 [n, 2, channels, side, side].

    A picture that has a left and a right to tell, or holds signs, stands in both places.
    """
    out = []
    for part in np.array_split(indices, max(1, len(indices) // batch)):
        x = torch.from_numpy(pictures.pictures[part]).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        straight = vae.encode(x).latent_dist.mean
        mirrored = vae.encode(x.flip(-1)).latent_dist.mean
        for row, number in enumerate(part):
            record = pictures.records[number]
            if any(word in f"{record.label} {record.group}" for word in ONE_SIDED):
                mirrored[row] = straight[row]
        out.append(torch.stack([straight, mirrored], 1).bfloat16())
    return torch.cat(out)


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Everything the denoiser is shown, computed once.

    Attributes:
        latents: bfloat16 [n, 2, channels, side, side].
        texts: bfloat16 [m, tokens, width]; the first is the empty prompt.
        captions: rows of `texts` for each picture, int64 [n, captions].
        weights: how often each picture is drawn, float64 [n].
    """

    latents: Tensor
    texts: Tensor
    captions: Tensor
    weights: Tensor


def cached(file: Path, key: str, make: Callable[[], dict[str, Tensor]] | None) -> dict[str, Tensor]:
    """The tensors in `file` if they were made under `key`, else made and kept there; without `make` they must be."""
    if file.is_file():
        kept: dict[str, Any] = torch.load(file, weights_only=True, mmap=True)
        if kept.pop("key") == key:
            return kept
    if make is None:
        raise UsageError(f"{file} was not made with this autoencoder and text encoder; delete it and start again")
    made = make()
    torch.save({**made, "key": key}, file)
    return made


def build_bank(
    pictures: PictureSet,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    settings: DenoiserSettings,
    folder: Path,
    accelerator: Accelerator,
) -> Bank:
    """The training bank, from `folder` if it was made with these weights, else computed and kept there.

    With two processes one reads the pictures while the other reads the captions.
    """
    indices = pictures.indices(held_out=False)
    rng = np.random.default_rng(0)
    rows: dict[str, int] = {"": 0}
    numbers = [
        [rows.setdefault(line, len(rows)) for line in captions(pictures.records[i], settings.captions, rng)]
        for i in indices
    ]
    latents_key = f"{fingerprint(vae)}-{len(indices)}"
    texts_key = f"{fingerprint(text)}-{len(rows)}"

    def make_latents() -> dict[str, Tensor]:
        return {"latents": latent_bank(vae, pictures, indices)}

    def make_texts() -> dict[str, Tensor]:
        return {"texts": encode(text, tokenize(tokenizer, list(rows))).bfloat16()}

    first, last = accelerator.is_main_process, accelerator.process_index == accelerator.num_processes - 1
    if first:
        cached(folder / "latents.pt", latents_key, make_latents)
    if last:
        cached(folder / "texts.pt", texts_key, make_texts)
    accelerator.wait_for_everyone()
    return Bank(
        **cached(folder / "latents.pt", latents_key, None),
        **cached(folder / "texts.pt", texts_key, None),
        captions=torch.tensor(numbers),
        weights=torch.from_numpy(pictures.weights(indices)),
    )


class DenoiserTask:
    """See `diffgen.train.loop.Task`."""

    def __init__(
        self, bank: Bank, settings: DenoiserSettings, model: UNet2DConditionModel, vae: AutoencoderKL, prompts: Tensor
    ) -> None:
        """
        Args:
            prompts: text states of the sample grid's prompts [n, tokens, width].
        """
        self.bank, self.settings, self.vae, self.prompts = bank, settings, vae, prompts
        self.path = box_path()
        # PyTorch's fused attention has a backward pass on CPUs that takes two thirds of a step in bfloat16.
        model.set_attn_processor(AttnProcessor())
        self.model = model.train()

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        bank, settings, size = self.bank, self.settings, self.settings.batch
        rows = torch.multinomial(bank.weights, size, replacement=True, generator=generator)
        mirrored = torch.randint(2, (size,), generator=generator)
        which = torch.randint(bank.captions.shape[1], (size,), generator=generator)
        lines = bank.captions[rows, which]
        lines[torch.rand(size, generator=generator) < settings.drop] = 0
        x0, text = bank.latents[rows, mirrored].float(), bank.texts[lines]
        indices = settings.density.draw(self.path, size, generator)
        noise = torch.randn(x0.shape, generator=generator)
        dtype = self.model.dtype

        def network(x: Tensor, times: Tensor) -> Tensor:
            return self.model(x.to(dtype), times, text.to(dtype)).sample

        rows_loss = denoising_loss(network, x0, indices, noise, self.path, "v")
        return {"loss": rows_loss.mean()}

    @torch.no_grad()
    def sample(self, step: int) -> Image.Image:
        """The grid of `preview.PROMPTS`, always from the same noise."""
        side, settings = self.bank.latents.shape[-1], self.settings
        noise = preview.start_noise(len(self.prompts), self.bank.latents.shape[2], side, seed=0)
        latents = preview.draw(
            self.model,
            self.prompts,
            self.bank.texts[:1],
            noise,
            self.path,
            steps=settings.preview_steps,
            guidance=settings.guidance,
        )
        return preview.grid(preview.decode(self.vae, latents))

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder / "unet")
