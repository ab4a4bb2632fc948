"""Tiny random checkpoints, written to disk offline, for every family under test.

Weights are random but seeded, so that a failure is the same failure tomorrow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ["red", "apple", "blue", "cat", "a", "the", "of", "on", "photo", "house", "tree", "green", "big", "small"]


def clip_tokenizer(folder: Path, *, pad: str = "<|endoftext|>") -> Any:
    """A CLIP tokenizer of a few words and all single characters, 77 tokens long."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    tokens = [*letters, *[letter + "</w>" for letter in letters], *["".join(pair) for pair in merges]]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), pad_token=pad, model_max_length=77
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def clip_text(vocabulary: int, *, width: int = 32, layers: int = 3, projection: int | None = None) -> Any:
    """A CLIP text encoder; with a projection the variant SDXL's second encoder has."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=77, eos_token_id=vocabulary - 1, bos_token_id=vocabulary - 2,
        pad_token_id=vocabulary - 1, projection_dim=projection or width,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def autoencoder_kl(*, channels: int = 4, **options: Any) -> Any:
    """A picture autoencoder of factor 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        **{"scaling_factor": 0.18215, "sample_size": 64, **options},
    ).eval()  # fmt: skip


def stable_diffusion(
    folder: Path, *, prediction: str = "epsilon", scheduler: dict[str, Any] | None = None, seed: int = 0, pad: str = "<|endoftext|>",
    in_channels: int = 4,
) -> Path:
    """A Stable Diffusion folder of about 60 thousand weights that draws 64 x 64 pictures."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "tokenizer", pad=pad)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=32, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                    set_alpha_to_one=False, steps_offset=1, prediction_type=prediction)  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=autoencoder_kl(), text_encoder=clip_text(len(tokenizer)), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(**(settings | (scheduler or {}))), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder
