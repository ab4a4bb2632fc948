"""The box and its motion module in diffusers' AnimateDiffPipeline and in diffgen: the same frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    DPMSolverMultistepScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

import diffgen
import diffgen.assets
from diffgen.families.motion_unet import join
from diffgen.pipelines import text_to_video
from tests.parity.harness import Run, Variant, agree, mine, theirs

ASSETS = Path(next(iter(diffgen.assets.__path__)))


def pipeline() -> AnimateDiffPipeline:
    picture = StableDiffusionPipeline.from_pretrained(ASSETS / "box", torch_dtype=torch.float32)
    adapter = MotionAdapter.from_pretrained(ASSETS / "box-motion", torch_dtype=torch.float32)
    assert isinstance(picture.scheduler, DPMSolverMultistepScheduler)
    pipe = AnimateDiffPipeline(
        vae=picture.vae, text_encoder=picture.text_encoder, tokenizer=picture.tokenizer, scheduler=picture.scheduler,
        unet=join(picture.unet, adapter), motion_adapter=adapter,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def variant(steps: int) -> Variant:
    return Variant(
        family="The box", variant="with motion", make=lambda folder: folder, pipeline="AnimateDiffPipeline",
        task="text_to_video", scales=(1.0, 3.5), steps=steps, prompt="3d emoji of a waving hand", negative="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        (Run(guided=True, batch=1, size=(64, 64), frames=6), 5),
        (Run(guided=False, batch=2, size=(96, 64), frames=3), 3),
        pytest.param(Run(guided=True, batch=1, size=(128, 128), frames=16), 20, marks=pytest.mark.slow),
    ],
)
def test_diffusers_draws_the_same_clip_from_the_box(run: Run, steps: int) -> None:
    agree(mine(diffgen.load(motion="box"), variant(steps), run), theirs(pipeline(), variant(steps), run))


def test_a_joined_network_without_learned_motion_is_the_picture_model() -> None:
    """Its residual blocks scale and shift by time, and text is added to the time: diffusers alone refuses the first."""
    unet = UNet2DConditionModel.from_pretrained(ASSETS / "box" / "unet", torch_dtype=torch.float32)
    adapter = MotionAdapter.from_pretrained(ASSETS / "box-motion", torch_dtype=torch.float32)
    for name, weight in adapter.named_parameters():
        if "proj_out" in name and "ff." not in name:
            torch.nn.init.zeros_(weight)
    x, text, times = torch.randn(2, 8, 3, 8, 8), torch.randn(2, 24, 256), torch.tensor([5, 900])
    with torch.inference_mode():
        clip = join(unet, adapter)(x, times, text.repeat_interleave(3, 0)).sample
        for k in range(3):
            torch.testing.assert_close(clip[:, :, k], unet(x[:, :, k], times, text).sample, rtol=1e-4, atol=1e-4)


def test_the_motion_module_is_small_and_frames_differ_less_than_pictures_do() -> None:
    folder = ASSETS / "box-motion"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 15_000_000
    model = diffgen.load(motion="box")
    clip = text_to_video(model, "3d emoji of a dog face", seed=1, steps=6, guidance=1.0, frames=16)[0].pixels
    assert clip.shape == (16, 128, 128, 3) and clip.std() > 0.1
    between = abs(clip - clip[[*range(1, 16), 0]]).mean((1, 2, 3))
    assert between.min() > 1e-3, "every frame moves on, the last one to the first"
    assert between.max() < 0.1
