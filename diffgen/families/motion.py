"""Motion modules: attention over time, put between the layers of a picture model's U-Net.

AnimateDiff, 2307.04725. A module stands behind each layer and sees the same place of every frame. They are kept apart
from the U-Net (diffusers' MotionAdapter), so one set serves every checkpoint of its family. They are put in with
hooks, not by rebuilding the U-Net: so any U-Net that diffusers can build can have them, and its names stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from diffgen.contracts import Components, Patch
from diffgen.errors import CheckpointError
from diffgen.wrappers import Windows, blend

FRAMES = "motion_frames"  # the U-Net's attribute that tells its motion modules how the batch is split


def insert(unet: Any, adapter: Any) -> Any:
    """The U-Net itself, with the adapter's modules in it under the names that diffusers' UNetMotionModel gives them.

    Args:
        unet: diffusers' UNet2DConditionModel. Its batch is then `frames` neighbouring rows a clip: see `frames_of`.
        adapter: diffusers' MotionAdapter.

    Raises:
        CheckpointError: the adapter was made for a U-Net of other widths or depths, or wants further channels.
    """
    check(unet, adapter)
    device, dtype = unet.device, unet.dtype
    pairs = [*zip(unet.down_blocks, adapter.down_blocks, strict=True),
             *zip(unet.up_blocks, adapter.up_blocks, strict=True)]  # fmt: skip
    if adapter.mid_block is not None:
        pairs.append((unet.mid_block, adapter.mid_block))
    setattr(unet, FRAMES, 1)
    for block, extra in pairs:
        block.motion_modules = extra.motion_modules.to(device, dtype)
        # Behind the attention where a layer has one; the middle block has one ResNet more than attentions.
        places = getattr(block, "attentions", None) or block.resnets
        for place, module in zip(places, block.motion_modules, strict=True):
            place.register_forward_hook(_hook(unet, module))
    return unet


def _hook(unet: Any, module: Any) -> Any:
    def after(_place: Any, _inputs: Any, output: Any) -> Any:
        frames = getattr(unet, FRAMES)
        if isinstance(output, tuple):
            return (module(output[0], num_frames=frames), *output[1:])
        return module(output, num_frames=frames)

    return after


@contextmanager
def frames_of(unet: Any, frames: int) -> Iterator[None]:
    """Inside, every `frames` neighbouring rows of the U-Net's batch are one clip. Outside, each row is one."""
    before = getattr(unet, FRAMES)
    setattr(unet, FRAMES, frames)
    try:
        yield
    finally:
        setattr(unet, FRAMES, before)


def check(unet: Any, adapter: Any) -> None:
    """Raises CheckpointError where the adapter's modules have no place in this U-Net."""
    ours, theirs = (_sizes(network.config.block_out_channels) for network in (unet, adapter))
    if ours != theirs:
        raise CheckpointError(
            f"this motion module is for a U-Net with levels of {theirs} channels; this one has {ours}: "
            "use the motion module of the checkpoint's own family"
        )
    blocks = [*unet.down_blocks, *unet.up_blocks]
    modules = [*adapter.down_blocks, *adapter.up_blocks]
    layers, wanted = ([len(b.resnets) for b in blocks], [len(m.motion_modules) for m in modules])
    if layers != wanted:
        raise CheckpointError(f"this motion module is for levels of {wanted} layers; this U-Net has {layers}")
    if adapter.config.conv_in_channels:
        raise CheckpointError(
            "this motion module wants a picture beside the latents (PIA), which diffgen does not give"
        )


def _sizes(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths))


def longest(unet: Any) -> int:
    """The most frames that the motion modules in this U-Net have positions for."""
    for module in unet.modules():
        if (table := getattr(getattr(module, "pos_embed", None), "pe", None)) is not None:
            return int(table.shape[1])
    raise CheckpointError("this U-Net has no motion modules")


def blocks(unet: Any) -> list[torch.nn.Module]:
    """Every transformer block of the motion modules, in the order of the network's names."""
    return [
        block
        for name, module in unet.named_modules()
        if name.split(".")[-2:-1] == ["motion_modules"]
        for block in module.transformer_blocks
    ]


def attention_windows(windows: Windows) -> Patch:
    """A patch under which the motion modules look at a window of frames at a time, as FreeNoise does (2310.15169).

    The rest of the network sees all frames once, so overlapping windows cost little. Positions begin anew in each.
    """

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        changed = blocks(components["denoiser"])
        for block in changed:
            block.forward = _sliding(block, windows)
        try:
            yield
        finally:
            for block in changed:
                del block.forward

    return patch


def _sliding(block: Any, windows: Windows) -> Any:
    def look(hidden: torch.Tensor, _frames: tuple[int, ...]) -> torch.Tensor:
        for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
            if attention is not None:
                seen = norm(hidden)
                hidden = hidden + attention(seen if block.pos_embed is None else block.pos_embed(seen))
        return hidden

    def forward(hidden_states: torch.Tensor, **_unused: Any) -> torch.Tensor:
        hidden = blend(hidden_states, windows, look, axis=1)
        out: torch.Tensor = block.ff(block.norm3(hidden)) + hidden
        return out

    return forward
