"""Tiny random checkpoints of the diffusion transformers: PixArt, Sana, Qwen-Image, Z-Image, Lumina 2 and kin.

Each builder writes a diffusers folder of a few hundred thousand weights that draws 64 x 64 pictures, and
returns it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import WORDS, autoencoder_kl


def ours(folder: Path, seeds: list[int], prompt: str, **call: Any) -> tuple[np.ndarray, np.ndarray]:
    """(latents [n, c, h, w], pixels [n, h, w, 3]) of diffgen, all seeds in one batch."""
    import diffgen
    from diffgen.pipelines import text_to_image

    model = diffgen.load(folder)
    pictures = text_to_image(model, prompt, seed=seeds[0], count=len(seeds), batch=len(seeds), **call)
    return np.stack([p.latents[:, 0] for p in pictures]), np.stack([p.pixels for p in pictures])


def amplify(network: Any, gain: float) -> None:
    """Makes a fresh network's layers louder: a picture that hardly hears its prompt proves little."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(gain)


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


def gemma_tokenizer(folder: Path) -> Any:
    """Gemma's: pieces with the space before them, no space added, padded on the left by default."""
    from transformers import GemmaTokenizer

    letters = ["▁", "\n", *(chr(code) for code in range(33, 127))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = ["▁", *word]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters, *("".join(pair) for pair in merges)]
    tokenizer = GemmaTokenizer(
        vocab={piece: k for k, piece in enumerate(dict.fromkeys(pieces))}, merges=merges, add_bos_token=True
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def gemma(vocabulary: int) -> Any:
    """A Gemma 2 text model of two layers, 32 wide."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=1024,
        )
    ).eval()  # fmt: skip


def sana(folder: Path, *, kind: str = "dpm", seed: int = 0) -> Path:
    """`kind` is "dpm" or "euler" for Sana with either scheduler, or "sprint"."""
    import diffusers

    torch.manual_seed(seed)
    tokenizer = gemma_tokenizer(folder / "tokenizer")
    sprint = kind == "sprint"
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=32, out_channels=32, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
        sample_size=2, guidance_embeds=sprint, qk_norm="rms_norm_across_heads" if sprint else None,
        timestep_scale=1.0,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=32, attention_head_dim=8, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 8, 8, 16, 32), decoder_block_out_channels=(8, 8, 8, 8, 16, 32),
        encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6, scaling_factor=0.41407,
        encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6, downsample_block_type="Conv",
        upsample_block_type="interpolate",
    ).eval()  # fmt: skip
    scheduler: Any = {
        "dpm": lambda: diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
        "euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        "sprint": lambda: diffusers.SCMScheduler(),
    }[kind]()  # fmt: skip
    pipeline = diffusers.SanaSprintPipeline if sprint else diffusers.SanaPipeline
    pipeline(
        tokenizer=tokenizer, text_encoder=gemma(len(tokenizer)), vae=vae, transformer=transformer, scheduler=scheduler
    ).save_pretrained(folder)
    return folder


def auraflow(folder: Path, *, seed: int = 0, **scheduler: Any) -> Path:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(folder / "tokenizer")
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pos_embed_max_size=64,
    ).eval()  # fmt: skip
    amplify(transformer, 3.0)
    AuraFlowPipeline(
        tokenizer=tokenizer, text_encoder=t5_encoder(len(tokenizer), kind="UMT5"), vae=autoencoder_kl(),
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 1.73, **scheduler}),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def lumina2(folder: Path, *, seed: int = 0, **scheduler: Any) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    torch.manual_seed(seed)
    tokenizer = gemma_tokenizer(folder / "tokenizer")
    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=16, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(300, 32, 32), cap_feat_dim=32,
    ).eval()  # fmt: skip
    Lumina2Pipeline(
        tokenizer=tokenizer, text_encoder=gemma(len(tokenizer)), transformer=transformer,
        vae=autoencoder_kl(channels=16, scaling_factor=0.3611, shift_factor=0.1159),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 6.0, **scheduler}),
    ).save_pretrained(folder)  # fmt: skip
    return folder

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def qwen_tokenizer(folder: Path) -> Any:
    """Qwen's: byte-level pieces, control tokens for chats and pictures, a chat template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = ["Ġ", *word]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    pieces = dict.fromkeys([*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges), "<|endoftext|>"])
    control = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: k for k, piece in enumerate(pieces)}, merges=merges, chat_template=CHAT,
        extra_special_tokens=control,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def z_image(folder: Path, *, seed: int = 0, **scheduler: Any) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer(folder / "tokenizer")
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        )
    ).eval()  # fmt: skip
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64],
    ).eval()  # fmt: skip
    # They begin as zeros, which hides what padding does.
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    ZImagePipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer,
        vae=autoencoder_kl(channels=16, scaling_factor=0.3611, shift_factor=0.1159),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def mistral_tokenizer(folder: Path) -> Any:
    """Mistral's: padded on the left, with a chat template that begins the text itself."""
    tokenizer = gemma_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[INST]", "[/INST]"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] }}\n"
        "{% else %}[INST]{{ m['content'][0]['text'] }}[/INST]{% endif %}{% endfor %}"
    )
    return tokenizer


