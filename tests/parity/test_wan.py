"""Wan: pictures it cannot hold, and clips in a batch."""

from __future__ import annotations

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import UnsupportedError
from diffgen.pipelines import image_to_video, text_to_video
from tests import tiny_clips
from tests.tiny_clips import picture

PROMPT = "photo of a red apple"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return diffgen.load(tiny_clips.wan(tmp_path_factory.mktemp("wan")))


def test_pictures_that_it_cannot_hold_are_refused(model: Model) -> None:
    with pytest.raises(UnsupportedError, match="wan cannot do keyframes"):
        image_to_video(model, {0: picture(32, 32), -1: picture(32, 32)}, PROMPT, frames=5, size=(32, 32))


def test_a_clip_alone_equals_the_clip_in_a_batch_and_carries_its_recipe(model: Model) -> None:
    options = dict(frames=5, size=(32, 32), steps=3)
    together = text_to_video(model, PROMPT, seed=5, count=2, batch=2, **options)
    alone = text_to_video(model, PROMPT, seed=6, **options)[0]
    assert np.abs(together[1].pixels - alone.pixels).max() < 1e-5
    assert alone.pixels.shape == (5, 32, 32, 3) and alone.pixels.dtype == np.float32
    assert (alone.recipe.frames, alone.recipe.fps, alone.recipe.task) == (5, 16.0, "text_to_video")
