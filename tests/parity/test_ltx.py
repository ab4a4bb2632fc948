"""LTX-Video against diffusers: text to video, and image to video with the first frame held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import diffgen
from diffgen.errors import UsageError
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, picture, theirs

PROMPT, NEGATIVE = "photo of a red apple", "blue house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.ltx(tmp_path_factory.mktemp("ltx"))


def compare(folder: Path, seeds: list[int], image: np.ndarray | None = None, **options: Any) -> None:
    (width, height), frames = options["size"], options["frames"]
    call = dict(
        prompt=[PROMPT] * len(seeds), negative_prompt=[NEGATIVE] * len(seeds), width=width, height=height,
        num_frames=frames, num_inference_steps=options["steps"], guidance_scale=options["guidance"],
        frame_rate=options["fps"],
    )  # fmt: skip

    def unpack(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.transpose(1, 2).unflatten(2, ((frames - 1) // 8 + 1, height // 32, width // 32))

    common = dict(seed=seeds[0], count=len(seeds), batch=len(seeds), negative=NEGATIVE, **options)
    model = diffgen.load(folder)
    if image is None:
        mine = ours(text_to_video(model, PROMPT, **common))
        agree(mine, theirs(diffusers.LTXPipeline, folder, seeds, unpack=unpack, **call))
        return
    mine = ours(image_to_video(model, image, PROMPT, **common))
    levels = Image.fromarray((image * 255).round().astype(np.uint8))
    call["image"] = [levels] * len(seeds)
    agree(mine, theirs(diffusers.LTXImageToVideoPipeline, folder, seeds, unpack=unpack, **call))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(("frames", "size", "fps"), [(9, (64, 96), 25), (17, (96, 64), 8)])
def test_text_to_video(frames: int, size: tuple[int, int], fps: int, guidance: float, folder: Path) -> None:
    compare(folder, [3, 4], frames=frames, size=size, steps=4, guidance=guidance, fps=fps)


@pytest.mark.parametrize(("frames", "guidance"), [(9, 1.0), (17, 3.0)])
def test_image_to_video_holds_the_first_frame(frames: int, guidance: float, folder: Path) -> None:
    compare(folder, [5, 6, 7], picture(96, 64), frames=frames, size=(96, 64), steps=4, guidance=guidance, fps=25)


def test_an_autoencoder_that_is_told_a_time(tmp_path: Path) -> None:
    compare(tiny_clips.ltx(tmp_path, timed=True), [1], frames=9, size=(64, 64), steps=3, guidance=3.0, fps=25)


def test_frames_that_cannot_be_drawn_name_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"16 frames .* 9 or 17"):
        text_to_video(diffgen.load(folder), PROMPT, frames=16, size=(64, 64))
