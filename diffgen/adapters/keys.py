"""The keys of a LoRA file, in every layout that tools write: which layer of which network, and what the tensor is.

| layout | a key |
|---|---|
| diffusers, peft | `unet.up_blocks.0.attentions.0.proj_in.lora_A.weight`, `transformer. ...`, `text_encoder_2. ...` |
| diffusers before peft | `unet.mid_block ... attn1.processor.to_q_lora.up.weight`, `... lora_linear_layer.up.weight` |
| kohya | `lora_unet_down_blocks_0_ ... to_q.lora_down.weight`, `lora_te1_text_model_ ...`, `... .alpha` |
| ComfyUI, the authors | `diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight`, or without the prefix |
| lycoris | the layer as in kohya's, then `hada_w1_a`, `lokr_w2`, `lora_mid.weight`, `dora_scale`, `diff` ... |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# What stands behind the layer's name -> what the tensor is. `{}` is filled from the group in brackets.
_ROLES = [
    (r"[._]lora(?:_linear_layer)?[._](down|up|mid)\.weight", "{}"),
    (r"\.lora_A(?:\.[\w-]+)?\.weight()", "down"),
    (r"\.lora_B(?:\.[\w-]+)?\.weight()", "up"),
    (r"\.lora_B(?:\.[\w-]+)?\.bias()", "bias"),
    (r"\.lora_magnitude_vector(?:\.[\w-]+)??(?:\.weight)?()", "magnitude"),
    (r"\.(alpha|dora_scale|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff|diff_b)", "{}"),
    (r"\.w_norm()", "diff"),
    (r"\.b_norm()", "diff_b"),
]
_KEY = [(re.compile(rf"(?P<layer>.+?){suffix}"), role) for suffix, role in _ROLES]

DENOISERS = ("denoiser", "denoiser_2")
_T5 = ("text_encoder_3", "text_encoder_2", "text_encoder")
# What stands before the layer's name -> the networks it may mean, and whether dots became "_". The first that fits.
_PREFIXES: list[tuple[str, tuple[str, ...], bool]] = [
    ("lora_unet_", DENOISERS, True),
    ("lora_transformer_", DENOISERS, True),
    ("lycoris_", DENOISERS, True),
    ("lora_te1_", ("text_encoder",), True),
    ("lora_te2_", ("text_encoder_2",), True),
    ("lora_te3_", _T5, True),
    ("lora_te_", ("text_encoder",), True),
    ("text_encoders.clip_l.transformer.", ("text_encoder",), False),
    ("text_encoders.clip_g.transformer.", ("text_encoder_2",), False),
    ("text_encoders.t5xxl.transformer.", _T5, False),
    ("clip_l.transformer.", ("text_encoder",), False),
    ("clip_g.transformer.", ("text_encoder_2",), False),
    ("t5xxl.transformer.", _T5, False),
    ("text_encoder.", ("text_encoder",), False),
    ("text_encoder_2.", ("text_encoder_2",), False),
    ("text_encoder_3.", ("text_encoder_3",), False),
    # diffusers names the two denoisers of Wan 2.2 apart; the other layouts do not, and mean both.
    ("transformer_2.", ("denoiser_2",), False),
    ("transformer.", ("denoiser",), False),
    ("unet.", ("denoiser",), False),
    ("model.diffusion_model.", DENOISERS, False),
    ("diffusion_model.", DENOISERS, False),
    ("module.", ("denoiser",), False),  # AnimateDiff's own motion LoRAs
    ("", DENOISERS, False),
]
# A layer is complete with one of these, and may have the rest.
_COMPLETE = (
    {"up", "down"}, {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, {"diff"}, {"diff_b"}, {"lokr_w1", "lokr_w2"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2"}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Group:
    """The tensors of one layer of a file.

    Attributes:
        layer: its name in the file's words, without the prefix.
        networks: components it may belong to. A denoiser's layer belongs to every one of them, a text
            encoder's to the first that has it.
        flat: whether the name has "_" for dots.
        keys: what a tensor is -> its key in the file.
        alpha: the alpha over rank that the file states for this layer in its metadata, or None.
    """

    layer: str
    networks: tuple[str, ...]
    flat: bool
    keys: Mapping[str, str] = field(default_factory=dict)
    alpha: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the tensors make a change."""
        return any(needed <= set(self.keys) for needed in _COMPLETE)


def groups_of(keys: Iterable[str], texts: Mapping[str, str]) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The layers of a LoRA file, and the keys that belong to none.

    Args:
        texts: the file's metadata; diffusers writes the ranks and alphas of peft there.
    """
    found: dict[str, dict[str, str]] = {}
    strange = []
    for key in keys:
        layer, role = _role_of(key)
        if role and role not in found.get(layer, {}):
            found.setdefault(layer, {})[role] = key
        else:
            strange.append(key)
    stated = _stated(texts)
    groups = []
    for layer, roles in found.items():
        prefix, networks, flat = next(entry for entry in _PREFIXES if layer.startswith(entry[0]))
        name = layer.removeprefix(prefix)
        if not flat:
            name = name.removeprefix("base_model.model.").replace(".processor.", ".")
        groups.append(
            Group(layer=name, networks=networks, flat=flat, keys=roles, alpha=_alpha(stated, prefix.rstrip("."), name))
        )
    return tuple(groups), tuple(strange)


def _role_of(key: str) -> tuple[str, str]:
    """(layer, role) of a key; the role is "" where it is none of ours."""
    # The change of Wan's modulation tables, which are parameters without a module.
    key = re.sub(r"\.diff_m$", ".modulation.diff", key)
    for pattern, role in _KEY:
        found = pattern.fullmatch(key)
        if found:
            return found["layer"], role.format(found[2])
    return key, ""


def _stated(texts: Mapping[str, str]) -> Mapping[str, Any]:
    """The table that diffusers and peft write about a LoRA's ranks; empty where there is none."""
    try:
        found = json.loads(texts.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}  # another tool's text under that key, which says nothing about alphas
    return found if isinstance(found, dict) else {}


def _alpha(stated: Mapping[str, Any], prefix: str, layer: str) -> float | None:
    """alpha / rank (or / its root, "rslora") as stated; patterns name a layer by its end, as in peft."""
    own = {key.removeprefix(f"{prefix}."): value for key, value in stated.items() if key.startswith(f"{prefix}.")}
    own = own or {key: value for key, value in stated.items() if "." not in key}

    def pick(name: str, table: str) -> Any:
        for pattern, value in (own.get(table) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        return own.get(name)

    alpha, rank = pick("lora_alpha", "alpha_pattern"), pick("r", "rank_pattern")
    if not isinstance(alpha, (int, float)) or not isinstance(rank, int) or rank < 1:
        return None
    return float(alpha) / (rank**0.5 if own.get("use_rslora") else rank)
