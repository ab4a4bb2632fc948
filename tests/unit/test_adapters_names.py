"""The tables of original layer names against diffusers' own converters, and names that people's files use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as converters

from diffgen.adapters import Adapter, apply
from diffgen.adapters.names import Names, names_of
from diffgen.naming.tables import LAYOUTS
from tests.tiny_lora import write

# The converters know the sizes of the published networks by heart; on the "meta" device these cost nothing.
NETWORKS: dict[str, tuple[Callable[[], Any], Any]] = {
    "flux": (lambda: diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True),
             converters.convert_flux_transformer_checkpoint_to_diffusers),
    "chroma": (lambda: diffusers.ChromaTransformer2DModel(num_layers=1, num_single_layers=2),
               converters.convert_chroma_transformer_checkpoint_to_diffusers),
    "flux2": (lambda: diffusers.Flux2Transformer2DModel(num_layers=1, num_single_layers=1),
              converters.convert_flux2_transformer_checkpoint_to_diffusers),
    "sd3": (lambda: diffusers.SD3Transformer2DModel(num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm"),
            converters.convert_sd3_transformer_checkpoint_to_diffusers),
    "wan": (lambda: diffusers.WanTransformer3DModel(num_layers=2, image_dim=1280, added_kv_proj_dim=5120),
            converters.convert_wan_transformer_to_diffusers),
    "ltx": (lambda: diffusers.LTXVideoTransformer3DModel(num_layers=2),
            converters.convert_ltx_transformer_checkpoint_to_diffusers),
    "mochi": (diffusers.MochiTransformer3DModel, converters.convert_mochi_transformer_checkpoint_to_diffusers),
    "hunyuan-video": (lambda: diffusers.HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=2),
                      converters.convert_hunyuan_video_transformer_to_diffusers),
    "auraflow": (lambda: diffusers.AuraFlowTransformer2DModel(num_mmdit_layers=1, num_single_dit_layers=2),
                 converters.convert_auraflow_transformer_checkpoint_to_diffusers),
    "lumina2": (lambda: diffusers.Lumina2Transformer2DModel(num_layers=2), converters.convert_lumina2_to_diffusers),
    "z-image": (lambda: diffusers.ZImageTransformer2DModel(n_layers=2),
                converters.convert_z_image_transformer_checkpoint_to_diffusers),
    "sana": (lambda: diffusers.SanaTransformer2DModel(num_layers=2), converters.convert_sana_transformer_to_diffusers),
}  # fmt: skip
# What the converters move besides layers.
TABLES = ("pos_embed", "positional_encoding", "pos_frequencies", "y_embedder.y_embedding", "register_tokens")
# ComfyUI's own words for HunyuanVideo are no input of the converter, which reads the authors'.
SECOND = ("attn.qkv", "attn.proj", "_mod.lin", "_mlp.0", "_mlp.2", "modulation.lin", ".norm.query_norm",
          ".norm.key_norm", "_in.in_layer", "_in.out_layer", "_embedder.in_layer", "_embedder.out_layer", ".mlp.0", ".mlp.2")  # fmt: skip


def originals(names: Names, layers: set[str], *, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """The pieces of every layer under the authors' names, and under ours where they have no other."""
    # Old names of diffusers' own are no authors' names.
    old = {name.removesuffix(".0") for name in names.dotted if name.endswith(".to_out.0")}
    others = {name: pieces for name, pieces in names.dotted.items() if name not in layers | old}
    renamed = {name: pieces for name, pieces in others.items() if not name.endswith(leave)} if leave else others
    covered = {piece.layer for pieces in renamed.values() for piece in pieces}
    return renamed | {name: names.dotted[name] for name in layers - covered}


@pytest.mark.parametrize("kind", NETWORKS)
def test_names_lead_where_the_converter_puts_the_rows(kind: str) -> None:
    make, convert = NETWORKS[kind]
    with torch.device("meta"):
        network = make()
    names = names_of(network)
    ours = {name: parameter.shape for name, parameter in network.named_parameters()}
    layers = {name.removesuffix(".weight").removesuffix(".bias") for name in ours}
    leave = SECOND if kind == "hunyuan-video" else ()
    file, expected, start = {}, {}, 0.0
    for name, pieces in originals(names, layers, leave=leave).items():
        for part in ("weight", "bias", ""):
            targets = [f"{piece.layer}.{part}".rstrip(".") for piece in pieces]
            if not all(target in ours for target in targets):
                continue
            total = sum(piece.rows for piece in pieces)
            # One column is enough to follow the rows by, and weighs nothing.
            rows = torch.arange(start, start + total, dtype=torch.float64)
            start += total
            own = part if not name.endswith(("query_norm", "key_norm")) and ".norms." not in name else "scale"
            file[f"{name}.{own}".rstrip(".")] = rows[:, None] if part == "weight" else rows
            for piece, target in zip(pieces, targets, strict=True):
                expected[target, piece.target] = rows[piece.source : piece.source + piece.rows]
    for table in TABLES:
        file.setdefault(table, torch.zeros(1))
    if kind == "sd3":
        # The converter reads the width of the captions off this layer.
        file["context_embedder.weight"] = file["context_embedder.weight"].expand(-1, 4096)
    found = convert(file)
    for (target, row), rows in expected.items():
        got = found[target].reshape(found[target].shape[0], -1)[:, 0]
        assert torch.equal(got[row : row + rows.numel()], rows), target
    assert {target for target, _ in expected} >= {name for name in ours if name.endswith("weight")}


