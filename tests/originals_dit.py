"""Tiny files of the diffusion transformers in their authors' layouts; see `tests.originals`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.originals import State, clip, prefixed, save, vae, weights


def both(done: State, new: str, state: Mapping[str, Tensor], old: str) -> None:
    """Weight and bias of a layer, where there are any."""
    for end in ("weight", "bias"):
        if f"{old}.{end}" in state:
            done[f"{new}.{end}"] = state[f"{old}.{end}"]


def stacked(done: State, new: str, state: Mapping[str, Tensor], *old: str) -> None:
    for end in ("weight", "bias"):
        if f"{old[0]}.{end}" in state:
            done[f"{new}.{end}"] = torch.cat([state[f"{name}.{end}"] for name in old])


def turned(value: Tensor) -> Tensor:
    """Scale and shift change places."""
    first, second = value.chunk(2)
    return torch.cat([second, first])


def flux(state: State, *, chroma: bool = False) -> State:
    done: State = {}
    for new, old in {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}.items():
        both(done, new, state, old)
    if chroma:
        guide = "distilled_guidance_layer"
        for key, value in state.items():
            if key.startswith(guide):
                new = key.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
                done[re.sub(r"norms\.(\d)\.weight", r"norms.\1.scale", new)] = value
    else:
        for new, old in {"time_in": "timestep", "vector_in": "text", "guidance_in": "guidance"}.items():
            both(done, f"{new}.in_layer", state, f"time_text_embed.{old}_embedder.linear_1")
            both(done, f"{new}.out_layer", state, f"time_text_embed.{old}_embedder.linear_2")
        for end in ("weight", "bias"):
            done[f"final_layer.adaLN_modulation.1.{end}"] = turned(state[f"norm_out.linear.{end}"])
    for k in range(9):
        old, new = f"transformer_blocks.{k}", f"double_blocks.{k}"
        for side, mlp, mod, qkv, out, norms in (
            ("img", "ff", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", ("norm_q", "norm_k")),
            ("txt", "ff_context", "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out",
             ("norm_added_q", "norm_added_k")),
        ):  # fmt: skip
            stacked(done, f"{new}.{side}_attn.qkv", state, *(f"{old}.attn.{name}" for name in qkv))
            both(done, f"{new}.{side}_attn.proj", state, f"{old}.attn.{out}")
            both(done, f"{new}.{side}_mod.lin", state, f"{old}.{mod}.linear")
            both(done, f"{new}.{side}_mlp.0", state, f"{old}.{mlp}.net.0.proj")
            both(done, f"{new}.{side}_mlp.2", state, f"{old}.{mlp}.net.2")
            for name, norm in zip(("query", "key"), norms, strict=True):
                if f"{old}.attn.{norm}.weight" in state:
                    done[f"{new}.{side}_attn.norm.{name}_norm.scale"] = state[f"{old}.attn.{norm}.weight"]
        old, new = f"single_transformer_blocks.{k}", f"single_blocks.{k}"
        stacked(done, f"{new}.linear1", state, *(f"{old}.attn.to_{x}" for x in "qkv"), f"{old}.proj_mlp")
        both(done, f"{new}.linear2", state, f"{old}.proj_out")
        both(done, f"{new}.modulation.lin", state, f"{old}.norm.linear")
        for name, norm in (("query", "norm_q"), ("key", "norm_k")):
            if f"{old}.attn.{norm}.weight" in state:
                done[f"{new}.norm.{name}_norm.scale"] = state[f"{old}.attn.{norm}.weight"]
    assert sum(v.numel() for v in done.values()) == sum(v.numel() for v in state.values())
    return done


def sd3(state: State) -> State:
    done: State = {"pos_embed": state["pos_embed.pos_embed"]}
    for new, old in {
        "x_embedder.proj": "pos_embed.proj", "context_embedder": "context_embedder", "final_layer.linear": "proj_out",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    }.items():  # fmt: skip
        both(done, new, state, old)
    layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("transformer_blocks."))
    for end in ("weight", "bias"):
        done[f"final_layer.adaLN_modulation.1.{end}"] = turned(state[f"norm_out.linear.{end}"])
    for k in range(layers):
        old, new = f"transformer_blocks.{k}", f"joint_blocks.{k}"
        stacked(done, f"{new}.x_block.attn.qkv", state, *(f"{old}.attn.to_{x}" for x in "qkv"))
        stacked(done, f"{new}.context_block.attn.qkv", state, *(f"{old}.attn.add_{x}_proj" for x in "qkv"))
        both(done, f"{new}.x_block.attn.proj", state, f"{old}.attn.to_out.0")
        both(done, f"{new}.context_block.attn.proj", state, f"{old}.attn.to_add_out")
        both(done, f"{new}.x_block.adaLN_modulation.1", state, f"{old}.norm1.linear")
        for end in ("weight", "bias"):
            value = state[f"{old}.norm1_context.linear.{end}"]
            done[f"{new}.context_block.adaLN_modulation.1.{end}"] = turned(value) if k == layers - 1 else value
        for side, ff in (("x_block", "ff"), ("context_block", "ff_context")):
            both(done, f"{new}.{side}.mlp.fc1", state, f"{old}.{ff}.net.0.proj")
            both(done, f"{new}.{side}.mlp.fc2", state, f"{old}.{ff}.net.2")
    assert sum(v.numel() for v in done.values()) == sum(v.numel() for v in state.values())
    return done


def wan(state: State) -> State:
    done = {}
    for key, value in state.items():
        new = "head.modulation" if key == "scale_shift_table" else key.replace("scale_shift_table", "modulation")
        new = new.replace("proj_out.", "head.head.").replace("norm2.", "norm3.") if "embedder" not in new else new
        new = new.replace("attn1", "self_attn").replace("attn2", "cross_attn").replace("to_out.0", "o")
        new = re.sub(r"\.to_([qkv])\.", r".\1.", new).replace("add_k_proj", "k_img").replace("add_v_proj", "v_img")
        new = new.replace("norm_added_k", "norm_k_img").replace("blocks.0.ffn.net.0.proj", "blocks.0.ffn.0")
        new = re.sub(r"(blocks\.\d+\.ffn)\.net\.0\.proj", r"\1.0", new)
        new = re.sub(r"(blocks\.\d+\.ffn)\.net\.2", r"\1.2", new)
        new = new.replace("condition_embedder.time_proj", "time_projection.1")
        for old, name in {"time": "time_embedding", "text": "text_embedding"}.items():
            new = new.replace(f"condition_embedder.{old}_embedder.linear_1", f"{name}.0")
            new = new.replace(f"condition_embedder.{old}_embedder.linear_2", f"{name}.2")
        for old, number in {"norm1": 0, "ff.net.0.proj": 1, "ff.net.2": 3, "norm2": 4}.items():
            new = new.replace(f"condition_embedder.image_embedder.{old}", f"img_emb.proj.{number}")
        done[new] = value
    assert not any("embedder" in key for key in done)
    return done


_RES = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
        "conv_shortcut": "shortcut"}  # fmt: skip


def wan_vae(state: State, layers: int = 1) -> State:
    """The flat autoencoder of Wan 2.1, with `layers` residual blocks a level."""
    done, step = {}, layers + 2
    for key, value in state.items():
        new = {"quant_conv": "conv1", "post_quant_conv": "conv2"}.get(key.split(".")[0], "")
        new = new + key[key.index(".") :] if new else key
        new = new.replace("conv_in.", "conv1.").replace("conv_out.", "head.2.").replace("norm_out.", "head.0.")
        new = new.replace("mid_block.attentions.0", "middle.1").replace("mid_block.resnets.0", "middle.0")
        new = new.replace("mid_block.resnets.1", "middle.2").replace("encoder.down_blocks", "encoder.downsamples")
        new = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{int(m[1]) * step + int(m[2])}", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{(int(m[1]) + 1) * step - 1}", new)
        if "middle" in new or "samples" in new:
            for old, name in _RES.items():
                new = new.replace(f".{old}.", f".{name}.")
        done[new] = value
    return done


def ltx(state: State) -> State:
    return {
        key.replace("proj_in.", "patchify_proj.").replace("time_embed.", "adaln_single.")
        .replace("norm_q", "q_norm").replace("norm_k", "k_norm"): value
        for key, value in state.items()
    }  # fmt: skip


_LTX_DOWN = {"0": 0, "0.downsamplers.0": 1, "0.conv_out": 2, "1": 3, "1.downsamplers.0": 4, "1.conv_out": 5, "2": 6,
             "2.downsamplers.0": 7, "3": 8}  # fmt: skip
_LTX_UP = {"0": 1, "1.upsamplers.0": 2, "1": 3, "2.conv_in": 4, "2.upsamplers.0": 5, "2": 6, "3.conv_in": 7,
           "3.upsamplers.0": 8, "3": 9}  # fmt: skip


def ltx_vae(state: State) -> State:
    """The autoencoder of version 0.9.0, whose blocks are one numbered sequence."""
    done = {}
    for key, value in state.items():
        new = {"latents_mean": "per_channel_statistics.mean-of-means",
               "latents_std": "per_channel_statistics.std-of-means"}.get(key, key)  # fmt: skip
        new = new.replace("encoder.mid_block", "encoder.down_blocks.9").replace("decoder.mid_block", "decoder.up_blocks.0")
        for side, table in (("encoder.down_blocks", _LTX_DOWN), ("decoder.up_blocks", _LTX_UP)):
            if new == key and new.startswith(side):
                rest = new[len(side) + 1 :]
                old = max((name for name in table if rest.startswith(name + ".")), key=len)
                new = f"{side}.{table[old]}{rest[len(old) :]}"
        done[new.replace(".resnets.", ".res_blocks.").replace("conv_shortcut.conv", "conv_shortcut")] = value
    return done


def z_image(state: State) -> State:
    done: State = {}
    for key, value in state.items():
        place, found, rest = key.partition(".attention.")
        if found and rest.startswith("to_"):
            if rest == "to_q.weight":
                stacked(done, f"{place}.attention.qkv", state, *(f"{place}.attention.to_{x}" for x in "qkv"))
            elif rest.startswith("to_out"):
                done[f"{place}.attention.out.weight"] = value
            continue
        new = key.replace("all_x_embedder.2-1.", "x_embedder.").replace("all_final_layer.2-1.", "final_layer.")
        done[new.replace("norm_q", "q_norm").replace("norm_k", "k_norm")] = value
    return done


def apart(folder: Path, out: Path, kind: str) -> dict[str, Path]:
    """A model as ComfyUI's users hold it: the denoiser, the autoencoder and the text encoders in a file each."""
    maps = {"flux": flux, "chroma": lambda s: flux(s, chroma=True), "sd3": sd3, "wan": wan, "ltx": ltx, "z": z_image}
    vaes = {"wan": wan_vae, "ltx": ltx_vae}
    files = {
        "denoiser": save(out / "denoiser.safetensors", maps[kind](weights(folder, "transformer"))),
        "vae": save(out / "vae.safetensors", vaes.get(kind, vae)(weights(folder, "vae"))),
    }
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if (folder / name).is_dir():
            state = weights(folder, name)
            if kind == "z":
                state = prefixed("model.", state)
            elif any("self_attn" in key for key in state):
                state = clip(state)
            files[name] = save(out / f"{name}.safetensors", state)
    return files


def joined(files: Mapping[str, Path], out: Path) -> Path:
    """All of a model in one file, under the prefixes that ComfyUI writes."""
    from safetensors.torch import load_file

    prefixes = {"denoiser": "model.diffusion_model.", "vae": "vae."}
    states = []
    for name, file in files.items():
        state = load_file(file)
        encoder = "t5xxl" if "shared.weight" in state else "qwen3_4b" if "model.norm.weight" in state else "clip_l"
        if name == "text_encoder_2" and encoder == "clip_l":
            encoder = "clip_g"
        states.append(prefixed(prefixes.get(name, f"text_encoders.{encoder}.transformer."), state))
    return save(out, *states)
