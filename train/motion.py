"""Training of motion modules for the model in the box: its U-Net stays as it is, attention over time is learned.

AnimateDiff, 2307.04725: the picture model knows what things look like, so only what changes from frame to frame is
left to learn. Every clip is one whole loop, so that the last frame leads to the first.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffgen.families.common import as_frames, from_frames
from diffgen.families.motion import blocks, frames_of, insert
from diffgen.train import preview
from diffgen.train.denoiser import box_path, cached, fingerprint
from diffgen.train.motion_data import ClipSet, clip_captions
from diffgen.train.objective import Density, denoising_loss
from diffgen.train.text_encoder import encode, tokenize

PROMPTS = (
    "3d emoji of a waving hand",
    "3d emoji of a beating red heart",
    "3d emoji of a grinning face",
    "3d emoji of a dog face",
    "3d emoji of a red apple",
)


@dataclass(frozen=True, kw_only=True)
class MotionSettings:
    """The motion modules and what they are shown.

    Args:
        frames: of a clip.
        starts: a clip begins at one of so many first frames of the stored loop. With all of them the order in time says
            nothing about what happens, and all that can be drawn from pure noise is a still mean.
        part: frames that are shown in most steps, drawn at random and told at their places in time. Half the frames
            take half the time, and the other half says little that is new.
        whole: share of the steps that show all frames.
        heads: attention heads in time.
        positions: most frames a network can be given at once.
        batch: clips a step.
        drop: share of the captions replaced by the empty prompt.
        density: which noise levels are shown.
        guidance, preview_steps: of the sample sheet.
    """

    frames: int = 16
    starts: int = 2
    part: int = 8
    whole: float = 0.25
    heads: int = 4
    positions: int = 32
    batch: int = 1
    drop: float = 0.1
    density: Density = field(default_factory=Density)
    guidance: float = 3.5
    preview_steps: int = 12


def new_adapter(unet: UNet2DConditionModel, settings: MotionSettings, seed: int) -> MotionAdapter:
    """Untrained motion modules for `unet`. Their outputs are zero, so that they start as the picture model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = MotionAdapter(
            block_out_channels=unet.config["block_out_channels"],
            motion_layers_per_block=unet.config["layers_per_block"],
            motion_num_attention_heads=settings.heads,
            motion_norm_num_groups=unet.config["norm_num_groups"],
            motion_max_seq_length=settings.positions,
        )
    for name, module in adapter.named_modules():
        if name.endswith("proj_out") and isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return adapter


@dataclass(frozen=True, kw_only=True)
class ClipBank:
    """Everything the motion modules are shown, computed once.

    Attributes:
        latents: bfloat16 [n, stored frames, channels, side, side].
        texts: bfloat16 [m, tokens, width]; the first is the empty prompt.
        captions: rows of `texts` for each clip, int64 [n, captions].
        weights: how often each clip is drawn, float64 [n].
    """

    latents: Tensor
    texts: Tensor
    captions: Tensor
    weights: Tensor


@torch.no_grad()
def _latents(vae: AutoencoderKL, clips: ClipSet, indices: np.ndarray) -> Tensor:
    out = []
    for number in indices:
        x = torch.from_numpy(np.array(clips.clips[number])).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        out.append(vae.encode(x).latent_dist.mean.bfloat16())
    return torch.stack(out)


def build_bank(
    clips: ClipSet, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path, *, held_out: bool
) -> ClipBank:
    """The bank of one side of the split, from `folder` if it was made with these weights, else computed and kept."""
    indices = clips.indices(held_out=held_out)
    records = [clips.records[i] for i in indices]
    rows: dict[str, int] = {"": 0}
    numbers = [[rows.setdefault(line, len(rows)) for line in clip_captions(record.label)] for record in records]
    kept = cached(
        folder / ("held-out.pt" if held_out else "clips.pt"),
        f"{fingerprint(vae)}-{len(indices)}",
        lambda: {"latents": _latents(vae, clips, indices)},
    )
    weights = torch.tensor([record.weight for record in records], dtype=torch.float64)
    texts = encode(text, tokenize(tokenizer, list(rows))).bfloat16()
    return ClipBank(latents=kept["latents"], texts=texts, captions=torch.tensor(numbers), weights=weights)


