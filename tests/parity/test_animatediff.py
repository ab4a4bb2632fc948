"""AnimateDiff against diffusers: its own walk and another one, and a motion adapter beside a picture model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

import diffgen
from diffgen.errors import UnsupportedError, UsageError
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


def test_what_it_cannot_draw_is_named(folder: Path) -> None:
    model = diffgen.load(folder)
    with pytest.raises(UsageError, match="9 frames cannot be drawn; animatediff draws 1 to 8"):
        text_to_video(model, PROMPT, frames=9, size=(64, 64))
    with pytest.raises(UnsupportedError, match="animatediff cannot do image_to_video"):
        image_to_video(model, picture(64, 64), PROMPT, frames=4, size=(64, 64))
