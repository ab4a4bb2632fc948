"""A picture U-Net and motion modules as one UNetMotionModel, with every kind of residual block.

`UNetMotionModel.from_unet2d` knows only residual blocks that add the time embedding. It fails on blocks that scale
and shift by it, and it drops a text embedding that is added to it, without a word. Here the picture U-Net's own
layers take the places of those that diffusers would have built, so what they are does not matter.
"""

from __future__ import annotations

from typing import Any

from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

ENDS = ("conv_in", "time_proj", "time_embedding", "conv_norm_out", "conv_act", "conv_out")
LAYERS = ("resnets", "attentions", "downsamplers", "upsamplers")


class TimeAndText(nn.Module):
    """The embedding of time with the one of text added. Takes the place of a UNetMotionModel's `time_embedding`.

    Args:
        time: the U-Net's own TimestepEmbedding.
    """

    def __init__(self, time: nn.Module) -> None:
        super().__init__()
        self.time = time

    def forward(self, sample: Tensor, text: Tensor | None = None) -> Tensor:
        """[batch, width] from projected times [batch, width / 4] and, if any, the text's embedding [batch, width]."""
        embedded: Tensor = self.time(sample)
        return embedded if text is None else embedded + text


def join(unet: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """The clip network of `unet` with the motion modules of `adapter`. It shares the layers of both.

    With untrained motion modules it computes for each frame what `unet` does. A U-Net that adds a text embedding to
    the time is given the mean over a clip's frames, where those have texts of their own.

    Args:
        adapter: as many levels and layers as `unet`, widths alike.

    Raises:
        ValueError: the two have not the same number of levels or layers.
    """
    model = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
    for name in ENDS:
        setattr(model, name, getattr(unet, name))
    for block, picture, motion in zip(_blocks(model), _blocks(unet), _blocks(adapter), strict=True):
        for name in LAYERS:
            if getattr(block, name, None) is not None:
                setattr(block, name, getattr(picture, name))
        if motion is not None:
            block.motion_modules = motion.motion_modules
    if unet.config["addition_embed_type"] == "text":
        model.time_embedding = TimeAndText(unet.time_embedding)
        model.add_embedding = unet.add_embedding
        model.register_forward_pre_hook(_embed_text, with_kwargs=True)
    return model


def _blocks(model: Any) -> list[Any]:
    return [*model.down_blocks, model.mid_block, *model.up_blocks]


def _embed_text(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Puts the text's embedding where the network takes conditions of time."""
    given = {**dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)), **kwargs}
    sample, text = given["sample"], model.add_embedding(given["encoder_hidden_states"])
    return args, {**kwargs, "timestep_cond": text.unflatten(0, (len(sample), sample.shape[2])).mean(1)}
