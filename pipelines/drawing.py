"""From plans to pictures: run the engine a batch at a time, decode, and say what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from diffgen import engine
from diffgen.checkpoints import Model
from diffgen.contracts import Family, Latents, Plan
from diffgen.errors import NumericalError
from diffgen.families.common import in_float32
from diffgen.recipe import Recipe

BLANK = 1e-3  # standard deviation over all pixels, in 0..1; a plain white card with one dot has more


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A step is done: `step` of `steps` for pictures `first` to `first + batch` - 1 of `total`."""

    first: int
    batch: int
    total: int
    step: int
    steps: int
    x0: Latents


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture: float32 pixels [height, width, 3] in 0..1, latents [channels, frames, h, w], recipe."""

    index: int
    pixels: np.ndarray
    latents: np.ndarray
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A finished clip: float32 pixels [frames, height, width, 3] in 0..1, latents [channels, frames, h, w], recipe."""

    index: int
    pixels: np.ndarray
    latents: np.ndarray
    recipe: Recipe


Event = Progress | Picture | Clip
Planner = Callable[[Model, Sequence[Recipe]], tuple[Plan, tuple[str, ...]]]


def batches(recipes: Sequence[Recipe], batch: int) -> Iterator[tuple[Recipe, ...]]:
    """Runs of neighbours that differ in nothing but their seed, at most `batch` long."""
    for _, run in groupby(recipes, key=lambda recipe: replace(recipe, seed=0)):
        same = list(run)
        for start in range(0, len(same), batch):
            yield tuple(same[start : start + batch])


def draw(model: Model, recipes: Sequence[Recipe], planner: Planner, batch: int = 1) -> Iterator[Event]:
    """Draws every recipe. Each picture, or clip where the recipe has frames, comes as soon as it is decoded.

    Closing the iterator cancels between two steps.

    Raises:
        NumericalError: a network gives NaN on every setting.
    """
    done = 0
    for group in batches(recipes, batch):
        plan, notes = planner(model, group)
        last = None
        for last in engine.run(model.family, plan):
            yield Progress(
                first=done, batch=len(group), total=len(recipes), step=last.step.index + 1,
                steps=last.step.count, x0=last.x0,
            )  # fmt: skip
        assert last is not None, "every schedule has at least one step"
        for k, recipe in enumerate(group):
            pixels, decoding = decode(model.family, last.x[k : k + 1])
            made = replace(recipe, batch=len(group), index=k, notes=(*notes, *last.notes, *decoding))
            latents = last.x[k].cpu().numpy()
            if recipe.frames is None:
                yield Picture(index=done + k, pixels=pixels[0], latents=latents, recipe=made)
            else:
                yield Clip(index=done + k, pixels=pixels, latents=latents, recipe=made)
        done += len(group)


def decode(family: Family, z: Latents) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels [frames, height, width, 3] in 0..1 of one picture's latents, and notes on what had to be done.

    Raises:
        NumericalError: the decoder gives NaN in float32 too.
    """
    notes = []
    with torch.inference_mode():
        pixels = family.decode(z)
        if not bool(torch.isfinite(pixels).all()):
            notes.append("decoding: NaN, retried with the autoencoder in float32")
            with in_float32("vae")(family.components):
                pixels = family.decode(z)
        if not bool(torch.isfinite(pixels).all()):
            raise NumericalError("the autoencoder gave NaN in float32 too; its weights are damaged")
    unit = to_unit(pixels)[0].permute(1, 2, 3, 0).cpu().numpy()
    if float(unit.std()) < BLANK:
        notes.append("the picture is blank")
    return unit, tuple(notes)


def to_unit(pixels: Tensor) -> Tensor:
    """Pixels in about -1..1 to 0..1, clipped."""
    return (pixels / 2 + 0.5).clamp(0, 1)
