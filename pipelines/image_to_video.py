"""A picture becomes the first frame of a clip."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from diffgen import noise
from diffgen.checkpoints import Model
from diffgen.contracts import Plan, Wrapper, steps_of
from diffgen.errors import UsageError
from diffgen.pipelines import adapting, drawing, request, walking
from diffgen.pipelines.drawing import Clip, Event
from diffgen.pipelines.visuals import fit
from diffgen.recipe import Recipe
from diffgen.wrappers import hold

TASK = "image_to_video"


def prepare(
    model: Model, image: np.ndarray, prompt: str = "", *, frames: int | None = None, **options: Any
) -> tuple[Recipe, ...]:
    """One whole recipe a clip, checked before anything is computed. `image` is as for `fit`, the rest as for
    `diffgen.pipelines.text_to_video.prepare`; the prompt may be empty.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: the family cannot make clips of a picture.
    """
    frames = model.family.spec.frames if frames is None else frames
    recipes = request.resolve(model, TASK, prompt=prompt, frames=frames, wordless=True, **options)
    fitted, notes = fit(image, recipes[0].width or 0, recipes[0].height or 0)
    given = {"image_sha256": hashlib.sha256(fitted.tobytes()).hexdigest()}
    return tuple(replace(recipe, extra=given, notes=notes) for recipe in recipes)


def plan(model: Model, recipes: Sequence[Recipe], *, image: np.ndarray) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    family, recipe, spec = model.family, recipes[0], model.family.spec
    width, height, frames = recipe.width or 0, recipe.height or 0, recipe.frames or 1
    fitted, fitting = fit(image, width, height)
    visual = {"image": torch.zeros(1, 3, frames, height, width), "given": torch.zeros(1, 1, frames, 1, 1)}
    visual["image"][0, :, 0] = torch.from_numpy(fitted).permute(2, 0, 1) * 2 - 1
    visual["given"][:, :, 0] = 1
    sampler, levels, scale, guidance = walking.walk(recipe, family)
    shape = spec.shape(batch=len(recipes), width=width, height=height, frames=frames)
    seeds = [recipe.seed or 0 for recipe in recipes]
    drawn = {"latents": (*shape[:2], 1, *shape[3:]), "pixels": (len(recipes), 3, 1, height, width)}
    before = drawn[spec.draw_visual] if spec.draw_visual else None
    if before is not None:
        visual["noise"] = noise.draw(noise.generators(seeds), before)
    kind = walking.noise_kind(recipe)
    first, later = noise.sequence(seeds, shape, order=spec.draw, device=family.device, skip=before, kind=kind)
    pos, neg, notes = walking.conditioning(recipe, family, guidance, len(recipes))
    with torch.inference_mode():
        pos = family.attach(pos, {name: tensor.to(family.device) for name, tensor in visual.items()})
    if neg is not None:
        # Both branches see the same picture; encoding it twice would cost as much again.
        seen = {name: value for name, value in pos.extra.items() if name not in neg.extra}
        neg = replace(pos, text=neg.text, extra={**neg.extra, **seen})
    x = first * scale
    wrappers: tuple[Wrapper, ...] = ()
    if pos.clean is not None:
        clean, kept = pos.clean.bool(), pos.extra["kept"]
        x, wrappers = torch.where(clean, kept, x), (hold(clean, kept),)
    return Plan(
        x=x, steps=steps_of(family.path, levels), sampler=sampler, noise=later,
        pos=pos, neg=neg, guidance=guidance, wrappers=wrappers, patches=adapting.patches(recipe, family),
    ), (*fitting, *notes)  # fmt: skip


def stream(model: Model, recipes: Sequence[Recipe], image: np.ndarray, *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step and each clip as it is done. Close it to cancel."""
    return drawing.draw(model, recipes, partial(plan, image=image), batch)


def image_to_video(
    model: Model, image: np.ndarray, prompt: str = "", *, batch: int = 1, **options: Any
) -> tuple[Clip, ...]:
    """Draws `count` clips that begin with `image`, with seeds seed, seed + 1, ...

    Args:
        model: from `diffgen.load`.
        image: the first frame [height, width, 3], floats in 0..1; another size is scaled, and a note says so.
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
