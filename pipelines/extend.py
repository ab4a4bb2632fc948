"""A clip continued: its last frames are held at the beginning of the next stretch, and both are joined there.

What is drawn from what was drawn drifts. Three things hold it: the stretch begins with the clip's own noise in another
order (as FreeNoise goes on, 2310.15169), its colours are brought to those of the frames it repeats, and then to
those of the clip's beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from diffgen.checkpoints import Model
from diffgen.contracts import Family, Plan
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, filming, request
from diffgen.pipelines.anchoring import continued
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.image_to_video import as_tensor
from diffgen.pipelines.video_to_video import check_clip, fitted_clip, size_for
from diffgen.pipelines.whole import changed
from diffgen.recipe import Recipe

TASK = "extend"


def prepare(
    model: Model, clip: np.ndarray, prompt: str = "", *, frames: int | None = None, overlap: int | None = None,
    anchored: bool = True, size: tuple[int, int] | None = None, **options: Any,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a clip, checked before anything is computed. The prompt may be empty.

    Args:
        clip: [frames, height, width, 3], floats in 0..1.
        frames: how many to add; None is as many as the model draws at once.
        overlap: how many of the clip's last frames the model goes by; None is its usual number.
        anchored: whether noise and colours are held to those of the clip.
        options: as for `diffgen.pipelines.text_to_video.prepare`.

    Raises:
        UsageError: a value is unknown or out of range.
    """
    check_clip(clip)
    family = model.family
    again = _overlap(family, len(clip), overlap)
    added = max(family.spec.frames - again, 1) if frames is None else frames
    if added < 1:
        raise UsageError(f"frames to add must be at least 1; got {added}")
    recipes = request.resolve(
        model, TASK, prompt=prompt, frames=_drawable(family, again + added), wordless=True,
        size=size_for(family, clip, size), **options,
    )  # fmt: skip
    fitted, notes = fitted_clip(clip[-again:], recipes[0])
    told = {"clip_sha256": hashlib.sha256(fitted.tobytes()).hexdigest(), "clip_frames": len(clip), "overlap": again,
            "added": added, "anchored": anchored}  # fmt: skip
    return tuple(replace(recipe, extra=told, notes=notes) for recipe in recipes)


def _overlap(family: Family, length: int, asked: int | None) -> int:
    """Frames to go by: whole latents, and no more than the clip has."""
    unit = family.spec.frame_factor
    wanted = max(family.spec.frames // 4, 1) if asked is None else asked
    if not 1 <= wanted <= length and asked is not None:
        raise UsageError(f"the overlap must be 1 to the clip's {length} frames; got {asked}")
    whole = (min(wanted, length) - 1) // unit * unit + 1
    if asked is not None and whole != asked:
        raise UsageError(f"{family.name} goes by {unit} k + 1 frames, such as {whole} or {whole + unit}; got {asked}")
    return whole


def _drawable(family: Family, frames: int) -> int:
    """The next number of frames that the family can draw."""
    unit = family.spec.frame_step or family.spec.frame_factor
    return -(-(frames - 1) // unit) * unit + 1


def plan(model: Model, recipes: Sequence[Recipe], *, clip: np.ndarray) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    told = recipes[0].extra
    fitted, fitting = fitted_clip(clip[-int(told["overlap"]) :], recipes[0])
    kept = {k: as_tensor(frame) for k, frame in enumerate(fitted)}
    made, notes = filming.plan(model, recipes, kept=kept, turn=int(told["clip_frames"]) if told["anchored"] else 0)
    return made, (*fitting, *notes)


def stream(model: Model, recipes: Sequence[Recipe], clip: np.ndarray, *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step, and each whole clip as it is done: the given frames, then the new."""

    def whole(drawn: Clip) -> np.ndarray:
        told = drawn.recipe.extra
        before, _ = fitted_clip(clip, drawn.recipe)
        new = drawn.pixels[: told["overlap"] + told["added"]]
        return continued(before, new, told["overlap"], anchored=told["anchored"])

    return changed(drawing.draw(model, recipes, partial(plan, clip=clip), batch), whole)


def extend(model: Model, clip: np.ndarray, prompt: str = "", *, batch: int = 1, **options: Any) -> tuple[Clip, ...]:
    """Continues `clip` `count` times over, with seeds seed, seed + 1, ... `options` are as for `prepare`.

    Returns:
        The whole clips, given frames and new ones: float32 pixels [frames, height, width, 3] in 0..1, the latents
        of the stretch that was drawn, and the recipe.

    Raises:
        UsageError: a value is unknown or out of range.
        NumericalError: the networks give NaN on every setting.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1; got {batch}")
    events = stream(model, prepare(model, clip, prompt, **options), clip, batch=batch)
    return tuple(event for event in events if isinstance(event, Clip))
