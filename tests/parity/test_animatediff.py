"""AnimateDiff with its motion modules in a file of their own, and what it cannot draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import picture

PROMPT = "photo of a red apple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.animatediff(tmp_path_factory.mktemp("animatediff"))


def test_a_motion_adapter_beside_a_picture_model_draws_the_same(folder: Path, tmp_path: Path) -> None:
    apart = tiny_clips.animatediff(tmp_path, joined=False)
    options = dict(frames=4, size=(64, 64), steps=3, seed=1)
    one, other = (text_to_video(diffgen.load(path), PROMPT, **options)[0] for path in (apart, folder))
    assert np.array_equal(one.pixels, other.pixels)


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
