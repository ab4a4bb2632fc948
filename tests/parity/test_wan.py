"""Wan against diffusers: text to video, two experts, and both forms of image to video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from PIL import Image

import diffgen
from diffgen.errors import UnsupportedError, UsageError
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, picture, theirs

PROMPT, NEGATIVE = "photo of a red apple &amp; a  cat", "blue house"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = ["2.1", "2.2", "2.1-i2v", "2.2-i2v", "5b"]
    return {kind: tiny_clips.wan(tmp_path_factory.mktemp("wan"), kind=kind) for kind in kinds}


def compare(folder: Path, seeds: list[int], image: np.ndarray | None = None, **options: Any) -> None:
    size, steps, guidance, frames = (options[key] for key in ("size", "steps", "guidance", "frames"))
    call = dict(
        prompt=[PROMPT] * len(seeds), negative_prompt=[NEGATIVE] * len(seeds), width=size[0], height=size[1],
        num_frames=frames, num_inference_steps=steps, guidance_scale=guidance,
    )  # fmt: skip
    common = dict(seed=seeds[0], count=len(seeds), batch=len(seeds), negative=NEGATIVE, **options)
    model = diffgen.load(folder)
    if image is None:
        mine = ours(text_to_video(model, PROMPT, **common))
        agree(mine, theirs(diffusers.WanPipeline, folder, seeds, **call))
        return
    mine = ours(image_to_video(model, image, PROMPT, **common))
    call["image"] = Image.fromarray((image * 255).round().astype(np.uint8))
    want = theirs(diffusers.WanImageToVideoPipeline, folder, seeds, **call)
    if model.family.token_times:
        # diffusers lets the first frame drift through the loop and puts it back after the last step.
        mine, want = (mine[0][:, :, 1:], mine[1]), (want[0][:, :, 1:], want[1])
    agree(mine, want)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize(("kind", "frames", "size"), [("2.1", 9, (64, 48)), ("2.1", 5, (32, 64)), ("2.2", 5, (48, 32))])
def test_text_to_video(
    kind: str, frames: int, size: tuple[int, int], guidance: float, folders: dict[str, Path]
) -> None:
    compare(folders[kind], [3, 4], frames=frames, size=size, steps=6, guidance=guidance)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize(("kind", "frames"), [("2.1-i2v", 9), ("2.2-i2v", 5)])
def test_image_to_video_with_the_picture_beside_the_latents(
    kind: str, frames: int, guidance: float, folders: dict[str, Path]
) -> None:
    compare(folders[kind], [7, 8], picture(48, 32), frames=frames, size=(48, 32), steps=4, guidance=guidance)


def test_the_5b_model_makes_clips_of_text(folders: dict[str, Path]) -> None:
    compare(folders["5b"], [1], frames=5, size=(64, 32), steps=4, guidance=5.0)


@pytest.mark.parametrize(("frames", "guidance"), [(5, 1.0), (9, 5.0)])
def test_the_5b_model_holds_the_first_frame(frames: int, guidance: float, folders: dict[str, Path]) -> None:
    compare(folders["5b"], [1, 2], picture(64, 32), frames=frames, size=(64, 32), steps=4, guidance=guidance)


def test_frames_and_sizes_that_cannot_be_drawn_name_the_nearest(folders: dict[str, Path]) -> None:
    model = diffgen.load(folders["2.1"])
    with pytest.raises(UsageError, match=r"10 frames .* 9 or 13"):
        text_to_video(model, PROMPT, frames=10, size=(32, 32))
    with pytest.raises(UsageError, match="multiples of 16, such as 48x32"):
        text_to_video(model, PROMPT, frames=5, size=(50, 32))
    with pytest.raises(UnsupportedError, match="wan cannot do keyframes"):
        image_to_video(model, {0: picture(32, 32), -1: picture(32, 32)}, PROMPT, frames=5, size=(32, 32))


def test_a_clip_alone_equals_the_clip_in_a_batch_and_carries_its_recipe(folders: dict[str, Path]) -> None:
    model = diffgen.load(folders["2.1"])
    options = dict(frames=5, size=(32, 32), steps=3)
    together = text_to_video(model, PROMPT, seed=5, count=2, batch=2, **options)
    alone = text_to_video(model, PROMPT, seed=6, **options)[0]
    assert np.abs(together[1].pixels - alone.pixels).max() < 1e-5
    assert alone.pixels.shape == (5, 32, 32, 3) and alone.pixels.dtype == np.float32
    assert (alone.recipe.frames, alone.recipe.fps, alone.recipe.task) == (5, 16.0, "text_to_video")
