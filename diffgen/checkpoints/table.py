"""The table by which weight files are recognised, read from `configs/kinds.txt`, and what stands around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "configs" / "kinds.txt"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network, or one kind of adapter.

    Attributes:
        name: of the kind, or of the part; the configuration under `configs/` has this name.
        role: "denoiser", "vae", "text", "vision", "control", "motion" or "embedding".
        marks: tensors it must have, without prefix, and their shapes; () for any shape, 0 for any size.
        lacks: tensors it must not have.
        layout: how its names are read, of `layouts.LAYOUTS`; None where diffgen only recognises it.
        also: other kinds with the same tensors.
    """

    name: str
    role: str
    title: str
    layout: str | None
    marks: Mapping[str, tuple[int, ...]]
    lacks: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@cache
def rows() -> tuple[Row, ...]:
    """The table, in its order."""
    found: list[Row] = []
    for block in _blocks(FILE.read_text(encoding="utf-8")):
        name, role, layout, title = block[0].split(None, 3)
        marks: dict[str, tuple[int, ...]] = {}
        lacks: list[str] = []
        also: list[str] = []
        for line in block[1:]:
            word, *rest = line.split()
            if word == "not":
                lacks += rest
            elif word == "also":
                also += rest
            else:
                marks[word] = tuple(0 if size == "?" else int(size) for size in rest)
        found.append(Row(name=name, role=role, title=title, layout=None if layout == "-" else layout, marks=marks,
                         lacks=tuple(lacks), also=tuple(also)))  # fmt: skip
    return tuple(found)


def _blocks(text: str) -> list[list[str]]:
    """The lines of each row, the one at the margin first."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return blocks


# Where a network's names begin inside a file that holds several; "" is a file of its own.
PREFIXES: dict[str, tuple[str, ...]] = {
    "denoiser": ("model.diffusion_model.", "", "diffusion_model.", "model."),
    "vae": ("first_stage_model.", "vae.", ""),
    "text": (
        "cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer.",
        "conditioner.embedders.0.model.", "conditioner.embedders.1.model.",
        *(f"text_encoders.{name}.transformer." for name in
          ("clip_l", "clip_g", "clip_h", "t5xxl", "umt5xxl", "gemma2_2b", "qwen3_4b", "qwen25_7b", "llama",
           "pile_t5xl")), "",
    ),
    "vision": ("", "clip_vision."),
    "control": ("",), "motion": ("",), "embedding": ("",), "lora": ("",),
}  # fmt: skip

# The ends of an adapter's names, and what each says of it.
ADAPTERS = {
    ".lora_down.weight": "kohya", ".lora_up.weight": "kohya", ".lora_A.weight": "peft", ".lora_B.weight": "peft",
    ".lora.down.weight": "diffusers", ".lora.up.weight": "diffusers", "_lora.down.weight": "diffusers (old)",
    "_lora.up.weight": "diffusers (old)", ".hada_w1_a": "LoHa", ".lokr_w1": "LoKr", ".lokr_w1_a": "LoKr",
    ".dora_scale": "DoRA", ".lora_A.default.weight": "peft",
}  # fmt: skip
# Pieces of an adapter's names, and the model it was trained for; the first that occurs is taken.
TRAINED_FOR = {
    "single_transformer_blocks": "Flux.1", "double_blocks": "Flux.1", "single_blocks": "Flux.1", "joint_blocks": "SD 3",
    "lora_te2_": "SDXL", "text_encoder_2": "SDXL", "input_blocks_8_1_transformer_blocks_9": "SDXL",
    "down_blocks_2_attentions_1_transformer_blocks_9": "SDXL", "self_attn": "Wan or another video model",
    "txt_mlp": "Qwen-Image", "noise_refiner": "Z-Image or Lumina 2", "lora_te_": "Stable Diffusion 1.x or 2.x",
    "lora_unet_": "a Stable Diffusion U-Net",
}  # fmt: skip
# By layout: a configuration's count of layers, and the names whose highest number plus one it is.
COUNTS: dict[str, dict[str, str]] = {
    "flux": {"num_layers": "double_blocks", "num_single_layers": "single_blocks"},
    "chroma": {"num_layers": "double_blocks", "num_single_layers": "single_blocks",
               "approximator_layers": "distilled_guidance_layer.layers"},
    "sd3": {"num_layers": "joint_blocks"}, "wan": {"num_layers": "blocks"}, "ltx": {"num_layers": "transformer_blocks"},
    "z-image": {"n_layers": "layers", "n_refiner_layers": "noise_refiner"},
    "hunyuan-video": {"num_layers": "double_blocks", "num_single_layers": "single_blocks"},
    "flux2": {"num_layers": "double_blocks", "num_single_layers": "single_blocks"},
    "auraflow": {"num_mmdit_layers": "double_layers", "num_single_dit_layers": "single_layers"},
    "lumina2": {"num_layers": "layers", "num_refiner_layers": "noise_refiner"}, "mochi": {"num_layers": "blocks"},
    "pixart": {"num_layers": "blocks"}, "sana": {"num_layers": "blocks"},
}  # fmt: skip
