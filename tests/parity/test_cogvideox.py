"""CogVideoX against diffusers: versions 1 and 1.5, text and image to video, both of its samplers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpm_cogvideox
from PIL import Image

import diffgen
from diffgen.errors import UsageError
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, picture, theirs

PROMPT, NEGATIVE = "photo of a red apple", "blue house"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = ["2b", "5b", "5b-i2v", "1.5", "1.5-i2v"]
    return {kind: tiny_clips.cogvideox(tmp_path_factory.mktemp("cogvideox"), kind=kind) for kind in kinds}


def compare(folder: Path, seeds: list[int], image: np.ndarray | None = None, **options: Any) -> None:
    call = dict(
        prompt=[PROMPT] * len(seeds), negative_prompt=[NEGATIVE] * len(seeds), width=options["size"][0],
        height=options["size"][1], num_frames=options["frames"], num_inference_steps=options["steps"],
        guidance_scale=options["guidance"],
    )  # fmt: skip

    def turn(latents: torch.Tensor) -> torch.Tensor:
        return latents.transpose(1, 2)

    common = dict(seed=seeds[0], count=len(seeds), batch=len(seeds), negative=NEGATIVE, **options)
    model = diffgen.load(folder)
    if image is None:
        mine = ours(text_to_video(model, PROMPT, **common))
        agree(mine, theirs(diffusers.CogVideoXPipeline, folder, seeds, unpack=turn, **call))
        return
    mine = ours(image_to_video(model, image, PROMPT, **common))
    call["image"] = [Image.fromarray((image * 255).round().astype(np.uint8))] * len(seeds)
    agree(mine, theirs(diffusers.CogVideoXImageToVideoPipeline, folder, seeds, unpack=turn, **call))


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize(
    ("kind", "frames", "size"), [("2b", 9, (64, 48)), ("5b", 9, (48, 64)), ("5b", 17, (32, 16)), ("1.5", 9, (64, 48))]
)
def test_text_to_video(
    kind: str, frames: int, size: tuple[int, int], guidance: float, folders: dict[str, Path]
) -> None:
    compare(folders[kind], [3, 4], frames=frames, size=size, steps=4, guidance=guidance)


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize(("kind", "frames"), [("5b-i2v", 9), ("1.5-i2v", 9)])
def test_image_to_video(kind: str, frames: int, guidance: float, folders: dict[str, Path]) -> None:
    compare(folders[kind], [5, 6], picture(48, 32), frames=frames, size=(48, 32), steps=4, guidance=guidance)


def test_the_stochastic_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_clips.cogvideox(tmp_path, kind="5b", scheduler="CogVideoXDPMScheduler")
    # From the second step on, diffusers draws noise for a result that it throws away, then once more.
    draws, draw = [0], scheduling_dpm_cogvideox.randn_tensor
    wasted = {1, 3}

    def once(shape: Any, generator: Any = None, **options: Any) -> torch.Tensor:
        draws[0] += 1
        if draws[0] - 1 in wasted:
            return torch.zeros(shape)
        return draw(shape, generator=generator, **options)

    monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", once)
    compare(folder, [1, 2], frames=9, size=(48, 32), steps=4, guidance=6.0, settings={"noise": "fresh"})
    assert draws[0] == 6


def test_frames_that_cannot_be_drawn_name_the_nearest(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"13 frames .* 9 or 17"):
        text_to_video(diffgen.load(folders["5b"]), PROMPT, frames=13, size=(64, 48))
    with pytest.raises(UsageError, match=r"13 frames .* 9 or 17"):
        text_to_video(diffgen.load(folders["1.5"]), PROMPT, frames=13, size=(64, 48))