def unet(**options: Any) -> Any:
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(**options)


XL = dict(
    block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip


@pytest.mark.parametrize("options", [{}, XL], ids=["sd", "sdxl"])
def test_the_unet_is_numbered_as_latent_diffusion_numbers_it(options: dict[str, Any]) -> None:
    network = unet(**options)
    names = names_of(network)
    ours = dict(network.named_parameters())
    layers = {name.removesuffix(".weight").removesuffix(".bias") for name in ours}
    file = {}
    for number, (name, pieces) in enumerate(originals(names, layers).items()):
        for part in ("weight", "bias"):
            if f"{pieces[0].layer}.{part}" in ours:
                file[f"model.diffusion_model.{name}.{part}"] = torch.tensor([number])
    config = {**network.config, "num_class_embeds": None, "class_embed_type": None}
    found = converters.convert_ldm_unet_checkpoint(dict(file), config, extract_ema=False)
    assert set(found) == set(ours)
    for name, pieces in originals(names, layers).items():
        assert torch.equal(found[f"{pieces[0].layer}.weight"], file[f"model.diffusion_model.{name}.weight"]), name


@pytest.mark.parametrize("kind", [*NETWORKS, "sd", "sdxl"])
def test_no_two_layers_share_a_flat_name(kind: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[kind][0]() if kind in NETWORKS else unet(**(XL if kind == "sdxl" else {}))
    names = names_of(network)
    for name, pieces in names.dotted.items():
        assert names.flat[name.replace(".", "_")] == pieces, name


@pytest.mark.parametrize(("name", "layer"), [
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
     "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
    ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
    ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
    ("lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
    ("lora_unet_label_emb_0_2", "add_embedding.linear_2"),
    ("lora_unet_output_blocks_0_0_emb_layers_1", "up_blocks.0.resnets.0.time_emb_proj"),
])  # fmt: skip
def test_kohya_names_of_sdxl(name: str, layer: str) -> None:
    [piece] = names_of(unet(**XL)).flat[name.removeprefix("lora_unet_")]
    assert piece.layer == layer


def test_clip_has_its_old_module_name_too() -> None:
    from tests.tiny import clip_text

    for network in (clip_text(64), clip_text(64, projection=16)):
        names = names_of(network)
        for name in ("text_model.encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.to_q"):
            [piece] = names.dotted[name]
            assert network.get_submodule(piece.layer) is not None and piece.layer.endswith("self_attn.q_proj")


MORE: dict[str, Callable[[], Any]] = {
    "qwen-image": lambda: diffusers.QwenImageTransformer2DModel(num_layers=1),
    "cogvideox": lambda: diffusers.CogVideoXTransformer3DModel(num_layers=1),
    "pixart": lambda: diffusers.PixArtTransformer2DModel(num_layers=1, caption_channels=4096),
    "sd": lambda: unet(),
    "sdxl": lambda: unet(**XL),
    "animatediff": lambda: diffusers.UNetMotionModel(motion_num_attention_heads=8),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*NETWORKS, *MORE])
@pytest.mark.parametrize("layout", ["kohya", "comfyui", "peft"])
def test_every_linear_layer_of_every_family_takes_a_lora(kind: str, layout: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = NETWORKS[kind][0]() if kind in NETWORKS else MORE[kind]()
    names = names_of(network)
    linear = {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    columns = {name: module.in_features for name, module in linear.items()}
    tensors: dict[str, torch.Tensor] = {}
    # Fused layers first, and then what they leave; the later names of one layer are left out.
    done: set[str] = set()
    own = {name: names.dotted[name] for name in columns} if layout == "peft" else dict(reversed(names.dotted.items()))
    for name, pieces in own.items():
        parts = {piece.layer for piece in pieces}
        if not parts <= set(columns) or parts & done:
            continue
        done |= parts
        rows, width = sum(piece.rows for piece in pieces), columns[pieces[0].layer]
        stem = {"kohya": f"lora_unet_{name.replace('.', '_')}", "comfyui": f"diffusion_model.{name}",
                "peft": f"transformer.{name}"}[layout]  # fmt: skip
        down, up = ("lora_down", "lora_up") if layout == "kohya" else ("lora_A", "lora_B")
        tensors |= {f"{stem}.{down}.weight": torch.ones(1, width), f"{stem}.{up}.weight": torch.ones(rows, 1)}
    assert done == set(columns)
    family: Any = SimpleNamespace(components={"denoiser": network}, name=kind)
    [report] = apply([Adapter(write(tmp_path / "file.safetensors", tensors))], family).reports
    assert report.used == report.keys == len(tensors) and not report.unmatched


def test_motion_loras_of_animatediffs_authors() -> None:
    with torch.device("meta"):
        names = names_of(MORE["animatediff"]())
    old = "down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q"
    [piece] = names.dotted[old]
    assert piece.layer == "down_blocks.0.motion_modules.1.transformer_blocks.0.attn2.to_q"
    assert "input_blocks.4.1.transformer_blocks.0.attn1.to_q" in names.dotted


def test_every_table_belongs_to_a_class_that_diffusers_has() -> None:
    for kind in LAYOUTS:
        assert hasattr(diffusers, kind), kind
