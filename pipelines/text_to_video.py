"""A prompt becomes a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diffgen.checkpoints import Model
from diffgen.contracts import Plan
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, filming, request
from diffgen.pipelines.drawing import Clip, Event
from diffgen.recipe import Recipe

TASK = "text_to_video"


def prepare(model: Model, prompt: str, *, frames: int | None = None, **options: Any) -> tuple[Recipe, ...]:
    """One whole recipe a clip, checked before anything is computed.

    Args:
        frames: frames of each clip; None is the number the model was made for.
        options: negative, seed, count, size (width, height), fps, steps, guidance, sampler, schedule and
            settings; what is left out is the checkpoint's own. See `diffgen.pipelines.request.resolve`.

    Raises:
        UsageError: a value is unknown or out of range; the message names the nearest accepted ones.
        UnsupportedError: the family cannot make clips of a prompt.
    """
    frames = model.family.spec.frames if frames is None else frames
    return request.resolve(model, TASK, prompt=prompt, frames=frames, **options)


def plan(model: Model, recipes: Sequence[Recipe]) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    return filming.plan(model, recipes)


def stream(model: Model, recipes: Sequence[Recipe], *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step and each clip as it is done. Close it to cancel."""
    return drawing.draw(model, recipes, plan, batch)


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
