"""Motion modules: from a single file in their authors' layout, and where they have no place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import save_file

from diffgen.checkpoints.motion import read_motion
from diffgen.errors import CheckpointError

CPU = torch.device("cpu")


def adapter() -> Any:
    torch.manual_seed(0)
    return MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=1, motion_max_seq_length=24).eval()


def original(name: str) -> str:
    """AnimateDiff's own name for one of diffusers'."""
    head, block, rest = name.partition(".transformer_blocks.")
    module, dot, tail = head.rpartition("motion_modules.")
    number, _, inner = tail.partition(".")
    place = f"{module}{dot}{number}.temporal_transformer" + (f".{inner}" if inner else "")
    for ours, theirs in ((".attn1.", ".attention_blocks.0."), (".attn2.", ".attention_blocks.1."),
                         (".norm1.", ".norms.0."), (".norm2.", ".norms.1."), (".norm3.", ".ff_norm.")):  # fmt: skip
        rest = rest.replace(ours, theirs)
    return place + block + rest.replace("pos_embed.pe", "attention_blocks.0.pos_encoder.pe")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_in_the_authors_layout_is_the_adapter(prefix: str, tmp_path: Path) -> None:
    want, file = adapter(), tmp_path / "mm_sd_v15_v2.safetensors"
    save_file({prefix + original(name): value.clone() for name, value in want.state_dict().items()}, file)
    found = read_motion(file, torch.float32, CPU)
    assert found.config.motion_max_seq_length == 24 and found.config.use_motion_mid_block
    for name, value in want.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="holds no motion modules"):
        read_motion(tmp_path / "lora.safetensors", torch.float32, CPU)
    want = {original(name): value.clone() for name, value in adapter().state_dict().items()}
    want.pop("down_blocks.1.motion_modules.0.temporal_transformer.proj_in.weight")
    save_file(want, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"proj_in\.weight is missing"):
        read_motion(tmp_path / "cut.safetensors", torch.float32, CPU)


def test_a_module_of_another_family_has_no_place() -> None:
    from diffusers import UNet2DConditionModel

    from diffgen.families.motion import insert

    unet = UNet2DConditionModel(
        block_out_channels=(32, 96), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="levels of 32, 64 channels; this one has 32, 96"):
        insert(unet, adapter())
