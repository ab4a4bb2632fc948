"""Diffusion transformers as their authors and ComfyUI name them: Flux, Chroma, SD 3, Wan, LTX, Z-Image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffgen.checkpoints.keys import Layout, Rule


def _plain(names: Mapping[str, str]) -> list[Rule]:
    return [Rule(theirs, ours) for theirs, ours in names.items()]


def _qkv(theirs: str, ours: str, names: tuple[str, ...] = ("to_q", "to_k", "to_v")) -> Rule:
    return Rule(theirs, tuple(f"{ours}.{name}" for name in names), "part", (1, 1, 1))


_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def _flux_blocks() -> list[Rule]:
    double, single = "double_blocks.*", "single_blocks.*"
    block, alone = "transformer_blocks.*", "single_transformer_blocks.*"
    rules = [
        _qkv(f"{double}.img_attn.qkv", f"{block}.attn"),
        _qkv(f"{double}.txt_attn.qkv", f"{block}.attn", _ADDED),
        Rule(f"{single}.linear1", (*(f"{alone}.attn.{name}" for name in ("to_q", "to_k", "to_v")), f"{alone}.proj_mlp"),
             "part", (1, 1, 1, 4)),
    ]  # fmt: skip
    return rules + _plain({
        "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
        f"{double}.img_mod.lin": f"{block}.norm1.linear", f"{double}.txt_mod.lin": f"{block}.norm1_context.linear",
        f"{double}.img_attn.norm.query_norm.scale": f"{block}.attn.norm_q.weight",
        f"{double}.img_attn.norm.key_norm.scale": f"{block}.attn.norm_k.weight",
        f"{double}.txt_attn.norm.query_norm.scale": f"{block}.attn.norm_added_q.weight",
        f"{double}.txt_attn.norm.key_norm.scale": f"{block}.attn.norm_added_k.weight",
        f"{double}.img_attn.proj": f"{block}.attn.to_out.0", f"{double}.txt_attn.proj": f"{block}.attn.to_add_out",
        f"{double}.img_mlp.0": f"{block}.ff.net.0.proj", f"{double}.img_mlp.2": f"{block}.ff.net.2",
        f"{double}.txt_mlp.0": f"{block}.ff_context.net.0.proj", f"{double}.txt_mlp.2": f"{block}.ff_context.net.2",
        f"{single}.modulation.lin": f"{alone}.norm.linear", f"{single}.linear2": f"{alone}.proj_out",
        f"{single}.norm.query_norm.scale": f"{alone}.attn.norm_q.weight",
        f"{single}.norm.key_norm.scale": f"{alone}.attn.norm_k.weight",
    })  # fmt: skip


def flux(config: Mapping[str, Any]) -> Layout:
    """Flux.1. The last modulation gives shift and scale there, scale and shift in diffusers."""
    rules = _flux_blocks() + [Rule("final_layer.adaLN_modulation.1", "norm_out.linear", "swap")]
    for theirs, ours in {"time_in": "timestep", "vector_in": "text", "guidance_in": "guidance"}.items():
        for a, b in {"in_layer": "linear_1", "out_layer": "linear_2"}.items():
            rules.append(Rule(f"{theirs}.{a}", f"time_text_embed.{ours}_embedder.{b}"))
    return Layout(tuple(rules))


def chroma(config: Mapping[str, Any]) -> Layout:
    """Chroma: Flux without modulation layers; one small network makes all of them."""
    guide = "distilled_guidance_layer"
    rules = _flux_blocks() + _plain({
        f"{guide}.in_proj": f"{guide}.in_proj", f"{guide}.out_proj": f"{guide}.out_proj",
        f"{guide}.layers.*.in_layer": f"{guide}.layers.*.linear_1",
        f"{guide}.layers.*.out_layer": f"{guide}.layers.*.linear_2",
        f"{guide}.norms.*.scale": f"{guide}.norms.*.weight",
    })  # fmt: skip
    return Layout(tuple(rules))


def sd3(config: Mapping[str, Any]) -> Layout:
    """Stable Diffusion 3 and 3.5. The last block's text half only gives keys and values."""
    rules = []
    for theirs, norm, more in (("x_block", "norm", ""), ("context_block", "norm_added", "_context")):
        side, block = f"joint_blocks.*.{theirs}", "transformer_blocks.*"
        rules += [
            _qkv(f"{side}.attn.qkv", f"{block}.attn", _ADDED if more else ("to_q", "to_k", "to_v")),
            *_plain({
                f"{side}.attn.proj": f"{block}.attn.to_add_out" if more else f"{block}.attn.to_out.0",
                f"{side}.attn.ln_q": f"{block}.attn.{norm}_q", f"{side}.attn.ln_k": f"{block}.attn.{norm}_k",
                f"{side}.adaLN_modulation.1": f"{block}.norm1{more}.linear",
                f"{side}.mlp.fc1": f"{block}.ff{more}.net.0.proj", f"{side}.mlp.fc2": f"{block}.ff{more}.net.2",
            }),
        ]  # fmt: skip
    second, block = "joint_blocks.*.x_block.attn2", "transformer_blocks.*.attn2"
    rules += [_qkv(f"{second}.qkv", block), *_plain({
        f"{second}.proj": f"{block}.to_out.0", f"{second}.ln_q": f"{block}.norm_q", f"{second}.ln_k": f"{block}.norm_k",
        "pos_embed": "pos_embed.pos_embed", "x_embedder.proj": "pos_embed.proj",
        "context_embedder": "context_embedder", "final_layer.linear": "proj_out",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    })]  # fmt: skip
    last = config["num_layers"] - 1
    rules += [
        Rule("final_layer.adaLN_modulation.1", "norm_out.linear", "swap"),
        Rule(f"joint_blocks.{last}.context_block.adaLN_modulation.1",
             f"transformer_blocks.{last}.norm1_context.linear", "swap"),
    ]  # fmt: skip
    return Layout(tuple(rules))


