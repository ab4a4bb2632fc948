"""A prompt becomes a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diffgen import noise
from diffgen.checkpoints import Model
from diffgen.contracts import Plan, steps_of
from diffgen.errors import UsageError
from diffgen.pipelines import adapting, drawing, request, walking
from diffgen.pipelines.drawing import Event, Picture
from diffgen.recipe import Recipe

TASK = "text_to_image"


def prepare(model: Model, prompt: str, **options: Any) -> tuple[Recipe, ...]:
    """One whole recipe a picture, checked before anything is computed.

    Args:
        options: negative, seed, count, size (width, height), steps, guidance, sampler, schedule, settings, adapters
            and adapter_folders; what is left out is the checkpoint's own. See `diffgen.pipelines.request.resolve`.

    Raises:
        UsageError: a value is unknown or out of range.
    """
    return request.resolve(model, TASK, prompt=prompt, **options)


def plan(model: Model, recipes: Sequence[Recipe]) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut."""
    family, recipe = model.family, recipes[0]
    sampler, levels, scale, guidance = walking.walk(recipe, family)
    shape = family.spec.shape(batch=len(recipes), width=recipe.width or 0, height=recipe.height or 0)
    seeds = [recipe.seed or 0 for recipe in recipes]
    kind = walking.noise_kind(recipe)
    first, later = noise.sequence(seeds, shape, order=family.spec.draw, device=family.device, kind=kind)
    pos, neg, notes = walking.conditioning(recipe, family, guidance, len(recipes))
    return Plan(
        x=first * scale, steps=steps_of(family.path, levels), sampler=sampler, noise=later,
        pos=pos, neg=neg, guidance=guidance, patches=adapting.patches(recipe, family),
    ), notes  # fmt: skip


def stream(model: Model, recipes: Sequence[Recipe], *, batch: int = 1) -> Iterator[Event]:
    """Draws the recipes and yields each step and each picture as it is done. Close it to cancel."""
    return drawing.draw(model, recipes, plan, batch)


def text_to_image(model: Model, prompt: str, *, batch: int = 1, **options: Any) -> tuple[Picture, ...]:
    """Draws `count` pictures of `prompt`, with seeds seed, seed + 1, ...

    Args:
        model: from `diffgen.load`.
        prompt: A1111's language: `(word:1.3)`, `[word]`, BREAK, any length.
        batch: pictures denoised together.
        options: as for `prepare`.

    Returns:
        The pictures: float32 pixels [height, width, 3] in 0..1, final latents, and the recipe.

    Raises:
        UsageError: a value is unknown or out of range.
        NumericalError: the networks give NaN on every setting.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1; got {batch}")
    events = stream(model, prepare(model, prompt, **options), batch=batch)
    return tuple(event for event in events if isinstance(event, Picture))


def replay(model: Model, recipe: Recipe, **where: Any) -> Picture:
    """The picture of `recipe` again, in the batch shape it was first made in.

    The neighbours in that batch are drawn with the seeds next to this one; only their number matters.
    `where` finds adapters that have moved: see `diffgen.pipelines.adapting.located`.
    """
    recipe = adapting.located(recipe, **where)
    events = stream(model, drawing.mates(recipe), batch=recipe.batch)
    return [event for event in events if isinstance(event, Picture)][recipe.index]