def flux2_vae() -> Any:
    """A picture autoencoder of factor 8 whose batch norm has seen something."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=64,
    )  # fmt: skip
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae.eval()


def flux2(folder: Path, *, kind: str = "klein", seed: int = 0) -> Path:
    """`kind` is "dev", "klein" (distilled) or "base" (Klein's)."""
    import diffusers
    import transformers

    torch.manual_seed(seed)
    dev = kind == "dev"
    small: dict[str, Any] = dict(
        hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=8
    )
    if dev:
        words = mistral_tokenizer(folder / "tokenizer")
        text_encoder = transformers.Mistral3ForConditionalGeneration(
            transformers.Mistral3Config(
                text_config=dict(model_type="mistral", vocab_size=len(words), num_hidden_layers=31, **small),
                vision_config=dict(
                    model_type="pixtral", hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                    num_attention_heads=2, head_dim=8, image_size=32, patch_size=8),
                image_token_index=words.convert_tokens_to_ids("[IMG]"),
            )
        )  # fmt: skip
    else:
        words = qwen_tokenizer(folder / "tokenizer")
        text_encoder = transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(vocab_size=len(words), num_hidden_layers=28, tie_word_embeddings=True, **small)
        )
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=dev,
    ).eval()  # fmt: skip
    amplify(transformer, 2.0)
    networks = dict(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=flux2_vae(),
        text_encoder=text_encoder.eval(), tokenizer=words, transformer=transformer,
    )
    if dev:
        diffusers.Flux2Pipeline(**networks).save_pretrained(folder)
    else:
        diffusers.Flux2KleinPipeline(**networks, is_distilled=kind == "klein").save_pretrained(folder)
    return folder


def qwen_vl(tokenizer: Any) -> Any:
    """A Qwen 2.5 VL model of two layers, 32 wide, that sees patches of 14 pixels."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    edges = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=dict(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
                rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2])),
            vision_config=dict(
                depth=1, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32, patch_size=14,
                window_size=112, fullatt_block_indexes=[0]),
            image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
            vision_start_token_id=edges["vision_start"], vision_end_token_id=edges["vision_end"],
        )
    ).eval()  # fmt: skip


def qwen_processor(folder: Path) -> Any:
    """What transformers' Qwen2VLProcessor does for pictures, which it itself does only beside torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin

    tokenizer, look = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)

    class Processor(ProcessorMixin):  # type: ignore[misc]
        def __init__(self) -> None:  # the base class would ask for the parts it knows
            pass

        def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
            ready = look(images=images, return_tensors=return_tensors)
            for count in (ready["image_grid_thw"].prod(1) // look.merge_size**2).tolist():
                text = [line.replace("<|image_pad|>", "<|seen|>" * count, 1) for line in text]
            text = [line.replace("<|seen|>", "<|image_pad|>") for line in text]
            return BatchFeature({**tokenizer(text, padding=padding, return_tensors=return_tensors), **ready})

    return Processor()


def qwen_image(folder: Path, *, kind: str = "QwenImagePipeline", seed: int = 0, **network: Any) -> Path:
    """`kind` is the pipeline's class: QwenImagePipeline, QwenImageEditPipeline or QwenImageEditPlusPipeline."""
    import diffusers

    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer(folder / "tokenizer")
    parts = dict(
        tokenizer=tokenizer, text_encoder=qwen_vl(tokenizer),
        vae=diffusers.AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1).eval(),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(8, 4, 4), **network).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02),
    )  # fmt: skip
    amplify(parts["transformer"], 3.0)
    edits = kind != "QwenImagePipeline"
    getattr(diffusers, kind)(**parts, **({"processor": None} if edits else {})).save_pretrained(folder)
    if edits:
        tokenizer.save_pretrained(folder / "processor")
        settings = dict(
            image_processor_type="Qwen2VLImageProcessor", min_pixels=56 * 56, max_pixels=12845056, patch_size=14,
            temporal_patch_size=2, merge_size=2,
        )
        (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(settings))
        index = json.loads((folder / "model_index.json").read_text())
        index["processor"] = ["transformers", "Qwen2VLProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder
