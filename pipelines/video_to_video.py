"""A clip drawn over: its frames, noised part of the way, are where the walk begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from diffgen.checkpoints import Model
from diffgen.contracts import Family, Plan
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, filming, request
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.extent import check_size
from diffgen.pipelines.image_to_video import as_tensor
from diffgen.pipelines.visuals import fit
from diffgen.recipe import Recipe

TASK = "video_to_video"
STRENGTH = 0.8


def prepare(
    model: Model, clip: np.ndarray, prompt: str = "", *, strength: float = STRENGTH,
    settings: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None, **options: Any,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a clip, checked before anything is computed. The prompt may be empty.

    Args:
        clip: [frames, height, width, 3], floats in 0..1. It gives the number of frames, and the size that is
            nearest to its own where none is asked for.
        strength: 0..1, how much of the walk is walked: near 0 the clip stays, at 1 nothing of it is left.
        options: as for `diffgen.pipelines.text_to_video.prepare`, without frames.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: the family cannot draw over clips.
    """
    check_clip(clip)
    size = size_for(model.family, clip, size)
    chosen = {**(settings or {}), "strength": strength}
    recipes = request.resolve(
        model, TASK, prompt=prompt, frames=len(clip), wordless=True, size=size, settings=chosen, **options
    )
    filming.part_of(range(recipes[0].steps or 1, -1, -1), strength)
    fitted, notes = fitted_clip(clip, recipes[0])
    told = {"clip_sha256": hashlib.sha256(fitted.tobytes()).hexdigest()}
    return tuple(replace(recipe, extra=told, notes=notes) for recipe in recipes)


def check_clip(clip: np.ndarray) -> None:
    """Raises UsageError where the array is no clip."""
    if clip.ndim != 4 or clip.shape[3] != 3 or clip.size == 0:
        raise UsageError(f"a clip is an array [frames, height, width, 3]; got the shape {list(clip.shape)}")


def size_for(family: Family, clip: np.ndarray, asked: tuple[int, int] | None = None) -> tuple[int, int]:
    """The (width, height) asked for, or the nearest to the clip's own that the family can draw.

    Raises:
        UsageError: the family cannot draw the size that was asked for; the clip is scaled to it, never cut.
    """
    if asked is not None:
        check_size(family, *asked)
        return asked
    unit = family.spec.multiple
    height, width = (max(round(side / unit), 1) * unit for side in clip.shape[1:3])
    return width, height


def fitted_clip(clip: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, tuple[str, ...]]:
    """The clip at the recipe's size, and a note where it had another."""
    fitted = [fit(frame, recipe.width or 0, recipe.height or 0) for frame in clip]
    notes = tuple(note.replace("the picture", "the clip", 1) for note in fitted[0][1])
    return np.stack([frame for frame, _ in fitted]), notes


def lengthened(clip: np.ndarray, frames: int) -> np.ndarray:
    """The clip with its last frame repeated to `frames`: a family may draw more than was asked, and cut them off."""
    return np.concatenate([clip, np.repeat(clip[-1:], max(frames - len(clip), 0), axis=0)])


def plan(model: Model, recipes: Sequence[Recipe], *, clip: np.ndarray) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    fitted, fitting = fitted_clip(clip, recipes[0])
    # Networks that only know clips that begin with a picture are shown the clip's own first frame.
    kept = None if "text_to_video" in model.family.caps else {0: as_tensor(fitted[0])}
    start = as_tensor(lengthened(fitted, recipes[0].frames or 1))
    made, notes = filming.plan(model, recipes, start=start, kept=kept)
    return made, (*fitting, *notes)


def stream(model: Model, recipes: Sequence[Recipe], clip: np.ndarray, *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step and each clip as it is done. Close it to cancel."""
    return drawing.draw(model, recipes, partial(plan, clip=clip), batch)


def video_to_video(
    model: Model, clip: np.ndarray, prompt: str = "", *, batch: int = 1, **options: Any
) -> tuple[Clip, ...]:
    """Draws `count` clips over `clip`, with seeds seed, seed + 1, ...

    Args:
        model: from `diffgen.load`.
        batch: clips denoised together.
        options: as for `prepare`, `strength` among them.

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
