"""Prompts that change with time: "0s: a seed; 2s: a sprout; 4s: a tree".

Between two times the text states are mixed evenly. Networks that take a text for each frame (AnimateDiff) are given
one; the others see the clip through windows, and each window is told what holds at its middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffgen.checkpoints import Model
from diffgen.errors import UsageError
from diffgen.pipelines import request
from diffgen.pipelines.drawing import Clip
from diffgen.pipelines.stations import parse
from diffgen.pipelines.text_to_video import stream as stream
from diffgen.recipe import Recipe

TASK = "travel"


def prepare(
    model: Model, stations: str, prompt: str = "", *, frames: int | None = None, fps: float | None = None,
    settings: Mapping[str, Any] | None = None, **options: Any,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a clip, checked before anything is computed.

    Args:
        stations: prompts at times, as for `diffgen.pipelines.stations.parse`.
        prompt: what stands before each of them; may be empty.
        options: as for `diffgen.pipelines.text_to_video.prepare`.

    Raises:
        UsageError: a value is unknown or out of range, or the times cannot be read.
        UnsupportedError: the family cannot make clips of words.
    """
    parse(stations, fps or model.family.spec.fps or 1.0)
    frames = model.family.spec.frames if frames is None else frames
    chosen = {**(settings or {}), "travel": stations}
    return request.resolve(
        model, TASK, prompt=prompt, frames=frames, fps=fps, wordless=True, settings=chosen, **options
    )


def travel(model: Model, stations: str, prompt: str = "", *, batch: int = 1, **options: Any) -> tuple[Clip, ...]:
    """Draws `count` clips whose prompt changes, with seeds seed, seed + 1, ... `options` are as for `prepare`.

    Returns:
        The clips: float32 pixels [frames, height, width, 3] in 0..1, final latents, and the recipe.

    Raises:
        UsageError: a value is unknown or out of range.
        NumericalError: the networks give NaN on every setting.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1; got {batch}")
    events = stream(model, prepare(model, stations, prompt, **options), batch=batch)
    return tuple(event for event in events if isinstance(event, Clip))
