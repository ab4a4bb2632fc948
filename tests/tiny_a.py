"""Tiny random checkpoints of Stable Diffusion's variants, SDXL, SD 3, Flux.1 and Chroma.

Each builder writes a diffusers folder of about a hundred thousand weights that draws 64 x 64 pictures, and
returns it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import tiny
from tests.tiny_b import t5_encoder, t5_tokenizer


def sd_variant(folder: Path, pipeline: str, **options: Any) -> Path:
    """A Stable Diffusion folder for "StableDiffusionInpaintPipeline" or "StableDiffusionInstructPix2PixPipeline"."""
    tiny.stable_diffusion(folder, in_channels=9 if "Inpaint" in pipeline else 8, **options)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
    return folder


def autoencoder(*, shift: float = 0.0609, scale: float = 1.5) -> Any:
    """SD 3's and Flux's kind: 16 channels, and a shift beside the scale."""
    return tiny.autoencoder_kl(
        channels=16, shift_factor=shift, scaling_factor=scale, use_quant_conv=False, use_post_quant_conv=False
    )


def sdxl(
    folder: Path, *, pipeline: str = "StableDiffusionXLPipeline", scheduler: Any = None, seed: int = 0,
    refiner: bool = False, in_channels: int = 4,
) -> Path:  # fmt: skip
    """An SDXL folder: base, refiner (second encoder and aesthetic score only) or inpainting."""
    import diffusers

    torch.manual_seed(seed)
    tokenizer = None if refiner else tiny.clip_tokenizer(folder / "tokenizer")
    tokenizer_2 = tiny.clip_tokenizer(folder / "tokenizer_2", pad="!")
    width, pooled = (24 if refiner else 24 + 32), 24
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=width, attention_head_dim=(2, 4), use_linear_projection=True,
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=(5 if refiner else 6) * 8 + pooled,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    parts = dict(
        vae=tiny.autoencoder_kl(scaling_factor=0.13025), unet=unet,
        text_encoder=None if refiner else tiny.clip_text(len(tokenizer)), tokenizer=tokenizer,
        text_encoder_2=tiny.clip_text(len(tokenizer_2), width=24, projection=pooled), tokenizer_2=tokenizer_2,
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            timestep_spacing="leading"),
        force_zeros_for_empty_prompt=not refiner, add_watermarker=False,
    )  # fmt: skip
    if refiner or "Inpaint" in pipeline:
        parts["requires_aesthetics_score"] = refiner
    getattr(diffusers, pipeline)(**parts).save_pretrained(folder)
    return folder


def sd3(
    folder: Path, *, t5: bool = True, seed: int = 0, network: Mapping[str, Any] | None = None, **scheduler: Any
) -> Path:
    """A Stable Diffusion 3 folder, with or without T5; `network` holds further options of the transformer."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(seed)
    tokenizer = tiny.clip_tokenizer(folder / "tokenizer")
    tokenizer_2 = tiny.clip_tokenizer(folder / "tokenizer_2", pad="!")
    tokenizer_3 = t5_tokenizer(folder / "tokenizer_3") if t5 else None
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=56,
        pos_embed_max_size=8, **(network or {}),
    ).eval()  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=autoencoder(), tokenizer=tokenizer, tokenizer_2=tokenizer_2, tokenizer_3=tokenizer_3,
        text_encoder=tiny.clip_text(len(tokenizer), width=32, projection=32),
        text_encoder_2=tiny.clip_text(len(tokenizer_2), width=24, projection=24),
        text_encoder_3=t5_encoder(len(tokenizer_3), width=64) if t5 else None,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def flux(folder: Path, *, pipeline: str = "FluxPipeline", distilled: bool = True, seed: int = 0) -> Path:
    """A Flux.1 folder: dev, schnell (not `distilled`), "FluxFillPipeline" or "FluxKontextPipeline"."""
    import diffusers

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = tiny.clip_tokenizer(folder / "tokenizer"), t5_tokenizer(folder / "tokenizer_2")
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=64 if "Fill" not in pipeline else 384, out_channels=64, num_layers=1, num_single_layers=2,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        guidance_embeds=distilled, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    shifting = dict(shift=3.0, use_dynamic_shifting=True) if distilled else dict(shift=1.0)
    getattr(diffusers, pipeline)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**shifting), vae=autoencoder(shift=0.1159, scale=0.3611),
        text_encoder=tiny.clip_text(len(tokenizer)), tokenizer=tokenizer,
        text_encoder_2=t5_encoder(len(tokenizer_2)), tokenizer_2=tokenizer_2, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def unpacked(latents: np.ndarray, width: int, height: int) -> np.ndarray:
    """Flux's tokens as latents [n, 16, h, w], by diffusers' own rule."""
    from diffusers import FluxPipeline

    return FluxPipeline._unpack_latents(torch.from_numpy(latents), height, width, 8).numpy()


def chroma(folder: Path, *, seed: int = 0) -> Path:
    """A Chroma folder."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer")
    transformer = ChromaTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    ).eval()  # fmt: skip
    ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True), vae=autoencoder(),
        text_encoder=t5_encoder(len(tokenizer)), tokenizer=tokenizer, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def redux(folder: Path, *, seed: int = 0) -> Path:
    """A Flux Redux folder whose tokens are as wide as those of `flux`."""
    import diffusers
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    config = SiglipVisionConfig(
        hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    diffusers.FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(config).eval(), image_embedder=ReduxImageEncoder(12, 32).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 32, "width": 32}),
    ).save_pretrained(folder)  # fmt: skip
    return folder
