"""Stable Video Diffusion against diffusers. Its sigma reaches 700, where rounding alone moves a clip by 6.5e-5."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as reference
from PIL import Image

import diffgen
from diffgen.errors import UnsupportedError
from diffgen.families.svd import shrunk
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, picture, theirs

TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.svd(tmp_path_factory.mktemp("svd"))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(("frames", "size", "fps"), [(4, (64, 48), 7), (3, (48, 80), 12)])
def test_image_to_video(frames: int, size: tuple[int, int], fps: int, guidance: float, folder: Path) -> None:
    image, seeds = picture(*size), [3, 4]
    mine = image_to_video(
        diffgen.load(folder), image, seed=3, count=2, batch=2, frames=frames, size=size, steps=4, guidance=guidance,
        fps=fps,
    )  # fmt: skip
    want = theirs(
        diffusers.StableVideoDiffusionPipeline, folder, seeds, unpack=lambda latents: latents.transpose(1, 2),
        image=[Image.fromarray((image * 255).round().astype(np.uint8))] * 2, width=size[0], height=size[1],
        num_frames=frames, num_inference_steps=4, max_guidance_scale=guidance, fps=fps,
    )  # fmt: skip
    agree(ours(mine), want, TOLERANCE)
    assert mine[0].recipe.notes == ()


@pytest.mark.parametrize("size", [(64, 48), (300, 225), (1024, 576)])
def test_the_picture_clip_sees_is_the_references(size: tuple[int, int]) -> None:
    image = torch.from_numpy(picture(*size)).permute(2, 0, 1)[None]
    want = reference._resize_with_antialiasing(image, (224, 224))
    assert (shrunk(image, 224) - want).abs().max() < 1e-5


def test_words_are_not_read_and_that_is_said(folder: Path) -> None:
    model = diffgen.load(folder)
    clip = image_to_video(model, picture(32, 32), "a red cat", frames=2, size=(32, 32), steps=2)[0]
    assert any("reads no words" in note for note in clip.recipe.notes)
    with pytest.raises(UnsupportedError, match="cannot do text_to_video"):
        text_to_video(model, "a red cat", frames=2, size=(32, 32))
