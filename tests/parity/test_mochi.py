"""Mochi against diffusers: time told the other way round, and an empty prompt that is no text at all."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest

import diffgen
from diffgen.errors import UsageError
from diffgen.pipelines import text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, theirs

PROMPT = "photo of a red apple"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    return {blank: tiny_clips.mochi(tmp_path_factory.mktemp("mochi"), blank=blank) for blank in (True, False)}


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize(
    ("blank", "frames", "size", "negative"),
    [(True, 7, (64, 48), ""), (True, 13, (48, 32), "blue house"), (False, 7, (32, 64), "")],
)
def test_text_to_video(
    blank: bool, frames: int, size: tuple[int, int], negative: str, guidance: float, folders: dict[bool, Path]
) -> None:
    mine = text_to_video(
        diffgen.load(folders[blank]), PROMPT, negative=negative, seed=3, count=2, batch=2, frames=frames, size=size,
        steps=5, guidance=guidance,
    )  # fmt: skip
    want = theirs(
        diffusers.MochiPipeline, folders[blank], [3, 4], prompt=[PROMPT] * 2, negative_prompt=[negative] * 2,
        width=size[0], height=size[1], num_frames=frames, num_inference_steps=5, guidance_scale=guidance,
    )  # fmt: skip
    agree(ours(mine), want)


def test_frames_that_cannot_be_drawn_name_the_nearest(folders: dict[bool, Path]) -> None:
    with pytest.raises(UsageError, match=r"8 frames .* 7 or 13"):
        text_to_video(diffgen.load(folders[True]), PROMPT, frames=8, size=(64, 64))
