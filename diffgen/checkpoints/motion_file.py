"""Motion modules in a single file, in AnimateDiff's own layout or in diffusers' without a configuration.

What the file does not say, it is known by: widths and depths by its tensors, the positions by the length of their
table. Heads (8) and groups of the normalisation (32) are those of every module its authors published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.tensors import Weights, open_source
from diffgen.errors import CheckpointError

# Pieces of the authors' names, and diffusers' for them.
RENAMED = {
    ".temporal_transformer.": ".", ".norms.0.": ".norm1.", ".norms.1.": ".norm2.", ".ff_norm.": ".norm3.",
    ".attention_blocks.0.": ".attn1.", ".attention_blocks.1.": ".attn2.",
}  # fmt: skip
TABLES = (".pos_encoder.pe", ".pos_embed.pe")  # of positions: made by the network itself, held by some files
LENGTH = 32  # of the table, where the file has none


def read_motion_file(path: Path, dtype: torch.dtype, device: torch.device, *, allow_pickle: bool = False) -> Any:
    """diffusers' MotionAdapter from a single file.

    Raises:
        CheckpointError: it is damaged, a pickle that was not allowed, or holds no motion modules.
    """
    from diffusers import MotionAdapter

    weights = Weights.plain([open_source(path, allow_pickle=allow_pickle)])
    names = {_name(key): key for key in weights if "motion_modules." in key}
    if not names:
        raise CheckpointError(f"{path} holds no motion modules; give AnimateDiff's, or a folder of a MotionAdapter")
    adapter = MotionAdapter(**config_of(weights, names))
    own = adapter.state_dict()
    kept = {name: key for name, key in names.items() if not name.endswith(TABLES)}
    missing = sorted(name for name in own if name not in kept and not name.endswith(TABLES))
    strange = sorted(set(kept) - set(own))
    if missing or strange:
        one = f"{missing[0]} is missing" if missing else f"{strange[0]} has no place"
        raise CheckpointError(f"{path} is no motion module that diffgen knows: {one}")
    wrong = next((name for name, key in kept.items() if weights.shape(key) != tuple(own[name].shape)), None)
    if wrong is not None:
        shapes = weights.shape(kept[wrong]), tuple(own[wrong].shape)
        raise CheckpointError(f"{path}: {kept[wrong]} has shape {shapes[0]}; this kind has {shapes[1]}")
    state = {name: weights.get(key, torch.float32, torch.device("cpu")) for name, key in kept.items()}
    adapter.load_state_dict(state, strict=False)
    return adapter.requires_grad_(False).eval().to(device, dtype)


def _name(key: str) -> str:
    name = key.removeprefix("module.").removeprefix("unet.")
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def config_of(weights: Weights, names: dict[str, str]) -> dict[str, Any]:
    """What MotionAdapter is made with, read from the tensors under diffusers' `names`."""

    def count(prefix: str) -> int:
        found = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
        return len(found)

    levels = range(count("down_blocks."))
    table = next((weights.shape(key)[1] for key in names.values() if key.endswith(TABLES)), LENGTH)
    blocks = "down_blocks.0.motion_modules.0.transformer_blocks."
    return {
        "block_out_channels": tuple(
            weights.shape(names[f"down_blocks.{k}.motion_modules.0.norm.weight"])[0] for k in levels
        ),
        "motion_layers_per_block": tuple(count(f"down_blocks.{k}.motion_modules.") for k in levels),
        "motion_transformer_layers_per_block": max(count(blocks), 1),
        "motion_max_seq_length": table,
        "use_motion_mid_block": count("mid_block.motion_modules.") > 0,
    }
