"""Every clip task on every family: where the capabilities allow it, it runs; elsewhere a sentence says what would work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import UnsupportedError
from diffgen.pipelines import (
    extend,
    image_to_video,
    interpolate,
    loop,
    outlook,
    text_to_video,
    travel,
    video_to_video,
)
from diffgen.pipelines.tasks import CLIP_TASKS, possible, refusal
from tests import tiny, tiny_clips

MAKERS: dict[str, Callable[[Path], Path]] = {
    "animatediff": tiny_clips.animatediff,
    "wan": tiny_clips.wan,
    "wan-i2v": lambda folder: tiny_clips.wan(folder, kind="2.1-i2v"),
    "wan-5b": lambda folder: tiny_clips.wan(folder, kind="5b"),
    "ltx": tiny_clips.ltx,
    "cogvideox": tiny_clips.cogvideox,
    "cogvideox-1.5": lambda folder: tiny_clips.cogvideox(folder, kind="1.5"),
    "cogvideox-i2v": lambda folder: tiny_clips.cogvideox(folder, kind="5b-i2v"),
    "svd": tiny_clips.svd,
    "hunyuan-video": tiny_clips.hunyuan_video,
    "mochi": tiny_clips.mochi,
    "stable-diffusion": tiny.stable_diffusion,
}
SIZE = {"ltx": (64, 64), "svd": (64, 64), "wan-5b": (64, 32), "animatediff": (64, 64)}
WORDS = {"text_to_video", "loop", "travel"}
ALL = set(CLIP_TASKS)
# What each can do: the table that the documentation shows.
CAN = {
    "animatediff": ALL,
    "wan": ALL - {"keyframes", "interpolate"},
    "wan-i2v": ALL - WORDS,
    "wan-5b": ALL - {"keyframes", "interpolate"},
    "ltx": ALL - {"keyframes", "interpolate"},
    "cogvideox": ALL - {"keyframes", "interpolate"},
    "cogvideox-1.5": ALL - {"keyframes", "interpolate"},
    "cogvideox-i2v": ALL - WORDS - {"keyframes", "interpolate"},
    "svd": ALL - WORDS,
    "hunyuan-video": ALL - {"keyframes", "interpolate"},
    "mochi": ALL - {"keyframes", "interpolate"},
    "stable-diffusion": set(),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in made:
            made[name] = diffgen.load(MAKERS[name](tmp_path_factory.mktemp(name)))
        return made[name]

    return model


def run(model: Model, task: str, size: tuple[int, int]) -> tuple[Any, int]:
    """(the clip, the frames it must have) of one task at its smallest."""
    spec = model.family.spec
    unit = spec.frame_step or spec.frame_factor
    frames = unit + 1 if unit > 1 else 4
    common: dict[str, Any] = dict(seed=3, steps=2, size=size)
    image = tiny_clips.picture(*size)
    given = np.stack([np.roll(image, k, axis=1) for k in range(frames)])
    if task == "text_to_video":
        return text_to_video(model, "a cat", frames=frames, **common)[0], frames
    if task == "image_to_video":
        return image_to_video(model, image, "a cat", frames=frames, **common)[0], frames
    if task == "keyframes":
        return image_to_video(model, {0: image, -1: image[:, ::-1]}, "a cat", frames=frames, **common)[0], frames
    if task == "video_to_video":
        return video_to_video(model, given, "a cat", strength=0.5, **common)[0], frames
    if task == "extend":
        return extend(model, given, "a cat", frames=3, overlap=1, **common)[0], frames + 3
    if task == "loop":
        count = frames if unit == 1 else 2 * unit
        return loop(model, "a cat", frames=count, **common)[0], count
    if task == "travel":
        return travel(model, "0s: a cat; 3f: a house", "photo", frames=frames, **common)[0], frames
    return interpolate(model, given[:3] if unit == 1 else given[:: unit // 2], times=unit // 2 or 2, **common)[0], 5


def early_refusal(model: Model, task: str) -> str | None:
    try:
        outlook.check(model.path, task)
    except UnsupportedError as error:
        return str(error)
    return None


@pytest.mark.parametrize("task", CLIP_TASKS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_task_runs_or_is_refused_with_what_would_work(name: str, task: str, models: Callable[[str], Model]) -> None:
    model = models(name)
    family, size = model.family, SIZE.get(name, (32, 32))
    sentence = refusal(family.name, family.caps, family.spec, task)
    assert (sentence is None) == (task in CAN[name])
    early = early_refusal(model, task)
    # What is refused before loading is refused afterwards; only Wan's kinds share a class, and are told apart later.
    assert early is None or sentence is not None
    assert name.startswith("wan") or (early is None) == (sentence is None)
    if sentence is not None:
        assert "--" in sentence and sentence.count(". ") <= 2
        with pytest.raises(UnsupportedError, match=f"cannot do {task}"):
            run(model, task, size)
        return
    clip, frames = run(model, task, size)
    assert clip.pixels.shape == (frames, size[1], size[0], 3) and clip.pixels.dtype == np.float32
    assert np.isfinite(clip.pixels).all() and clip.pixels.std() > 1e-3
    assert clip.recipe.task == task and diffgen.recipe.Recipe.from_json(clip.recipe.to_json()) == clip.recipe


def test_what_is_possible_is_what_is_not_refused() -> None:
    frozen: Any = frozenset({"text_to_video"})
    spec = tiny_spec()
    assert possible("x", frozen, spec) == tuple(task for task in CLIP_TASKS if refusal("x", frozen, spec, task) is None)


def tiny_spec() -> Any:
    from diffgen.contracts import LatentSpec

    return LatentSpec(channels=4, frame_factor=4)


@pytest.mark.parametrize(
    ("kind", "task", "says"),
    [
        ("StableDiffusionPipeline", "loop", "stable-diffusion cannot do loop: it draws pictures only; --motion"),
        ("StableVideoDiffusionPipeline", "travel", "svd cannot do travel: it begins with a picture"),
        ("HunyuanVideoPipeline", "interpolate", "one of its latents holds 4 frames"),
    ],
)
def test_what_cannot_be_is_refused_before_a_weight_is_read(kind: str, task: str, says: str, tmp_path: Path) -> None:
    # There is nothing else in the folder.
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(UnsupportedError, match=says):
        outlook.check(tmp_path, task)
    if task == "loop":
        outlook.check(tmp_path, task, motion=True)
