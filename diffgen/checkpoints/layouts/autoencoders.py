"""Autoencoders: latent diffusion's own (SD, SDXL, SD 3, Flux, Z-Image) and Wan's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffgen.checkpoints.keys import Layout, Rule

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# How diffusers named them before version 0.17; folders published then still do.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def kl(config: Mapping[str, Any]) -> Layout:
    """The layout of an AutoencoderKL. Its attention is written as 1 x 1 convolutions, and linear in diffusers."""
    blocks = len(config["block_out_channels"])
    rules = []
    for side in ("encoder", "decoder"):
        rules += [
            Rule(f"{side}.norm_out", f"{side}.conv_norm_out"),
            Rule(f"{side}.mid.attn_1.norm", f"{side}.mid_block.attentions.0.group_norm"),
            *(Rule(f"{side}.mid.attn_1.{a}", f"{side}.mid_block.attentions.0.{b}", "flatten")
              for a, b in _ATTENTION.items()),
            *_resnets(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0"),
            *_resnets(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1"),
        ]  # fmt: skip
    for block in range(blocks):
        rules += _resnets(f"encoder.down.{block}.block.*", f"encoder.down_blocks.{block}.resnets.*")
        rules.append(Rule(f"encoder.down.{block}.downsample.conv", f"encoder.down_blocks.{block}.downsamplers.0.conv"))
        # The original counts the decoder's blocks from the picture, diffusers from the latents.
        back = blocks - 1 - block
        rules += _resnets(f"decoder.up.{block}.block.*", f"decoder.up_blocks.{back}.resnets.*")
        rules.append(Rule(f"decoder.up.{block}.upsample.conv", f"decoder.up_blocks.{back}.upsamplers.0.conv"))
    return Layout(tuple(rules), rest=True, dropped=("loss", "model_ema"))


def _resnets(theirs: str, ours: str) -> list[Rule]:
    return [Rule(theirs, ours), Rule(f"{theirs}.nin_shortcut", f"{ours}.conv_shortcut")]


def old_attention() -> Layout:
    """From diffusers' old names of an AutoencoderKL's attention to the present ones."""
    return Layout(
        tuple(
            Rule(f"{side}.mid_block.attentions.0.{a}", f"{side}.mid_block.attentions.0.{b}", "flatten")
            for side in ("encoder", "decoder")
            for a, b in OLD_ATTENTION.items()
        ),
        rest=True,
    )


_WAN_RESIDUAL = {
    "residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}  # fmt: skip


def wan_vae(config: Mapping[str, Any]) -> Layout:
    """The layout of an AutoencoderKLWan: the flat one of Wan 2.1, or the nested one of 2.2's 5B model."""
    rules = [
        Rule("conv1", "quant_conv"), Rule("conv2", "post_quant_conv"),
        Rule("encoder.conv1", "encoder.conv_in"), Rule("decoder.conv1", "decoder.conv_in"),
    ]  # fmt: skip
    for side in ("encoder", "decoder"):
        rules += [Rule(f"{side}.head.0", f"{side}.norm_out"), Rule(f"{side}.head.2", f"{side}.conv_out")]
        rules += _wan_residual(f"{side}.middle.0", f"{side}.mid_block.resnets.0")
        rules += _wan_residual(f"{side}.middle.2", f"{side}.mid_block.resnets.1")
        rules.append(Rule(f"{side}.middle.1", f"{side}.mid_block.attentions.0"))
    blocks, layers = len(config["dim_mult"]), config["num_res_blocks"]
    if config.get("is_residual"):
        for block in range(blocks):
            down, up = f"encoder.downsamples.{block}.downsamples", f"decoder.upsamples.{block}.upsamples"
            for layer in range(layers):
                rules += _wan_residual(f"{down}.{layer}", f"encoder.down_blocks.{block}.resnets.{layer}")
            rules.append(Rule(f"{down}.{layers}", f"encoder.down_blocks.{block}.downsampler"))
            for layer in range(layers + 1):
                rules += _wan_residual(f"{up}.{layer}", f"decoder.up_blocks.{block}.resnets.{layer}")
            rules.append(Rule(f"{up}.{layers + 1}", f"decoder.up_blocks.{block}.upsampler"))
        return Layout(tuple(rules))
    rules += _wan_residual("encoder.downsamples.*", "encoder.down_blocks.*")
    rules.append(Rule("encoder.downsamples", "encoder.down_blocks"))
    index = 0
    for block in range(blocks):
        for layer in range(layers + 1):
            rules += _wan_residual(f"decoder.upsamples.{index}", f"decoder.up_blocks.{block}.resnets.{layer}")
            index += 1
        if block < blocks - 1:
            rules.append(Rule(f"decoder.upsamples.{index}", f"decoder.up_blocks.{block}.upsamplers.0"))
            index += 1
    return Layout(tuple(rules))


def _wan_residual(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _WAN_RESIDUAL.items()]
