"""Stable Diffusion's U-Net (SD 1.x, 2.x, XL) as CompVis's latent-diffusion names it: numbered inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffgen.checkpoints.keys import Layout, Rule

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip


def unet(config: Mapping[str, Any]) -> Layout:
    """The layout of a UNet2DConditionModel with this configuration."""
    layers = config["layers_per_block"]
    down, up = config["down_block_types"], config["up_block_types"]
    rules = [Rule(theirs, ours) for theirs, ours in _ENDS.items()]
    label = "add_embedding" if config.get("addition_embed_type") else "class_embedding"
    rules += [Rule("label_emb.0.0", f"{label}.linear_1"), Rule("label_emb.0.2", f"{label}.linear_2")]
    index = 1
    for block, kind in enumerate(down):
        for layer in range(layers):
            rules += _resnet(f"input_blocks.{index}.0", f"down_blocks.{block}.resnets.{layer}")
            if "CrossAttn" in kind:
                rules.append(Rule(f"input_blocks.{index}.1", f"down_blocks.{block}.attentions.{layer}"))
            index += 1
        if block < len(down) - 1:
            rules.append(Rule(f"input_blocks.{index}.0.op", f"down_blocks.{block}.downsamplers.0.conv"))
            index += 1
    rules += _resnet("middle_block.0", "mid_block.resnets.0") + _resnet("middle_block.2", "mid_block.resnets.1")
    rules.append(Rule("middle_block.1", "mid_block.attentions.0"))
    index = 0
    for block, kind in enumerate(up):
        for layer in range(layers + 1):
            rules += _resnet(f"output_blocks.{index}.0", f"up_blocks.{block}.resnets.{layer}")
            place = 1
            if "CrossAttn" in kind:
                rules.append(Rule(f"output_blocks.{index}.1", f"up_blocks.{block}.attentions.{layer}"))
                place = 2
            if layer == layers and block < len(up) - 1:
                rules.append(Rule(f"output_blocks.{index}.{place}.conv", f"up_blocks.{block}.upsamplers.0.conv"))
            index += 1
    return Layout(tuple(rules))


def _resnet(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _RESNET.items()]
