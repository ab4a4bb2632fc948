"""A clip without an end: the last frame goes on to the first.

The model sees the clip through windows that go on over its end to its beginning, from another place at every step, so
no place is an edge (Mobius, 2502.20307). Of a causal autoencoder's latents the first one stands for a single frame;
a loop has none that is first, so it is decoded behind a copy of its own end, which is then cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffgen.checkpoints import Model
from diffgen.contracts import Family
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, request
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.text_to_video import plan
from diffgen.pipelines.whole import changed
from diffgen.recipe import Recipe

TASK = "loop"
LEAD = 3  # latents of its own end that a loop is decoded behind; odd, since CogVideoX decodes pairs behind one


def prepare(
    model: Model, prompt: str, *, frames: int | None = None, settings: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Recipe, ...]:
    """One whole recipe a clip, as `diffgen.pipelines.text_to_video.prepare`, with the setting "loop".

    Raises:
        UsageError: a value is unknown or out of range, or a loop cannot have so many frames.
        UnsupportedError: the family cannot make loops.
    """
    spec = model.family.spec
    unit = spec.frame_step or spec.frame_factor
    frames = max(spec.frames // unit, 1) * unit if frames is None else frames
    return request.resolve(
        model, TASK, prompt=prompt, frames=frames, settings={**(settings or {}), "loop": True}, **options
    )


def closed(family: Family, z: torch.Tensor) -> torch.Tensor:
    """Pixels [batch, 3, frames, height, width] of a loop's latents, as many frames as they stand for."""
    factor, lead = family.spec.frame_factor, family.spec.frame_lead
    if factor == 1:
        return family.decode(z)
    turns = [k % z.shape[2] for k in range(-LEAD - lead, 0)]
    pixels = family.decode(torch.cat([z[:, :, turns], z], dim=2))
    return pixels[:, :, 1 + factor * (LEAD - 1) :]


def stream(model: Model, recipes: Sequence[Recipe], *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step and each loop as it is done. Close it to cancel."""
    events = drawing.draw(model, recipes, plan, batch)
    if model.family.spec.frame_factor == 1:
        return events

    def turned(clip: Clip) -> np.ndarray:
        with torch.inference_mode():
            pixels = closed(model.family, torch.from_numpy(clip.latents)[None].to(model.family.device))
        found: np.ndarray = drawing.to_unit(pixels)[0].permute(1, 2, 3, 0).cpu().numpy()
        return found

    return changed(events, turned)


def loop(model: Model, prompt: str, *, batch: int = 1, **options: Any) -> tuple[Clip, ...]:
    """Draws `count` loops of `prompt`, with seeds seed, seed + 1, ... `options` are as for `prepare`.

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
