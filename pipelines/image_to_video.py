"""A clip that begins with a picture, or has pictures at several of its frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgen.checkpoints import Model
from diffgen.contracts import Plan
from diffgen.errors import UsageError
from diffgen.pipelines import drawing, filming, request
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.extent import as_drawn, length_of
from diffgen.pipelines.visuals import fit, padded
from diffgen.recipe import Recipe

TASK, KEYFRAMES = "image_to_video", "keyframes"
Pictures = np.ndarray | Mapping[int, np.ndarray]


def prepare(
    model: Model, image: Pictures, prompt: str = "", *, frames: int | None = None, seconds: float | str | None = None,
    fps: float | str | None = None, **options: Any,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a clip, checked before anything is computed. The prompt may be empty.

    Args:
        image: the first frame, as for `fit`; or pictures by frame number, where -1 is the last frame.
        options: as for `diffgen.pipelines.text_to_video.prepare`.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: the family cannot make clips of such pictures.
    """
    frames, fps, rounded = length_of(model.family, frames=frames, seconds=seconds, fps=fps)
    given = at_frames(image, frames)
    task = TASK if set(given) == {0} else KEYFRAMES
    recipes = request.resolve(model, task, prompt=prompt, frames=frames, fps=fps, wordless=True, **options)
    fitted, notes = fitted_to(given, recipes[0])
    digests = {str(frame): digest(pixels) for frame, pixels in fitted.items()}
    told = {"image_sha256": digests["0"]} if task == TASK else {"keyframes_sha256": digests}
    return tuple(replace(recipe, extra=told, notes=(*rounded, *notes)) for recipe in recipes)


def digest(pixels: np.ndarray) -> str:
    """The SHA-256 of a picture as it was fitted to the clip, for recipes."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def at_frames(image: Pictures, frames: int) -> dict[int, np.ndarray]:
    """Pictures by frame number, counted from the first frame, in order.

    Raises:
        UsageError: there is none, one lies outside the clip, or two lie on the same frame.
    """
    if isinstance(image, np.ndarray):
        return {0: image}
    found: dict[int, np.ndarray] = {}
    for number, picture in image.items():
        frame = number + frames if number < 0 else number
        if not 0 <= frame < frames:
            raise UsageError(f"the clip has {frames} frames, 0 to {frames - 1}; a picture was given for frame {number}")
        if frame in found:
            raise UsageError(f"two pictures were given for frame {frame}")
        found[frame] = picture
    if not found:
        raise UsageError("no picture was given; the first frame is 0, the last -1")
    return dict(sorted(found.items()))


def fitted_to(given: Mapping[int, np.ndarray], recipe: Recipe) -> tuple[dict[int, np.ndarray], tuple[str, ...]]:
    """The pictures at the recipe's size, and notes on what had to be done."""
    fitted = {frame: fit(picture, recipe.width or 0, recipe.height or 0) for frame, picture in given.items()}
    notes = [note for _, told in fitted.values() for note in told]
    return {frame: pixels for frame, (pixels, _) in fitted.items()}, tuple(dict.fromkeys(notes))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels [..., height, width, 3] in 0..1 as [3, ..., height, width] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0), dtype=np.float32)) * 2 - 1


def plan(model: Model, recipes: Sequence[Recipe], *, image: Pictures) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    fitted, fitting = fitted_to(at_frames(image, recipes[0].frames or 1), recipes[0])
    made, notes = filming.plan(model, recipes, kept={frame: as_tensor(pixels) for frame, pixels in fitted.items()})
    return made, (*fitting, *notes)


def stream(
    model: Model, recipes: Sequence[Recipe], image: Pictures, *, batch: int = 1, keep: bool = True
) -> Iterator[Event]:
    """Draws the recipes and yields events as `diffgen.pipelines.text_to_video.stream`.

    Where the family draws a larger clip than was asked for, the pictures stand in its middle, where it will be cut.
    """
    drawn = as_drawn(model.family, recipes[0])
    fitted, _ = fitted_to(at_frames(image, recipes[0].frames or 1), recipes[0])
    placed = {frame: padded(pixels, drawn.width or 0, drawn.height or 0) for frame, pixels in fitted.items()}
    return drawing.draw(model, recipes, partial(plan, image=placed), batch, keep=keep)


def image_to_video(
    model: Model, image: Pictures, prompt: str = "", *, batch: int = 1, **options: Any
) -> tuple[Clip, ...]:
    """Draws `count` clips that hold `image`, with seeds seed, seed + 1, ...

    Args:
        model: from `diffgen.load`.
        image: the first frame [height, width, 3], floats in 0..1, or several by frame number; another size is scaled,
            and a note says so.
        prompt: what is to happen; it may be empty, and some families read none.
        batch: clips denoised together.
        options: as for `prepare`.

    Returns:
        The clips: float32 pixels [frames, height, width, 3] in 0..1, final latents, and the recipe.

    Raises:
        UsageError: a value is unknown or out of range.
        NumericalError: the networks give NaN on every setting.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1; got {batch}")
    events = stream(model, prepare(model, image, prompt, **options), image, batch=batch)
    return tuple(event for event in events if isinstance(event, Clip))