def pick(latents: Tensor, frames: int, start: int) -> Tensor:
    """One round of a stored loop in `frames` even steps, begun at its frame `start`: [channels, frames, side, side].

    Args:
        latents: [stored, channels, side, side].
    """
    numbers = [(start + k * len(latents) // frames) % len(latents) for k in range(frames)]
    return latents[numbers].transpose(0, 1)


class MotionTask:
    """See `diffgen.train.loop.Task`. `model` is the whole network, of which the motion modules alone learn."""

    def __init__(
        self, bank: ClipBank, held_out: ClipBank, settings: MotionSettings, adapter: MotionAdapter,
        unet: UNet2DConditionModel, vae: AutoencoderKL, prompts: Tensor,
    ) -> None:  # fmt: skip
        """
        Args:
            prompts: text states of the sample sheet's prompts [n, tokens, width].
        """
        self.bank, self.held_out, self.settings, self.vae, self.prompts = bank, held_out, settings, vae, prompts
        self.path = box_path()
        self.adapter = adapter
        self.model = insert(unet.requires_grad_(False), adapter).train()
        # The fused attention's backward pass takes twice as long on CPUs.
        self.model.set_attn_processor(AttnProcessor())
        self.places = [block.get_submodule("pos_embed") for block in blocks(self.model)]
        self.tables = [place.get_buffer("pe") for place in self.places]

    def tell(self, frames: Tensor) -> None:
        """Tell the motion modules which positions in time their frames stand at, int64 [n]."""
        for place, table in zip(self.places, self.tables, strict=True):
            place.pe = table[:, frames].to(self.model.dtype)

    def _frames(self, generator: torch.Generator) -> Tensor:
        """The frames of this step, in order."""
        frames, part = self.settings.frames, self.settings.part
        order = torch.randperm(frames, generator=generator)
        every = torch.rand(1, generator=generator).item() < self.settings.whole
        return order[: frames if every else part].sort().values

    def _errors(
        self, bank: ClipBank, rows: Tensor, generator: torch.Generator, indices: Tensor, frames: Tensor
    ) -> Tensor:
        """The loss of each clip [n], with random starts, captions and noise."""
        settings, size = self.settings, len(rows)
        starts = torch.randint(settings.starts, (size,), generator=generator)
        clips = [pick(bank.latents[r], settings.frames, int(s)) for r, s in zip(rows, starts, strict=True)]
        x0 = torch.stack(clips)[:, :, frames]
        which = torch.randint(bank.captions.shape[1], (size,), generator=generator)
        lines = bank.captions[rows, which]
        lines[torch.rand(size, generator=generator) < settings.drop] = 0
        noise = torch.randn(x0.shape, generator=generator)
        text = bank.texts[lines]
        return denoising_loss(lambda x, times: self.predict(x, times, text), x0.float(), indices, noise, self.path, "v")

    def predict(self, x: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """v for clips [n, channels, frames, side, side], texts [n, tokens, width]."""
        frames, dtype = x.shape[2], self.model.dtype
        with frames_of(self.model, frames):
            rows = self.model(
                as_frames(x).to(dtype), times.repeat_interleave(frames), text.to(dtype).repeat_interleave(frames, dim=0)
            ).sample
        return from_frames(rows, len(x))

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.multinomial(self.bank.weights, self.settings.batch, replacement=True, generator=generator)
        indices = self.settings.density.draw(self.path, len(rows), generator)
        frames = self._frames(generator)
        self.tell(frames)
        return {"loss": self._errors(self.bank, rows, generator, indices, frames).mean()}

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The loss over the clips that are never trained on, at fixed noise levels, starts and noise."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.arange(len(self.held_out.weights))
        indices = torch.linspace(200, len(self.path.alphas_cumprod) - 1, len(rows)).long()
        frames = torch.arange(self.settings.frames)
        self.tell(frames)
        parts = zip(rows.split(1), indices.split(1), strict=True)
        return float(torch.cat([self._errors(self.held_out, r, generator, i, frames) for r, i in parts]).mean())

    @torch.no_grad()
    def sample(self, step: int) -> Image.Image:
        """A sheet with a row for each of `PROMPTS`, every other frame; prints the loss on clips never trained on."""
        print(f"step {step}: loss on held-out clips {self.held_out_loss():.4f}", flush=True)
        settings, (_, channels, *side) = self.settings, self.bank.latents.shape[1:]
        rows = []
        for number, prompt in enumerate(self.prompts):
            noise = torch.randn(settings.frames, channels, *side, generator=torch.Generator().manual_seed(number))
            texts = prompt.expand(settings.frames, -1, -1)
            with frames_of(self.model, settings.frames):
                latents = preview.draw(
                    self.model, texts, self.bank.texts[:1], noise, self.path,
                    steps=settings.preview_steps, guidance=settings.guidance,
                )  # fmt: skip
            rows.append(preview.decode(self.vae, latents[::2]))
        return preview.grid(np.concatenate(rows), columns=len(rows[0]))

    def export(self, folder: Path) -> None:
        """In half precision, as it is carried: 8 MB for the model in the box."""
        for place, table in zip(self.places, self.tables, strict=True):
            place.pe = table  # all positions again, not this step's
        copy.deepcopy(self.adapter).half().save_pretrained(folder)