def wan(config: Mapping[str, Any]) -> Layout:
    """Wan 2.1 and 2.2. Its `norm3` is the one before cross-attention, diffusers' `norm2`."""
    names = {
        "patch_embedding": "patch_embedding", "head.modulation": "scale_shift_table", "head.head": "proj_out",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
        "blocks.*.modulation": "blocks.*.scale_shift_table", "blocks.*.norm3": "blocks.*.norm2",
        "blocks.*.ffn.0": "blocks.*.ffn.net.0.proj", "blocks.*.ffn.2": "blocks.*.ffn.net.2",
    }
    for theirs, ours in (("time_embedding", "time_embedder"), ("text_embedding", "text_embedder")):
        names[f"{theirs}.0"] = f"condition_embedder.{ours}.linear_1"
        names[f"{theirs}.2"] = f"condition_embedder.{ours}.linear_2"
    inner = {
        "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
        "k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k",
    }  # fmt: skip
    for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        names |= {f"blocks.*.{theirs}.{a}": f"blocks.*.{ours}.{b}" for a, b in inner.items()}
    return Layout(tuple(_plain(names)))


def ltx(config: Mapping[str, Any]) -> Layout:
    """LTX-Video's transformer."""
    names = {"patchify_proj": "proj_in", "adaln_single": "time_embed"}
    for attention in ("attn1", "attn2"):
        block = f"transformer_blocks.*.{attention}"
        names |= {f"{block}.q_norm": f"{block}.norm_q", f"{block}.k_norm": f"{block}.norm_k"}
    return Layout(tuple(_plain(names)), rest=True)


def z_image(config: Mapping[str, Any]) -> Layout:
    """Z-Image: one attention projection where diffusers has three, and ends named after the patch size."""
    patch = f"{config['all_patch_size'][0]}-{config['all_f_patch_size'][0]}"
    rules = _plain({"x_embedder": f"all_x_embedder.{patch}", "final_layer": f"all_final_layer.{patch}"})
    for stack in ("layers", "noise_refiner", "context_refiner"):
        place = f"{stack}.*.attention"
        rules += [_qkv(f"{place}.qkv", place), *_plain({
            f"{place}.out": f"{place}.to_out.0", f"{place}.q_norm": f"{place}.norm_q",
            f"{place}.k_norm": f"{place}.norm_k",
        })]  # fmt: skip
    return Layout(tuple(rules), rest=True, dropped=("norm_final",))
