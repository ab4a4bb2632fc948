"""What every clip task shares: from recipes, with the frames they are given, to a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from diffgen import long_noise, noise
from diffgen.checkpoints import Model
from diffgen.contracts import Conditioning, Family, Guidance, Latents, Noise, Patch, Plan, Wrapper, steps_of
from diffgen.errors import UnsupportedError, UsageError
from diffgen.families import motion
from diffgen.path import mix
from diffgen.pipelines import adapting, film_settings, holding, stations, walking
from diffgen.pipelines.film_settings import FilmSettings
from diffgen.recipe import Recipe
from diffgen.wrappers import Windows, windowed


def plan(
    model: Model,
    recipes: Sequence[Recipe],
    *,
    kept: Mapping[int, Tensor] | None = None,
    start: Tensor | None = None,
    turn: int = 0,
) -> tuple[Plan, tuple[str, ...]]:
    """The plan for one batch of recipes that differ in their seeds only, and notes on what was cut.

    Args:
        kept: frames that the clip is to have, pixels [3, height, width] in -1..1 by frame number.
        start: pixels [3, frames, height, width] in -1..1 of a clip to draw over, by the setting "strength".
        turn: above 0, the frames of the starting noise are reordered: the clip goes on from another one.

    Raises:
        UsageError: a value is unknown or out of range, or the family cannot use the frames.
    """
    family, recipe = model.family, recipes[0]
    film, frames = film_settings.of(recipe), recipe.frames or 1
    sampler, levels, scale, guidance = walking.walk(recipe, family)
    if start is not None:
        levels = part_of(levels, film.strength)
    shape = family.spec.shape(batch=len(recipes), width=recipe.width or 0, height=recipe.height or 0, frames=frames)
    if film.loop and family.spec.frame_factor > 1:
        # A loop has no first latent that stands for a single frame.
        shape = (*shape[:2], frames // family.spec.frame_factor, *shape[3:])
    windows = film.windows(family, frames)
    seeds = [recipe.seed or 0 for recipe in recipes]
    before = holding.drawn_first(family, kept, shape) if kept else None
    first, later = _noise(recipe, family, film, windows, seeds, shape, before)
    if turn:
        first = long_noise.reordered(first, seeds, turn)
    pos, neg, guidance, notes = told(recipe, family, film, guidance, len(recipes), shape[2])
    alpha, sigma = family.path.coefficients(levels[0])
    x, wrappers, patches = first * scale, list[Wrapper](), adapting.patches(recipe, family)
    if start is not None:
        with torch.inference_mode():
            x = mix(family.encode(start[None].to(family.device)).to(first), first, alpha, sigma)
    if windows is not None:
        sliding, patch = _sliding(family, film, windows)
        wrappers, patches = [*sliding], (*patches, *patch)
    if kept:
        drawn = None if before is None else noise.draw(noise.generators(seeds), before)
        held = holding.keep(family, pos, neg, x, first, alpha, sigma, kept, frames, drawn)
        pos, neg, x, notes = held.pos, held.neg, held.x, (*notes, *held.notes)
        wrappers += held.wrappers
    return Plan(
        x=x, steps=steps_of(family.path, levels), sampler=sampler, noise=later, pos=pos, neg=neg, guidance=guidance,
        wrappers=tuple(wrappers), patches=patches,
    ), notes  # fmt: skip


def part_of(levels: Sequence[float], strength: float) -> tuple[float, ...]:
    """The last `strength` of a walk, rounded down to whole steps, as diffusers does.

    Raises:
        UsageError: no step is left.
    """
    steps = len(levels) - 1
    left = min(int(steps * strength), steps)
    if left < 1:
        raise UsageError(
            f"strength {strength:g} of {steps} steps leaves none to walk; it must be at least {1 / steps:.2g}"
        )
    return tuple(levels[steps - left :])


def told(
    recipe: Recipe, family: Family, film: FilmSettings, guidance: Guidance, batch: int, latents: int
) -> tuple[Conditioning, Conditioning | None, Guidance, tuple[str, ...]]:
    """(positive, negative, guidance, notes): what the words are, over the whole clip."""
    if not film.travel:
        pos, neg, notes = walking.conditioning(recipe, family, guidance, batch)
        return pos, neg, guidance, notes
    at = stations.parse(film.travel, recipe.fps or family.spec.fps)
    prompts = [stations.with_prefix(recipe.prompt, text) for _, text in at]
    states, neg, notes = walking.conditionings(recipe, family, guidance, batch, prompts)
    times = [frame for frame, _ in at]
    late = [text for frame, text in at if frame > (recipe.frames or 1) - 1]
    notes = (*notes, *(f"the clip ends before {text!r} is reached" for text in late))
    return *stations.told(family, states, neg, times, latents, guidance), notes


def _noise(
    recipe: Recipe, family: Family, film: FilmSettings, windows: Windows | None, seeds: Sequence[int],
    shape: Sequence[int], before: Sequence[int] | None,
) -> tuple[Latents, Callable[[], Noise]]:  # fmt: skip
    kind = walking.noise_kind(recipe)
    order, device = family.spec.draw, family.device
    first, later = noise.sequence(seeds, shape, order=order, device=device, skip=before, kind=kind)
    if windows is not None and windows.length < shape[2]:
        first = long_noise.first(
            seeds, shape, length=windows.length, stride=windows.length - windows.overlap, order=order, device=device,
            skip=before, kind=cast(long_noise.LongNoise, film.long_noise),
        )  # fmt: skip
    return first, later


def _sliding(family: Family, film: FilmSettings, windows: Windows) -> tuple[tuple[Wrapper, ...], tuple[Patch, ...]]:
    """(wrappers, patches) that make the model see the clip through windows."""
    if film.context_method == "windows":
        return (windowed(windows),), ()
    if not motion.blocks(family.components["denoiser"]):
        raise UnsupportedError(f"{family.name} has no motion modules; its context method is windows")
    if film.loop:
        raise UnsupportedError("a loop needs the context method windows, which can go round")
    return (), (motion.attention_windows(windows),)
