"""Tiny random checkpoints of the diffusion transformers: PixArt, Sana, Qwen-Image, Z-Image, Lumina 2 and kin.

Each builder writes a diffusers folder of a few hundred thousand weights that draws 64 x 64 pictures, and
returns it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import WORDS, autoencoder_kl


def reference(folder: Path, seeds: list[int], prompt: str, **call: Any) -> tuple[np.ndarray, np.ndarray]:
    """(latents as the pipeline holds them after its last step, pixels [n, h, w, 3]) of diffusers' own pipeline."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    kept = {}

    def keep(_pipe: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept["latents"] = values["latents"].clone()
        return values

    if "negative_prompt" in call:
        call["negative_prompt"] = [call["negative_prompt"]] * len(seeds)
    pixels = pipe(
        prompt=[prompt] * len(seeds), output_type="np", callback_on_step_end=keep,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds], **call,
    ).images  # fmt: skip
    return kept["latents"].numpy(), pixels


def ours(folder: Path, seeds: list[int], prompt: str, **call: Any) -> tuple[np.ndarray, np.ndarray]:
    """(latents [n, c, h, w], pixels [n, h, w, 3]) of diffgen, all seeds in one batch."""
    from diffgen.pipelines import text_to_image

    import diffgen

    model = diffgen.load(folder)
    pictures = text_to_image(model, prompt, seed=seeds[0], count=len(seeds), batch=len(seeds), **call)
    return np.stack([p.latents[:, 0] for p in pictures]), np.stack([p.pixels for p in pictures])


def difference(mine: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1."""
    assert mine.shape == want.shape, f"{mine.shape} against {want.shape}"
    return float(np.abs(mine - want).max() / max(1.0, np.abs(want).max()))


def t5_tokenizer(folder: Path) -> Any:
    """A unigram tokenizer of a few words and all printable characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *["▁" + word for word in WORDS], *letters]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - 0.01 * k) for k, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)
    fast.save_pretrained(folder)
    return fast


def t5_encoder(vocabulary: int, *, width: int = 32, kind: str = "T5") -> Any:
    """A T5 or UMT5 encoder of two layers."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return getattr(transformers, f"{kind}EncoderModel")(config).eval()


def pixart(folder: Path, *, seed: int = 0, **scheduler: Any) -> Path:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer")
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=32, use_additional_conditions=False,
    ).eval()  # fmt: skip
    PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=t5_encoder(len(tokenizer)), vae=autoencoder_kl(), transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(**scheduler),
    ).save_pretrained(folder)  # fmt: skip
    return folder
