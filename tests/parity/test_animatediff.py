"""AnimateDiff against diffusers: its own walk and another one, and a motion adapter beside a picture model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, picture, theirs

PROMPT, NEGATIVE = "photo of a red apple", "blue house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.animatediff(tmp_path_factory.mktemp("animatediff"))


def reference(folder: Path, seeds: list[int], options: dict[str, Any], scheduler: Any = None) -> Any:
    return theirs(
        diffusers.AnimateDiffPipeline, folder, seeds, scheduler=scheduler, prompt=[PROMPT] * len(seeds),
        negative_prompt=[NEGATIVE] * len(seeds), width=options["size"][0], height=options["size"][1],
        num_frames=options["frames"], num_inference_steps=options["steps"], guidance_scale=options["guidance"],
    )  # fmt: skip


def mine(folder: Path, seeds: list[int], **options: Any) -> Any:
    common = dict(seed=seeds[0], count=len(seeds), batch=len(seeds), negative=NEGATIVE)
    return ours(text_to_video(diffgen.load(folder), PROMPT, **common, **options))


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize(("frames", "size"), [(8, (64, 48)), (5, (48, 64))])
def test_text_to_video(frames: int, size: tuple[int, int], guidance: float, folder: Path) -> None:
    options = dict(frames=frames, size=size, steps=4, guidance=guidance)
    agree(mine(folder, [3, 4], **options), reference(folder, [3, 4], options))


def test_another_walk(folder: Path) -> None:
    options = dict(frames=4, size=(64, 64), steps=5, guidance=7.5)
    walk = dict(sampler="euler", schedule="linspace", settings={"start": "sigma"})

    class Linspace:
        @staticmethod
        def from_config(config: Any) -> Any:
            return diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="linspace")

    agree(mine(folder, [9], **options, **walk), reference(folder, [9], options, Linspace))


def test_a_motion_adapter_beside_a_picture_model_draws_the_same(folder: Path, tmp_path: Path) -> None:
    apart = tiny_clips.animatediff(tmp_path, joined=False)
    options = dict(frames=4, size=(64, 64), steps=3, guidance=7.5)
    assert np.array_equal(mine(apart, [1], **options)[1], mine(folder, [1], **options)[1])


def test_more_frames_than_positions_are_drawn_in_windows(folder: Path) -> None:
    model = diffgen.load(folder)
    clip = text_to_video(model, PROMPT, frames=11, size=(64, 64), steps=2, seed=1)[0]
    assert clip.pixels.shape == (11, 64, 64, 3) and clip.recipe.settings["context"] == 8
    with pytest.raises(UsageError, match="a context of 9 frames is too long for animatediff; it sees 8 at most"):
        text_to_video(model, PROMPT, frames=11, size=(64, 64), settings={"context": 9})


def test_a_picture_is_held_by_the_loop_and_that_is_said(folder: Path) -> None:
    first = picture(64, 64)
    clip = image_to_video(diffgen.load(folder), first, PROMPT, frames=4, size=(64, 64), steps=2, seed=1)[0]
    assert any("1 frame is held by the loop" in note for note in clip.recipe.notes)
    kept = diffgen.load(folder).family.encode(torch.from_numpy(first).permute(2, 0, 1)[None, :, None] * 2 - 1)
    assert np.allclose(clip.latents[:, 0], kept[0, :, 0], atol=1e-4)
