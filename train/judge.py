"""The judge: a small convolutional classifier of what a picture shows, trained on real pictures only.

Its weights are kept outside the repository and are never part of a model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffgen.train.data import PictureSet

SIDE = 64


def new_judge(classes: int, seed: int) -> nn.Sequential:
    """An untrained classifier of [n, 3, 64, 64] in -1..1 into `classes`; 2.3 M parameters for 1,265 classes."""

    def block(before: int, after: int, *, halve: bool) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
        return [*layers, nn.MaxPool2d(2)] if halve else layers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            *block(32, 64, halve=True),
            *block(64, 128, halve=True),
            *block(128, 256, halve=True),
            *block(256, 256, halve=False),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1024, classes),
        )


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Random place, size, mirror image, brightness, tint and blur, so that only the thing itself can be recognised.

    Args:
        pictures: [n, 3, h, w] in -1..1 with white around what is drawn.

    Returns:
        [n, 3, 64, 64] in -1..1.
    """
    count = len(pictures)
    rand = torch.rand(6, count, generator=generator)
    scale = 0.85 + 0.35 * rand[0]
    mirror = torch.where(rand[1] < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
    theta[:, 0, 2], theta[:, 1, 2] = 0.24 * rand[2] - 0.12, 0.24 * rand[3] - 0.12
    places = F.affine_grid(theta, [count, 3, SIDE, SIDE], align_corners=False)
    # Darkness is sampled, not light: outside the picture sampling gives 0, which then means white.
    dark = F.grid_sample(1 - F.avg_pool2d(pictures, pictures.shape[-1] // SIDE), places, align_corners=False)
    tint = 0.85 + 0.3 * torch.rand(count, 3, 1, 1, generator=generator)
    blurred = F.avg_pool2d(dark, 3, stride=1, padding=1)
    mix = rand[4].view(-1, 1, 1, 1)
    return 1 - (dark * (1 - mix) + blurred * mix) * tint


class JudgeTask:
    """See `diffgen.train.loop.Task`."""

    def __init__(self, pictures: PictureSet, *, batch: int, seed: int) -> None:
        self.pictures, self.size = pictures, batch
        self.indices = pictures.indices(held_out=False, kinds=("drawn",))
        codes = sorted({pictures.records[i].codes[0] for i in self.indices})
        self.classes = {code: number for number, code in enumerate(codes)}
        self.model = new_judge(len(codes), seed).train()

    def answers(self, indices: np.ndarray) -> Tensor:
        """The right classes of these pictures, int64 [n]."""
        return torch.tensor([self.classes[self.pictures.records[i].codes[0]] for i in indices])

    def real(self, indices: np.ndarray) -> Tensor:
        """These pictures, [n, 3, 128, 128] in -1..1."""
        return torch.from_numpy(self.pictures.pictures[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = self.indices[torch.randint(len(self.indices), (self.size,), generator=generator).numpy()]
        x = disturb(self.real(chosen), generator).to(next(self.model.parameters()).dtype)
        return {"loss": F.cross_entropy(self.model(x).float(), self.answers(chosen), label_smoothing=0.05)}

    @torch.no_grad()
    def ranks(self, pictures: Tensor, answers: Tensor, generator: torch.Generator) -> Tensor:
        """Rank of the right class among the judge's guesses, 0 is first: int64 [n].

        Args:
            pictures: [n, 3, h, w] in -1..1.
            answers: right classes.
        """
        dtype = next(self.model.parameters()).dtype
        out = []
        for part, right in zip(pictures.split(64), answers.split(64), strict=True):
            scores = self.model(disturb(part, generator).to(dtype)).float()
            out.append((scores > scores.gather(1, right[:, None])).sum(1))
        return torch.cat(out)

    @torch.no_grad()
    def sample(self, step: int) -> None:
        """Print how well real pictures are recognised in places and colours not trained on."""
        generator = torch.Generator().manual_seed(1)
        chosen = self.indices[torch.randperm(len(self.indices), generator=generator)[:640].numpy()]
        ranks = self.ranks(self.real(chosen), self.answers(chosen), generator)
        print(
            f"step {step}: top-1 {(ranks < 1).float().mean():.3f}, top-5 {(ranks < 5).float().mean():.3f}", flush=True
        )

    def export(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.float().contiguous() for k, v in self.model.state_dict().items()}, folder / "judge.safetensors")
