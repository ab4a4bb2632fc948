"""Diffusion transformers as their authors and ComfyUI name them, from the table of layers that LoRAs are read by too.

What a table of layers cannot say is said here: parameters of another name, halves that changed places in one block
only, and rows that are not shared out evenly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffgen.checkpoints.keys import Layout, Rule
from diffgen.naming.lines import Line, lines
from diffgen.naming.tables import LAYOUTS

Config = Mapping[str, Any]
_TEXT_NORM = "transformer_blocks.*.norm1_context"


def rules_of(network: str, *, norms: str = "", stacks: Iterable[str] = ()) -> list[Rule]:
    """The rules for a network's class, out of its lines in the table.

    Args:
        norms: what the original calls the weight of its query and key norms, where it is not "weight".
        stacks: what the first `*` of lines that begin with two stands for.
    """
    rules = []
    for line in lines(LAYOUTS[network]):
        for one in _stacked(line, stacks):
            rules.append(_rule(one))
            if norms and one.original.endswith("_norm"):
                rules.append(Rule(f"{one.original}.{norms}", f"{one.ours[0]}.weight"))
    return rules


def _stacked(line: Line, stacks: Iterable[str]) -> Iterable[Line]:
    if not line.original.startswith("*."):
        return [line]
    return [
        Line(original=stack + line.original[1:], ours=tuple(stack + name[1:] for name in line.ours),
             shares=line.shares, swap=line.swap)
        for stack in stacks
    ]  # fmt: skip


def _rule(line: Line) -> Rule:
    # Behind a name everything is carried over anyway.
    theirs, ours = line.original.removesuffix(".**"), tuple(name.removesuffix(".**") for name in line.ours)
    if len(ours) > 1:
        return Rule(theirs, ours, "part", line.shares)
    return Rule(theirs, ours[0], "swap" if line.swap == "swap" else "same")


def flux(config: Config) -> Layout:
    """Flux.1. The last modulation gives shift and scale there, scale and shift in diffusers."""
    return Layout(tuple(rules_of("FluxTransformer2DModel", norms="scale")))


def chroma(config: Config) -> Layout:
    """Chroma: Flux without modulation layers; one small network makes all of them."""
    guide = "distilled_guidance_layer"
    rules = [rule for rule in rules_of("ChromaTransformer2DModel", norms="scale") if "norm_out" not in rule.ours]
    own = [Rule(f"{guide}.{name}", f"{guide}.{name}") for name in ("in_proj", "out_proj")]
    return Layout((*rules, *own, Rule(f"{guide}.norms.*.scale", f"{guide}.norms.*.weight")))


def flux2(config: Config) -> Layout:
    """Flux.2 and Klein."""
    return Layout(tuple(rules_of("Flux2Transformer2DModel", norms="scale")))


def hunyuan_video(config: Config) -> Layout:
    """HunyuanVideo, in its authors' names or in ComfyUI's; written in the authors'."""
    rules = rules_of("HunyuanVideoTransformer3DModel", norms="scale")
    own = [rule for rule in rules if rule.theirs.endswith(("q_norm", "k_norm"))]
    return Layout((*(Rule(f"{rule.theirs}.weight", f"{rule.ours}.weight") for rule in own), *rules))


def sd3(config: Config) -> Layout:
    """Stable Diffusion 3 and 3.5. The last block's text half only gives keys and values."""
    last = config["num_layers"] - 1
    theirs, ours = f"joint_blocks.{last}.context_block.adaLN_modulation.1", f"transformer_blocks.{last}.norm1_context"
    plain = [Rule("pos_embed", "pos_embed.pos_embed"), Rule("context_embedder", "context_embedder")]
    return Layout((*rules_of("SD3Transformer2DModel"), *plain, Rule(theirs, f"{ours}.linear", "swap")))


def wan(config: Config) -> Layout:
    """Wan 2.1 and 2.2. Its `norm3` is the one before cross-attention, diffusers' `norm2`."""
    return Layout((*rules_of("WanTransformer3DModel"), Rule("patch_embedding", "patch_embedding")))


def ltx(config: Config) -> Layout:
    """LTX-Video's transformer."""
    return Layout(tuple(rules_of("LTXVideoTransformer3DModel")), rest=True)


def mochi(config: Config) -> Layout:
    """Mochi. The last block's text half gives keys and values alone."""
    last = config["num_layers"] - 1
    # In the table this name stands beside the usual one; only the last block has it.
    rules = [rule for rule in rules_of("MochiTransformer3DModel") if rule.ours != f"{_TEXT_NORM}.linear_1"]
    end = Rule(f"blocks.{last}.mod_y", f"{_TEXT_NORM}.linear_1".replace("*", str(last)))
    return Layout((*rules, end), rest=True)


def auraflow(config: Config) -> Layout:
    """AuraFlow."""
    return Layout(tuple(rules_of("AuraFlowTransformer2DModel")), rest=True)


def lumina2(config: Config) -> Layout:
    """Lumina 2. Queries have more heads than keys and values; the refiner of the text has a norm without a scale."""
    heads, few = config["num_attention_heads"], config["num_kv_heads"] or config["num_attention_heads"]
    rules = []
    for rule in rules_of("Lumina2Transformer2DModel", stacks=("layers", "noise_refiner", "context_refiner")):
        plain, text = str(rule.ours).endswith(".norm1"), rule.theirs.startswith("context_refiner")
        if rule.how == "part":
            rules.append(Rule(rule.theirs, rule.ours, "part", (heads // few, 1, 1)))
        elif not rule.theirs.endswith("attention_norm1") or plain == text:
            rules.append(rule)
    return Layout(tuple(rules), rest=True)


def z_image(config: Config) -> Layout:
    """Z-Image: one attention projection where diffusers has three, and ends named after the patch size."""
    patch = f"{config['all_patch_size'][0]}-{config['all_f_patch_size'][0]}"
    rules = rules_of("ZImageTransformer2DModel", stacks=("layers", "noise_refiner", "context_refiner"))
    ends = [Rule("x_embedder", f"all_x_embedder.{patch}"), Rule("final_layer", f"all_final_layer.{patch}")]
    return Layout((*rules, *ends), rest=True, dropped=("norm_final",))


def pixart(config: Config) -> Layout:
    """PixArt. What stands for an empty caption, and the places of the patches, are made or never read."""
    return Layout(tuple(rules_of("PixArtTransformer2DModel")), dropped=("pos_embed", "y_embedder.y_embedding"))


def sana(config: Config) -> Layout:
    """Sana."""
    return Layout(tuple(rules_of("SanaTransformer2DModel")), dropped=("pos_embed", "y_embedder.y_embedding"))
