"""Text encoders: OpenCLIP's own naming (SD 2.x, SDXL's second). CLIP, T5 and the chat models keep their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffgen.checkpoints.keys import Layout, Rule

_BLOCK, _LAYER = "transformer.resblocks.*", "encoder.layers.*"
_QKV = tuple(f"{_LAYER}.self_attn.{name}_proj" for name in "qkv")


def open_clip(config: Mapping[str, Any]) -> Layout:
    """The layout of OpenCLIP's text tower. Names of transformers' CLIP stand without their "text_model." """
    names = {
        "token_embedding": "embeddings.token_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm",
        f"{_BLOCK}.ln_1": f"{_LAYER}.layer_norm1",
        f"{_BLOCK}.ln_2": f"{_LAYER}.layer_norm2",
        f"{_BLOCK}.mlp.c_fc": f"{_LAYER}.mlp.fc1",
        f"{_BLOCK}.mlp.c_proj": f"{_LAYER}.mlp.fc2",
        f"{_BLOCK}.attn.out_proj": f"{_LAYER}.self_attn.out_proj",
    }
    rules = [Rule(theirs, ours) for theirs, ours in names.items()]
    for kind in ("weight", "bias"):
        ours = tuple(f"{name}.{kind}" for name in _QKV)
        rules.append(Rule(f"{_BLOCK}.attn.in_proj_{kind}", ours, "part", (1, 1, 1)))
    rules.append(Rule("text_projection", "text_projection.weight", "transpose"))
    # SD 2.x reads the layer before the last, so its configuration ends there.
    unused = tuple(f"transformer.resblocks.{k}" for k in range(config["num_hidden_layers"], 64))
    return Layout(tuple(rules), dropped=("logit_scale", "attn_mask", *unused))


def same(config: Mapping[str, Any]) -> Layout:
    """A network whose file has its own names. What loaders before us left in it is of no use to it."""
    return Layout(rest=True, dropped=("spiece_model", "logit_scale", "lm_head", "position_ids"))


def qwen_vl(config: Mapping[str, Any]) -> Layout:
    """Qwen 2.5 VL as it was published: transformers has since put both halves below "model."."""
    return Layout((Rule("visual", "model.visual"), Rule("model", "model.language_model"), Rule("lm_head", "lm_head")))
