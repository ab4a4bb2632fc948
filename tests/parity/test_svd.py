"""Stable Video Diffusion: the picture as CLIP sees it, and words that nothing reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as reference

import diffgen
from diffgen.errors import UnsupportedError
from diffgen.families.svd import shrunk
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.svd(tmp_path_factory.mktemp("svd"))


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
