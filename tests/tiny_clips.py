"""Tiny random clip checkpoints, written to disk offline, and what the parity tests of clips share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

from tests.tiny import WORDS, autoencoder_kl, clip_text, clip_tokenizer

TOLERANCE = 1e-4


def t5_tokenizer(folder: Path, *, length: int = 512) -> Any:
    """A T5 tokenizer of a few words and all printable characters."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS if len(word) > 1] + [(letter, -8.0) for letter in letters]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def t5_text(vocabulary: int, *, width: int = 32, multilingual: bool = False) -> Any:
    """A T5 encoder of two layers, or a UMT5 one."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    options = dict(
        vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    if multilingual:
        return UMT5EncoderModel(UMT5Config(**options)).eval()
    return T5EncoderModel(T5Config(**options)).eval()


def clip_vision(*, width: int = 32, side: int = 28) -> tuple[Any, Any]:
    """CLIP's vision half, and its pre-processing."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=4, image_size=side,
        patch_size=14, projection_dim=width,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return CLIPVisionModel(config).eval(), processor


def amplify(network: Any, *names: str, gain: float = 8.0) -> Any:
    """Multiplies the weights whose name holds one of `names`, so that a wrong input shows in the result."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and any(part in name for part in names):
                weight.mul_(gain)
    return network


def wan(folder: Path, *, kind: str = "2.1", seed: int = 0) -> Path:
    """A Wan folder: "2.1", "2.2" (two experts), "2.1-i2v" (CLIP vision), "2.1-flf" (first and last frame), "2.2-i2v" or "5b"."""
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanImageToVideoPipeline,
        WanPipeline,
        WanTransformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer")
    from_picture, vision, large = kind.endswith(("i2v", "flf")), kind in ("2.1-i2v", "2.1-flf"), kind == "5b"
    channels = 16 if not large else 48

    def transformer() -> Any:
        network = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, freq_dim=32, ffn_dim=32, num_layers=2,
            in_channels=2 * channels + 4 if from_picture else channels, out_channels=channels, text_dim=32,
            rope_max_seq_len=32, cross_attn_norm=True, image_dim=32 if vision else None,
            added_kv_proj_dim=24 if vision else None, pos_embed_seq_len=10 if kind == "2.1-flf" else None,
        )  # fmt: skip

        return amplify(network, "attn2", "image_embedder", "text_embedder", gain=4.0).eval()

    random = torch.Generator().manual_seed(seed)
    statistics = dict(
        latents_mean=(torch.randn(channels, generator=random) * 0.3).tolist(),
        latents_std=(torch.rand(channels, generator=random) + 0.7).tolist(),
    )
    extra = dict(is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        **statistics, **(extra if large else {}),
    ).eval()  # fmt: skip
    two = kind.startswith("2.2")
    common = dict(
        tokenizer=tokenizer, text_encoder=t5_text(len(tokenizer), multilingual=True), vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformer(), transformer_2=transformer() if two else None, boundary_ratio=0.875 if two else None,
        expand_timesteps=large,
    )  # fmt: skip
    if from_picture:
        encoder, processor = clip_vision() if vision else (None, None)
        pipeline = WanImageToVideoPipeline(**common, image_encoder=encoder, image_processor=processor)
    else:
        pipeline = WanPipeline(**common)
    pipeline.save_pretrained(folder)
    return folder


def ltx(folder: Path, *, timed: bool = False, seed: int = 0) -> Path:
    """An LTX-Video folder; with `timed` its autoencoder is told a time, as from version 0.9.1 on."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer", length=128)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=32,
    ).eval()  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, timestep_conditioning=timed,
    ).eval()  # fmt: skip
    vae.latents_mean.copy_(torch.randn(8) * 0.3)
    vae.latents_std.copy_(torch.rand(8) + 0.7)
    LTXPipeline(
        tokenizer=tokenizer, text_encoder=t5_text(len(tokenizer)), vae=vae, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1,
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def animatediff(folder: Path, *, joined: bool = True, seed: int = 0) -> Path:
    """An AnimateDiff folder of at most 8 frames; with `joined` the U-Net has the motion modules in it."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter, UNet2DConditionModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "tokenizer")
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    adapter = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2, motion_norm_num_groups=4, motion_max_seq_length=8,
    ).eval()  # fmt: skip
    for weight in adapter.parameters():
        # Freshly made motion modules end in zeros and would change nothing.
        torch.nn.init.normal_(weight, std=0.1)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, timestep_spacing="trailing",
        steps_offset=1,
    )  # fmt: skip
    pipeline = AnimateDiffPipeline(
        vae=autoencoder_kl(), text_encoder=clip_text(len(tokenizer)), tokenizer=tokenizer, unet=unet,
        motion_adapter=adapter, scheduler=scheduler,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    if not joined:
        rmtree(folder / "unet")
        unet.save_pretrained(folder / "unet")
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", "UNet2DConditionModel"]}))
    return folder


def cogvideox(folder: Path, *, kind: str = "2b", scheduler: str = "CogVideoXDDIMScheduler", seed: int = 0) -> Path:
    """A CogVideoX folder: "2b" (sine positions), "5b" (rotary), "5b-i2v", "1.5" (two latents a token) or "1.5-i2v"."""
    import diffusers

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer", length=226)
    from_picture, later = kind.endswith("i2v"), kind.startswith("1.5")
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8 if from_picture else 4, out_channels=4,
        time_embed_dim=8, text_embed_dim=32, num_layers=2, sample_width=8, sample_height=6, sample_frames=9,
        patch_size_t=2 if later else None, ofs_embed_dim=8 if kind == "1.5-i2v" else None, patch_bias=not later,
        use_rotary_positional_embeddings=kind != "2b",
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4, scaling_factor=0.7 if later else 1.15258426, invert_scale_latents=later,
    ).eval()  # fmt: skip
    name = "CogVideoXImageToVideoPipeline" if from_picture else "CogVideoXPipeline"
    getattr(diffusers, name)(
        tokenizer=tokenizer, text_encoder=t5_text(len(tokenizer)), vae=vae, transformer=transformer,
        scheduler=getattr(diffusers, scheduler)(
            snr_shift_scale=3.0 if kind == "2b" else 1.0, rescale_betas_zero_snr=True, clip_sample=False,
            prediction_type="v_prediction", timestep_spacing="trailing",
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def svd(folder: Path, *, seed: int = 0) -> Path:
    """A Stable Video Diffusion folder. Its normalisation has 32 groups, which erase the frame rate at 32 channels."""
    import diffusers
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(64, 64), layers_per_block=1, sample_size=8, cross_attention_dim=32, num_attention_heads=2,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), num_frames=4,
        projection_class_embeddings_input_dim=96, addition_time_embed_dim=32,
    ).eval()  # fmt: skip
    amplify(unet, "add_embedding", "time_emb_proj", gain=6.0)
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
    ).eval()  # fmt: skip
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=224,
        patch_size=56, projection_dim=32,
    )  # fmt: skip
    diffusers.StableVideoDiffusionPipeline(
        vae=vae, image_encoder=CLIPVisionModelWithProjection(config).eval(), unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading", timestep_type="continuous", steps_offset=1,
            prediction_type="v_prediction", use_karras_sigmas=True, beta_schedule="scaled_linear",
        ),
        feature_extractor=CLIPImageProcessor(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def word_tokenizer(folder: Path, text: str) -> Any:
    """A tokenizer whose tokens are the pieces of at most five characters of `text` and of the common words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(".{1,5}"), "isolated")]
    )
    special = ["<|begin|>", "<|pad|>", "<|unk|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    pieces = [piece for piece, _ in split.pre_tokenize_str(text + " " + " ".join(WORDS))]
    vocabulary = {piece: k for k, piece in enumerate(dict.fromkeys([*special, *pieces]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    inner.pre_tokenizer = split
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin|>", pad_token="<|pad|>", unk_token="<|unk|>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def hunyuan_video(folder: Path, *, from_picture: bool = False, seed: int = 0) -> Path:
    """A HunyuanVideo folder, or a SkyReels one `from_picture`. Its instruction has more than the 95 tokens that are cut off."""
    import diffusers
    from transformers import LlamaConfig, LlamaModel

    from diffgen.families.hunyuan_video import AFTER, BEFORE

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(folder / "tokenizer", BEFORE + AFTER)
    tokenizer_2 = clip_tokenizer(folder / "tokenizer_2")
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=1, bos_token_id=0, eos_token_id=5,
    )  # fmt: skip
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=8 if from_picture else 4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        num_layers=1, num_single_layers=1, num_refiner_layers=1, patch_size=2, text_embed_dim=16, pooled_projection_dim=32,
        rope_axes_dim=(4, 6, 6),
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
    ).eval()  # fmt: skip
    (diffusers.HunyuanSkyreelsImageToVideoPipeline if from_picture else diffusers.HunyuanVideoPipeline)(
        text_encoder=LlamaModel(llama).eval(), tokenizer=tokenizer, transformer=transformer, vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder_2=clip_text(len(tokenizer_2)),
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def mochi(folder: Path, *, blank: bool = True, seed: int = 0) -> Path:
    """A Mochi folder; with `blank` an empty prompt is no text at all."""
    import diffusers

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer", length=256)
    transformer = diffusers.MochiTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16, in_channels=12,
        text_embed_dim=32, time_embed_dim=8,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(transformer.pos_frequencies, std=0.3)
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5,
    ).eval()  # fmt: skip
    diffusers.MochiPipeline(
        tokenizer=tokenizer, text_encoder=t5_text(len(tokenizer)), transformer=transformer, vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), force_zeros_for_empty_prompt=blank,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture of soft random colours, float32 [height, width, 3] in 0..1, whose values 8 bits hold exactly."""
    small = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return ((large * 255).round() / 255).numpy()


def theirs(
    kind: Any, folder: Path, seeds: Sequence[int], *, scheduler: Any = None, unpack: Any = None, **call: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(latents [batch, ...], pixels [batch, frames, height, width, 3] in 0..1) of diffusers' pipeline `kind`."""
    pipe = kind.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    kept = {}

    def keep(_pipe: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept["latents"] = values["latents"].clone()
        return values

    gens = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    pixels = pipe(output_type="np", generator=gens, callback_on_step_end=keep, **call).frames
    latents = kept["latents"] if unpack is None else unpack(kept["latents"])
    return latents.numpy(), np.asarray(pixels)


def ours(clips: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(latents [batch, channels, frames, h, w], pixels [batch, frames, height, width, 3]) of our clips."""
    for clip in clips:
        assert clip.pixels.shape == (clip.recipe.frames, clip.recipe.height, clip.recipe.width, 3)
    return np.stack([clip.latents for clip in clips]), np.stack([clip.pixels for clip in clips])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the reference `b` where that is large."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert np.isfinite(b).all()
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


def agree(
    mine: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray], limit: float = TOLERANCE
) -> float:
    """Asserts that latents and pixels agree, and that they are no constant; gives the larger difference."""
    assert reference[1].std() > 1e-3, "a blank clip proves nothing"
    worst = max(difference(*pair) for pair in zip(mine, reference, strict=True))
    print(f"difference {worst:.1e}")
    assert worst < limit, [difference(*pair) for pair in zip(mine, reference, strict=True)]
    return worst
