"""Original layouts of diffusion transformers at their published sizes, against the converters of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as converters

from diffgen.checkpoints.keys import inward, outward
from diffgen.checkpoints.layouts import LAYOUTS

# By layout: the network, and the converter, which knows the published sizes by heart. Shapes alone: no weights.
NETWORKS: dict[str, tuple[Callable[[], Any], Any]] = {
    "flux": (lambda: diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True),
             converters.convert_flux_transformer_checkpoint_to_diffusers),
    "chroma": (lambda: diffusers.ChromaTransformer2DModel(num_layers=1, num_single_layers=2),
               converters.convert_chroma_transformer_checkpoint_to_diffusers),
    "flux2": (lambda: diffusers.Flux2Transformer2DModel(num_layers=1, num_single_layers=1),
              converters.convert_flux2_transformer_checkpoint_to_diffusers),
    "sd3": (lambda: diffusers.SD3Transformer2DModel(
                num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm", joint_attention_dim=4096,
                caption_projection_dim=1536, num_attention_heads=24, attention_head_dim=64),
            converters.convert_sd3_transformer_checkpoint_to_diffusers),
    "wan": (lambda: diffusers.WanTransformer3DModel(num_layers=2, image_dim=1280, added_kv_proj_dim=5120),
            converters.convert_wan_transformer_to_diffusers),
    "ltx": (lambda: diffusers.LTXVideoTransformer3DModel(num_layers=2),
            converters.convert_ltx_transformer_checkpoint_to_diffusers),
    "mochi": (diffusers.MochiTransformer3DModel, converters.convert_mochi_transformer_checkpoint_to_diffusers),
    "hunyuan-video": (lambda: diffusers.HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=2),
                      converters.convert_hunyuan_video_transformer_to_diffusers),
    "auraflow": (lambda: diffusers.AuraFlowTransformer2DModel(num_mmdit_layers=2, num_single_dit_layers=2),
                 converters.convert_auraflow_transformer_checkpoint_to_diffusers),
    "lumina2": (lambda: diffusers.Lumina2Transformer2DModel(num_layers=2, cap_feat_dim=2304),
                converters.convert_lumina2_to_diffusers),
    "z-image": (lambda: diffusers.ZImageTransformer2DModel(n_layers=2),
                converters.convert_z_image_transformer_checkpoint_to_diffusers),
    "sana": (lambda: diffusers.SanaTransformer2DModel(num_layers=2), converters.convert_sana_transformer_to_diffusers),
}  # fmt: skip
# Tables in the original file that are no weights; the converters want them to be there.
BESIDE = {"sana": ("pos_embed", "y_embedder.y_embedding")}


def numbered(network: Any) -> dict[str, torch.Tensor]:
    """Its weights with every row told from all others, and one column, which weighs nothing."""
    state, start = {}, 0
    for name, value in network.state_dict().items():
        rows = torch.arange(start, start + (value.shape[0] if value.ndim else 1), dtype=torch.float64)
        start += len(rows)
        state[name] = rows.view(-1, *[1] * (value.ndim - 1)) if value.ndim else rows[0]
    return state


def original(state: dict[str, torch.Tensor], layout: str, config: Any) -> dict[str, torch.Tensor]:
    pieces, unknown = outward(state, LAYOUTS[layout](config))
    assert not unknown
    return {
        key: piece.take(lambda old, rows: state[old], lambda old: state[old].shape[0]) for key, piece in pieces.items()
    }


@pytest.mark.parametrize("layout", NETWORKS)
def test_what_is_written_is_what_diffusers_reads(layout: str) -> None:
    make, convert = NETWORKS[layout]
    with torch.device("meta"):
        network = make()
    state = numbered(network)
    file = {key: value.clone() for key, value in original(state, layout, network.config).items()}
    file |= {key: torch.zeros(1) for key in BESIDE.get(layout, ())}
    if layout == "sd3":
        # The converter reads the width of the captions off this layer.
        file["context_embedder.weight"] = file["context_embedder.weight"].expand(-1, 4096)
    read = convert(file)
    if layout == "sd3":
        read["context_embedder.weight"] = read["context_embedder.weight"][:, :1]
    assert read.keys() == state.keys()
    for key, value in state.items():
        assert read[key].reshape(value.shape).equal(value), key


def pixart() -> Any:
    return diffusers.PixArtTransformer2DModel(num_layers=2, caption_channels=4096)


@pytest.mark.parametrize("layout", [*NETWORKS, "pixart"])
def test_what_is_written_comes_back(layout: str) -> None:
    with torch.device("meta"):
        network = pixart() if layout == "pixart" else NETWORKS[layout][0]()
    state = numbered(network)
    file = original(state, layout, network.config)
    pieces, unknown = inward(file, LAYOUTS[layout](network.config))
    assert not unknown and pieces.keys() == state.keys()

    def fetch(key: str, rows: slice | None) -> torch.Tensor:
        return file[key] if rows is None else file[key][rows]

    for key, piece in pieces.items():
        assert piece.take(fetch, lambda old: file[old].shape[0]).equal(state[key]), key


def comfyui(key: str) -> str:
    """An authors' name of HunyuanVideo as ComfyUI saves it."""
    pairs = {"_mod.linear.": "_mod.lin.", "_attn_qkv.": "_attn.qkv.", "mlp.fc1.": "mlp.0.", "mlp.fc2.": "mlp.2.",
             "_attn_q_norm.weight": "_attn.norm.query_norm.scale", "_attn_k_norm.weight": "_attn.norm.key_norm.scale",
             ".q_norm.weight": ".norm.query_norm.scale", ".k_norm.weight": ".norm.key_norm.scale",
             "_attn_proj.": "_attn.proj.", ".modulation.linear.": ".modulation.lin.",
             "txt_in.t_embedder.mlp.0.": "txt_in.t_embedder.in_layer.", "_in.mlp.0.": "_in.in_layer.",
             "txt_in.t_embedder.mlp.2.": "txt_in.t_embedder.out_layer.", "_in.mlp.2.": "_in.out_layer.",
             "txt_in.c_embedder.linear_1.": "txt_in.c_embedder.in_layer.",
             "txt_in.c_embedder.linear_2.": "txt_in.c_embedder.out_layer."}  # fmt: skip
    for old, new in pairs.items():
        key = key.replace(old, new)
    return key


def test_hunyuan_video_is_read_in_the_authors_names_and_in_comfyuis() -> None:
    with torch.device("meta"):
        network = NETWORKS["hunyuan-video"][0]()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    layout = LAYOUTS["hunyuan-video"](network.config)
    theirs, _ = outward(shapes, layout)
    assert "double_blocks.0.img_attn_q_norm.weight" in theirs and "single_blocks.1.q_norm.weight" in theirs
    assert "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight" in theirs
    for names in (theirs, [comfyui(key) for key in theirs]):
        pieces, unknown = inward(names, layout)
        assert not unknown and pieces.keys() == shapes.keys()
