"""A prompt becomes a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from diffgen.checkpoints import Model
from diffgen.contracts import Plan
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, filming, request
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.extent import length_of
from diffgen.recipe import Recipe

TASK = "text_to_video"


def prepare(
    model: Model, prompt: str, *, frames: int | None = None, seconds: float | str | None = None,
    fps: float | str | None = None, **options: Any,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a clip, checked before anything is computed.

    Args:
        frames, seconds, fps: the length and the rate, see `diffgen.pipelines.extent.length_of`; any are drawn.
        options: negative, seed, count, size (width, height), steps, guidance, sampler, schedule and
            settings; what is left out is the checkpoint's own. See `diffgen.pipelines.request.resolve`.

    Raises:
        UsageError: a value is unknown or out of range; the message names the nearest accepted ones.
        UnsupportedError: the family cannot make clips of a prompt.
    """
    frames, fps, notes = length_of(model.family, frames=frames, seconds=seconds, fps=fps)
    recipes = request.resolve(model, TASK, prompt=prompt, frames=frames, fps=fps, **options)
    return tuple(replace(recipe, notes=notes) for recipe in recipes)


def plan(model: Model, recipes: Sequence[Recipe]) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    return filming.plan(model, recipes)


def stream(model: Model, recipes: Sequence[Recipe], *, batch: int = 1, keep: bool = True) -> Iterator[Event]:
    """Draws the recipes and yields each step, each clip's frames and each clip as it is done. Close it to cancel.

    Without `keep` a clip's frames are in the events before it alone, so that memory does not grow with its length.
    """
    return drawing.draw(model, recipes, plan, batch, keep=keep)


def text_to_video(model: Model, prompt: str, *, batch: int = 1, **options: Any) -> tuple[Clip, ...]:
    """Draws `count` clips of `prompt`, with seeds seed, seed + 1, ...

    Args:
        model: from `diffgen.load`.
        batch: clips denoised together.
        options: as for `prepare`, `frames` among them.

    Returns:
        The clips: float32 pixels [frames, height, width, 3] in 0..1, final latents, and the recipe.

    Raises:
        UsageError: a value is unknown or out of range.
        NumericalError: the networks give NaN on every setting.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1; got {batch}")
    events = stream(model, prepare(model, prompt, **options), batch=batch)
    return tuple(event for event in events if isinstance(event, Clip))
