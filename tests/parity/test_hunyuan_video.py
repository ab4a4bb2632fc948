"""HunyuanVideo against diffusers: the embedded scale, and classifier-free guidance on top of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

import diffgen
from diffgen.errors import UsageError
from diffgen.pipelines import text_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, theirs

PROMPT, NEGATIVE = "photo of a red apple", "blue house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.hunyuan_video(tmp_path_factory.mktemp("hunyuan"))


@pytest.mark.parametrize(
    ("frames", "size", "guidance", "true_cfg"),
    [(5, (64, 48), 1.0, 1.0), (9, (48, 64), 6.0, 1.0), (5, (64, 48), 6.0, 4.0), (9, (48, 64), 1.0, 4.0)],
)
def test_text_to_video(frames: int, size: tuple[int, int], guidance: float, true_cfg: float, folder: Path) -> None:
    settings: dict[str, Any] = {"true_cfg": true_cfg} if true_cfg > 1 else {}
    mine = text_to_video(
        diffgen.load(folder), PROMPT, negative=NEGATIVE, seed=3, count=2, batch=2, frames=frames, size=size, steps=4,
        guidance=guidance, settings=settings,
    )  # fmt: skip
    want = theirs(
        diffusers.HunyuanVideoPipeline, folder, [3, 4], prompt=[PROMPT] * 2, negative_prompt=[NEGATIVE] * 2,
        width=size[0], height=size[1], num_frames=frames, num_inference_steps=4, guidance_scale=guidance,
        true_cfg_scale=true_cfg,
    )  # fmt: skip
    agree(ours(mine), want)


def test_frames_that_cannot_be_drawn_name_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"6 frames .* 5 or 9"):
        text_to_video(diffgen.load(folder), PROMPT, frames=6, size=(64, 64))
