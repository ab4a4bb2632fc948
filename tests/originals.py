"""Tiny files in the original layouts, made from diffusers folders by maps of their own.

Nothing here is shared with `diffgen.checkpoints.layouts`: the names are written out for the tiny networks of
`tests.tiny*`, so that a mistake there cannot hide behind the same mistake here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]


def weights(folder: Path, component: str) -> State:
    return load_file(next((folder / component).glob("*.safetensors")))


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: value for key, value in state.items()}


def save(file: Path, *states: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    joined = {key: value.contiguous().clone() for state in states for key, value in state.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(joined, file, metadata=metadata)
    return file


def renamed(state: Mapping[str, Tensor], pairs: Iterable[tuple[str, str]]) -> State:
    """Each key through the first pair (prefix, new prefix) that fits; all must."""
    done = {}
    for key, value in state.items():
        old, new = next((old, new) for old, new in pairs if key.startswith(old))
        done[new + key[len(old) :]] = value
    return done


RES = [("norm1.", "in_layers.0."), ("conv1.", "in_layers.2."), ("time_emb_proj.", "emb_layers.1."),
       ("norm2.", "out_layers.0."), ("conv2.", "out_layers.3."), ("conv_shortcut.", "skip_connection.")]  # fmt: skip
# The tiny U-Net: a plain block, then one with attention, one layer each.
UNET = [
    ("down_blocks.0.resnets.0.", "input_blocks.1.0."), ("down_blocks.0.downsamplers.0.conv.", "input_blocks.2.0.op."),
    ("down_blocks.1.resnets.0.", "input_blocks.3.0."), ("down_blocks.1.attentions.0.", "input_blocks.3.1."),
    ("mid_block.resnets.0.", "middle_block.0."), ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
    ("up_blocks.0.resnets.0.", "output_blocks.0.0."), ("up_blocks.0.attentions.0.", "output_blocks.0.1."),
    ("up_blocks.0.resnets.1.", "output_blocks.1.0."), ("up_blocks.0.attentions.1.", "output_blocks.1.1."),
    ("up_blocks.0.upsamplers.0.conv.", "output_blocks.1.2.conv."),
    ("up_blocks.1.resnets.0.", "output_blocks.2.0."), ("up_blocks.1.resnets.1.", "output_blocks.3.0."),
    ("conv_in.", "input_blocks.0.0."), ("conv_norm_out.", "out.0."), ("conv_out.", "out.2."),
    ("time_embedding.linear_1.", "time_embed.0."), ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."), ("add_embedding.linear_2.", "label_emb.0.2."),
]  # fmt: skip


def unet(state: State) -> State:
    pairs = []
    for ours, theirs in UNET:
        if ".resnets." in ours:
            pairs += [(ours + a, theirs + b) for a, b in RES]
        else:
            pairs.append((ours, theirs))
    return renamed(state, pairs)


def vae(state: State, blocks: int = 4) -> State:
    done = {}
    for key, value in state.items():
        new = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample.", new)
        if "mid_block.attentions.0" in new:
            for a, b in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
                new = new.replace(f"mid_block.attentions.0.{a}.", f"mid.attn_1.{b}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        done[new] = value
    return done


def clip(state: State) -> State:
    """transformers' names, as they were before version 5.6."""
    return {key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": value
            for key, value in state.items()}  # fmt: skip


def open_clip(state: State) -> State:
    bare = {key.removeprefix("text_model."): value for key, value in state.items()}
    layers = 1 + max(int(key.split(".")[2]) for key in bare if key.startswith("encoder.layers."))
    done = {
        "token_embedding.weight": bare["embeddings.token_embedding.weight"],
        "positional_embedding": bare["embeddings.position_embedding.weight"],
        "ln_final.weight": bare["final_layer_norm.weight"], "ln_final.bias": bare["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }  # fmt: skip
    if "text_projection.weight" in bare:
        done["text_projection"] = bare["text_projection.weight"].T
    for k in range(layers):
        old, new = f"encoder.layers.{k}.", f"transformer.resblocks.{k}."
        for end in ("weight", "bias"):
            done[f"{new}attn.in_proj_{end}"] = torch.cat([bare[f"{old}self_attn.{x}_proj.{end}"] for x in "qkv"])
            done[f"{new}attn.out_proj.{end}"] = bare[f"{old}self_attn.out_proj.{end}"]
            done[f"{new}ln_1.{end}"] = bare[f"{old}layer_norm1.{end}"]
            done[f"{new}ln_2.{end}"] = bare[f"{old}layer_norm2.{end}"]
            done[f"{new}mlp.c_fc.{end}"] = bare[f"{old}mlp.fc1.{end}"]
            done[f"{new}mlp.c_proj.{end}"] = bare[f"{old}mlp.fc2.{end}"]
    return done


def stable_diffusion(folder: Path, file: Path) -> Path:
    """SD 1.x: everything in one file, with the left-overs that such files have."""
    return save(
        file, prefixed("model.diffusion_model.", unet(weights(folder, "unet"))),
        prefixed("first_stage_model.", vae(weights(folder, "vae"))),
        prefixed("cond_stage_model.transformer.", clip(weights(folder, "text_encoder"))),
        {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(1),
         "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]},
    )  # fmt: skip


def stable_diffusion_2(folder: Path, file: Path, metadata: dict[str, str] | None = None) -> Path:
    text = open_clip(weights(folder, "text_encoder"))
    # Published files hold one more layer than is used.
    last = 1 + max(int(key.split(".")[2]) for key in text if "resblocks" in key)
    more = {key.replace(".0.", f".{last}.", 1): value for key, value in text.items() if ".resblocks.0." in key}
    return save(
        file, prefixed("model.diffusion_model.", unet(weights(folder, "unet"))),
        prefixed("first_stage_model.", vae(weights(folder, "vae"))),
        prefixed("cond_stage_model.model.", {**text, **more}), metadata=metadata,
    )  # fmt: skip


def sdxl(folder: Path, file: Path, *, refiner: bool = False) -> Path:
    second = open_clip(weights(folder, "text_encoder_2"))
    first = {} if refiner else prefixed("conditioner.embedders.0.transformer.", clip(weights(folder, "text_encoder")))
    return save(
        file, prefixed("model.diffusion_model.", unet(weights(folder, "unet"))), first,
        prefixed("first_stage_model.", vae(weights(folder, "vae"))),
        prefixed(f"conditioner.embedders.{0 if refiner else 1}.model.", second),
    )  # fmt: skip
