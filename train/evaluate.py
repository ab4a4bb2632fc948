"""How often a judge recognises what the model was asked to draw.

Three columns: real pictures (how good the judge is), the same through the autoencoder (the most the model can
reach) and generated ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffgen.errors import UsageError
from diffgen.train import preview
from diffgen.train.captions import article
from diffgen.train.data import PictureSet
from diffgen.train.denoiser import box_path
from diffgen.train.judge import JudgeTask
from diffgen.train.loop import Loop, LoopSettings
from diffgen.train.text_encoder import encode, tokenize

KINDS = {
    "people": ("people", "faces"),
    "animals": ("animals",),
    "food": ("food",),
    "objects": ("objects", "places", "activities"),
    "symbols": ("symbols",),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """Shares of pictures whose right concept is among the judge's first five of all concepts.

    Args:
        kind: a key of `KINDS`, or "all".
        count: generated pictures.
        real, rebuilt, drawn: for real pictures, real ones through the autoencoder, generated ones.
        median_rank: of the right concept for generated pictures; 1 is first.
    """

    kind: str
    count: int
    real: float
    rebuilt: float
    drawn: float
    median_rank: float


def trained_judge(pictures: PictureSet, folder: Path, *, steps: int) -> JudgeTask:
    """The judge in `folder`; first trained (1,500 steps take about 5 CPU minutes) or resumed where it falls short."""
    task = JudgeTask(pictures, batch=64, seed=0)
    weights = folder / "model" / "judge.safetensors"
    loop = Loop(
        task,
        LoopSettings(steps=steps, lr=2e-3, warmup=100, average=0.998, sample_minutes=3),
        folder,
        Accelerator(cpu=True),
    )
    if list((folder / "checkpoints").glob("step-*.pt")):
        loop.resume()
    if loop.step < steps:
        loop.run()
    task.model.float().load_state_dict(load_file(weights))
    task.model.requires_grad_(False).eval()
    return task


@dataclass(frozen=True, kw_only=True)
class Box:
    """A checkpoint folder's parts, for drawing many pictures at once."""

    vae: AutoencoderKL
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    steps: int
    guidance: float

    @classmethod
    def load(cls, folder: Path) -> Box:
        """
        Raises:
            UsageError: the folder is not a checkpoint with defaults of its own (diffgen.json).
        """
        if not (folder / "diffgen.json").is_file():
            raise UsageError(f"no diffgen.json in {folder}; the judge is for the model in the box")
        defaults = json.loads((folder / "diffgen.json").read_text())
        dtype = torch.bfloat16
        return cls(
            vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype).requires_grad_(False),
            text=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).requires_grad_(False),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).requires_grad_(False),
            steps=defaults["steps"],
            guidance=defaults["guidance"],
        )

    def draw(self, prompts: list[str], seed: int, batch: int = 25) -> Tensor:
        """Pictures [n, 3, 128, 128] in -1..1."""
        path, out = box_path(), []
        empty = encode(self.text, tokenize(self.tokenizer, [""]))
        side, channels = self.unet.config.sample_size, self.unet.config.in_channels
        for start in range(0, len(prompts), batch):
            cond = encode(self.text, tokenize(self.tokenizer, prompts[start : start + batch]))
            noise = preview.start_noise(len(cond), channels, side, seed + start)
            z = preview.draw(self.unet, cond, empty, noise, path, steps=self.steps, guidance=self.guidance)
            out.append(torch.from_numpy(preview.decode(self.vae, z)).permute(0, 3, 1, 2).float() / 127.5 - 1)
        return torch.cat(out)

    def rebuild(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in -1..1 through the autoencoder."""
        parts = [
            self.vae.decode(self.vae.encode(x.to(self.vae.dtype)).latent_dist.mean).sample.float()
            for x in pictures.split(16)
        ]
        return torch.cat(parts).clamp(-1, 1)


def judge_box(
    folder: Path, *, data: Path, cache: Path, count: int = 500, seed: int = 0, judge_steps: int = 1500
) -> list[Score]:
    """Judge the checkpoint in `folder` on `count` prompts, spread evenly over `KINDS`.

    Args:
        data: folder of the picture set.
        cache: where the judge's weights are kept.
        judge_steps: how long to train it, if that was not done yet; 64 pictures a step.

    Raises:
        UsageError: there is no picture set, or no checkpoint.
    """
    box, pictures = Box.load(folder), PictureSet(data)
    judge = trained_judge(pictures, cache, steps=judge_steps)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    chosen: dict[str, np.ndarray] = {}
    for kind, groups in KINDS.items():
        fit = np.asarray([i for i in judge.indices if pictures.records[i].group in groups])
        chosen[kind] = rng.permutation(fit)[: count // len(KINDS)]
    scores, everything = [], []
    for kind, indices in chosen.items():
        records = [pictures.records[i] for i in indices]
        prompts = [f"{r.style} emoji of {article(r.label)}" for r in records]
        real, answers = judge.real(indices), judge.answers(indices)
        ranks = [judge.ranks(x, answers, generator) for x in (real, box.rebuild(real), box.draw(prompts, seed))]
        everything.append(torch.stack(ranks))
        scores.append(_score(kind, everything[-1]))
    return [*scores, _score("all", torch.cat(everything, 1))]


def _score(kind: str, ranks: Tensor) -> Score:
    real, rebuilt, drawn = ((row < 5).float().mean().item() for row in ranks)
    return Score(
        kind=kind,
        count=ranks.shape[1],
        real=real,
        rebuilt=rebuilt,
        drawn=drawn,
        median_rank=ranks[2].float().median().item() + 1,
    )


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table, shares in per cent."""
    lines = ["| prompts | pictures | real | rebuilt | drawn | median rank |", "|---|---|---|---|---|---|"]
    for s in scores:
        shares = " | ".join(f"{100 * value:.0f} %" for value in (s.real, s.rebuilt, s.drawn))
        lines.append(f"| {s.kind} | {s.count} | {shares} | {s.median_rank:.0f} |")
    return "\n".join(lines)


def save_scores(scores: list[Score], file: Path) -> None:
    """Write the scores as JSON."""
    file.write_text(json.dumps([asdict(s) for s in scores], indent=2) + "\n")
