"""The clip families: a row for each variant, in the order of the issue's list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from diffusers.schedulers import scheduling_dpm_cogvideox
from torch import Tensor

from tests import tiny_clips
from tests.parity.harness import Run, Variant, picture, pil, without


def begins(run: Run) -> Mapping[int, Tensor]:
    """The first frame."""
    return {0: picture(*run.size)}


def ends(run: Run) -> Mapping[int, Tensor]:
    """The first and the last frame."""
    return {**begins(run), (run.frames or 1) - 1: picture(*run.size, seed=1)}


def one(pipe: Any, run: Run) -> Mapping[str, Any]:
    return {"image": pil(begins(run)[0])}


def two(pipe: Any, run: Run) -> Mapping[str, Any]:
    return {"image": pil(begins(run)[0]), "last_image": pil(picture(*run.size, seed=1))}


def each(pipe: Any, run: Run) -> Mapping[str, Any]:
    return {"image": [pil(begins(run)[0])] * run.batch}


def turned(latents: Tensor, run: Run) -> Tensor:
    """[n, frames, channels, h, w] as latents."""
    return latents.transpose(1, 2)


def ltx_cells(tokens: Tensor, run: Run) -> Tensor:
    """LTX's tokens [n, frames * h * w, c] as latents."""
    frames = ((run.frames or 1) - 1) // 8 + 1
    return tokens.transpose(1, 2).unflatten(2, (frames, run.size[1] // 32, run.size[0] // 32))


@contextmanager
def noise_drawn_once() -> Iterator[None]:
    """From its second step on, CogVideoX's stochastic scheduler draws noise for a result that it throws away."""
    draw, calls = scheduling_dpm_cogvideox.randn_tensor, [0]

    def once(shape: Any, generator: Any = None, **options: Any) -> Tensor:
        calls[0] += 1
        # First one draw a step, then two: the first of the two is for nothing.
        if calls[0] > 1 and calls[0] % 2 == 0:
            return torch.zeros(shape)
        return draw(shape, generator=generator, **options)

    with patch.object(scheduling_dpm_cogvideox, "randn_tensor", once):
        yield


WAN = dict(
    family="Wan", task="text_to_video", pipeline="WanPipeline", frames=(5, 9), sizes=((48, 32), (32, 64)),
    prompt="photo of a red apple &amp; a  cat",
)  # fmt: skip
WAN_I2V = dict(WAN, task="image_to_video", pipeline="WanImageToVideoPipeline", image=begins, call=one)
LTX = dict(
    family="LTX-Video", task="text_to_video", pipeline="LTXPipeline", frames=(9, 17), sizes=((64, 96), (96, 64)),
    scales=(1.0, 3.0), unpack=ltx_cells, options={"fps": 12}, call={"frame_rate": 12},
)  # fmt: skip
LTX_I2V = dict(
    LTX, task="image_to_video", pipeline="LTXImageToVideoPipeline", image=begins,
    call=lambda pipe, run: {**each(pipe, run), "frame_rate": 12},
)  # fmt: skip
COG = dict(
    family="CogVideoX", task="text_to_video", pipeline="CogVideoXPipeline", frames=(9, 17),
    sizes=((48, 32), (32, 64)), scales=(1.0, 6.0), unpack=turned,
)  # fmt: skip
COG_I2V = dict(
    COG, task="image_to_video", pipeline="CogVideoXImageToVideoPipeline", image=begins, call=each,
    # Version 1.5's table of positions ends at 64 x 48.
    sizes=((48, 32), (32, 48)),
)  # fmt: skip
MOCHI = dict(
    family="Mochi", task="text_to_video", pipeline="MochiPipeline", frames=(7, 13), sizes=((64, 48), (32, 64)),
    scales=(1.0, 4.5), steps=5,
)  # fmt: skip

CLIPS: tuple[Variant, ...] = (
    Variant(
        family="AnimateDiff", variant="SD 1.5", make=tiny_clips.animatediff, pipeline="AnimateDiffPipeline",
        task="text_to_video", frames=(8, 5), scales=(1.0, 7.5),
    ),
    Variant(
        family="Stable Video Diffusion", variant="", make=tiny_clips.svd, pipeline="StableVideoDiffusionPipeline",
        task="image_to_video", frames=(4, 3), scales=(1.0, 3.0), scale="max_guidance_scale", unpack=turned,
        image=begins, options={"fps": 12},
        call=lambda pipe, run: {**each(pipe, run), "fps": 12, **without("prompt", "negative_prompt")},
    ),
    Variant(
        family="Stable Video Diffusion", variant="much motion and noise", make=tiny_clips.svd, image=begins,
        pipeline="StableVideoDiffusionPipeline", task="image_to_video", frames=(4, 3), scales=(2.0, 4.0),
        scale="max_guidance_scale", unpack=turned,
        options={"settings": {"motion": 200, "noise_augmentation": 0.3, "guidance_first": 1.5}},
        call=lambda pipe, run: {
            **each(pipe, run), "motion_bucket_id": 200, "noise_aug_strength": 0.3, "min_guidance_scale": 1.5,
            **without("prompt", "negative_prompt"),
        },
    ),
    Variant(variant="2.1 text", make=tiny_clips.wan, **WAN),
    Variant(variant="2.2 text, two experts", make=partial(tiny_clips.wan, kind="2.2"), steps=6, **WAN),
    Variant(
        variant="2.2 text, a scale for each expert", make=partial(tiny_clips.wan, kind="2.2"),
        **{**WAN, "steps": 6, "scales": (3.0, 5.0), "options": {"settings": {"guidance_2": 2.0}}, "call": {"guidance_scale_2": 2.0}},
    ),
    Variant(variant="2.2 5B text", make=partial(tiny_clips.wan, kind="5b"), **{**WAN, "sizes": ((64, 32), (32, 96))}),
    Variant(variant="2.1 image", make=partial(tiny_clips.wan, kind="2.1-i2v"), **WAN_I2V),
    Variant(variant="2.2 image, two experts", make=partial(tiny_clips.wan, kind="2.2-i2v"), steps=6, **WAN_I2V),
    Variant(
        variant="2.1 first and last frame", make=partial(tiny_clips.wan, kind="2.1-flf"),
        **{**WAN_I2V, "image": ends, "call": two},
    ),
    Variant(
        variant="2.2 first and last frame, two experts", make=partial(tiny_clips.wan, kind="2.2-i2v"),
        **{**WAN_I2V, "image": ends, "call": two, "steps": 6},
    ),
    # diffusers lets the first frame drift through the loop and puts it back behind the last step.
    Variant(
        variant="2.2 5B image", make=partial(tiny_clips.wan, kind="5b"), twice=True,
        **{**WAN_I2V, "sizes": ((64, 32), (32, 96))},
    ),
    Variant(variant="text", make=tiny_clips.ltx, **LTX),
    Variant(variant="text, autoencoder told a time", make=partial(tiny_clips.ltx, timed=True), **LTX),
    Variant(variant="image", make=tiny_clips.ltx, **LTX_I2V),
    Variant(variant="2B text", make=tiny_clips.cogvideox, **{**COG, "sizes": ((64, 48), (64, 48)), "frames": (9, 9)}),
    Variant(variant="5B text", make=partial(tiny_clips.cogvideox, kind="5b"), **COG),
    Variant(variant="1.5 text", make=partial(tiny_clips.cogvideox, kind="1.5"), **{**COG, "sizes": COG_I2V["sizes"]}),
    Variant(variant="5B image", make=partial(tiny_clips.cogvideox, kind="5b-i2v"), **COG_I2V),
    Variant(variant="1.5 image", make=partial(tiny_clips.cogvideox, kind="1.5-i2v"), **COG_I2V),
    Variant(
        variant="5B text, stochastic", make=partial(tiny_clips.cogvideox, kind="5b", scheduler="CogVideoXDPMScheduler"),
        around=noise_drawn_once, **{**COG, "options": {"settings": {"noise": "fresh"}}},
    ),
    Variant(
        variant="5B text, scale that changes", make=partial(tiny_clips.cogvideox, kind="5b"),
        **{**COG, "options": {"settings": {"guidance_dynamic": True}}, "call": {"use_dynamic_cfg": True}},
    ),
    Variant(
        family="HunyuanVideo", variant="text", make=tiny_clips.hunyuan_video, pipeline="HunyuanVideoPipeline",
        task="text_to_video", frames=(5, 9), scales=(1.0, 6.0), true_cfg=4.0,
    ),
    Variant(
        family="HunyuanVideo", variant="SkyReels image", make=partial(tiny_clips.hunyuan_video, from_picture=True),
        pipeline="HunyuanSkyreelsImageToVideoPipeline", task="image_to_video", image=begins, frames=(5, 9),
        scales=(1.0, 3.0), true_cfg=4.0, options={"settings": {"true_cfg": 1.0}},
        call=lambda pipe, run: {**each(pipe, run), **({} if run.guided else {"true_cfg_scale": 1.0})},
    ),
    Variant(variant="empty negative is no text", make=tiny_clips.mochi, negative="", **MOCHI),
    Variant(variant="empty negative is text", make=partial(tiny_clips.mochi, blank=False), negative="", **MOCHI),
    Variant(variant="negative prompt", make=tiny_clips.mochi, **MOCHI),
)  # fmt: skip
