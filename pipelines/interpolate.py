"""More frames between those of a clip: the given ones are held, and the model draws the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from diffgen.checkpoints import Model
from diffgen.contracts import Plan
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, film_settings, filming, request
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.image_to_video import as_tensor
from diffgen.pipelines.video_to_video import check_clip, fitted_clip, lengthened, size_for
from diffgen.recipe import Recipe

TASK = "interpolate"
STRENGTH = 0.7
TIMES = "interpolated"


def prepare(
    model: Model, clip: np.ndarray, prompt: str = "", *, times: int = 2, strength: float = STRENGTH,
    fps: float | None = None, settings: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None,
    **options: Any,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a clip, checked before anything is computed. The prompt may be empty.

    Args:
        clip: [frames, height, width, 3], floats in 0..1, two frames at least.
        times: the frame rate grows so many times; the clip has times * (frames - 1) + 1 frames then.
        strength: 0..1; below 1 the walk begins at a cross-fade of the neighbours, noised part of the way.
        fps: of the given clip; None is the family's own.
        options: as for `diffgen.pipelines.text_to_video.prepare`, without frames.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: the family cannot hold frames within a clip.
    """
    check_clip(clip)
    if times < 2 or len(clip) < 2:
        raise UsageError(f"interpolating takes 2 frames and 2 times as many, at least; got {len(clip)} and {times}")
    fps = (fps or model.family.spec.fps) * times
    chosen = {**(settings or {}), "strength": strength}
    recipes = request.resolve(
        model, TASK, prompt=prompt, frames=times * (len(clip) - 1) + 1, wordless=True, fps=fps, settings=chosen,
        size=size_for(model.family, clip, size), **options,
    )  # fmt: skip
    filming.part_of(range(recipes[0].steps or 1, -1, -1), strength)
    fitted, notes = fitted_clip(clip, recipes[0])
    told = {"clip_sha256": hashlib.sha256(fitted.tobytes()).hexdigest(), TIMES: times}
    return tuple(replace(recipe, extra=told, notes=notes) for recipe in recipes)


def faded(clip: np.ndarray, times: int) -> np.ndarray:
    """The clip with `times` - 1 mixtures of the two neighbours between its frames."""
    found = [clip[:1]]
    for one, two in pairwise(clip):
        parts = (np.arange(1, times + 1, dtype=np.float32) / times)[:, None, None, None]
        found.append(one * (1 - parts) + two * parts)
    return np.concatenate(found)


def plan(model: Model, recipes: Sequence[Recipe], *, clip: np.ndarray) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    fitted, fitting = fitted_clip(clip, recipes[0])
    times = int(recipes[0].extra[TIMES])
    kept = {k * times: as_tensor(frame) for k, frame in enumerate(fitted)}
    whole = film_settings.of(recipes[0]).strength == 1
    start = None if whole else as_tensor(lengthened(faded(fitted, times), recipes[0].frames or 1))
    made, notes = filming.plan(model, recipes, kept=kept, start=start)
    return made, (*fitting, *notes)


def stream(model: Model, recipes: Sequence[Recipe], clip: np.ndarray, *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step and each clip as it is done. Close it to cancel."""
    return drawing.draw(model, recipes, partial(plan, clip=clip), batch)


def interpolate(
    model: Model, clip: np.ndarray, prompt: str = "", *, batch: int = 1, **options: Any
) -> tuple[Clip, ...]:
    """Draws `count` clips of more frames, with seeds seed, seed + 1, ... `options` are as for `prepare`.

    Returns:
        The clips: float32 pixels [frames, height, width, 3] in 0..1, final latents, and the recipe.

    Raises:
        UsageError: a value is unknown or out of range.
        NumericalError: the networks give NaN on every setting.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1; got {batch}")
    events = stream(model, prepare(model, clip, prompt, **options), clip, batch=batch)
    return tuple(event for event in events if isinstance(event, Clip))
