"""From plans to pictures: run the engine a batch at a time, decode, and say what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from diffgen import engine, kernels
from diffgen.checkpoints import Model
from diffgen.contracts import Latents, Plan
from diffgen.pipelines.decoding import Decoding
from diffgen.pipelines.decoding import decode as decode
from diffgen.pipelines.decoding import to_unit as to_unit
from diffgen.pipelines.extent import as_drawn, box_of
from diffgen.recipe import Recipe

FRAMES_SHA256 = "frames_sha256"  # in a clip's recipe: what its frames are compared by, since codecs lose detail


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
class Frames:
    """Frames `start` and after of clip `index`, which has `total`: float32 pixels [n, height, width, 3] in 0..1."""

    index: int
    start: int
    total: int
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A finished clip: float32 pixels [frames, height, width, 3] in 0..1, latents [channels, frames, h, w], recipe.

    The latents are those that were drawn, before anything was cut off. Without `keep` there are no pixels: [0, ...].
    """

    index: int
    pixels: np.ndarray
    latents: np.ndarray
    recipe: Recipe


Event = Progress | Picture | Frames | Clip
Planner = Callable[[Model, Sequence[Recipe]], tuple[Plan, tuple[str, ...]]]


def batches(recipes: Sequence[Recipe], batch: int) -> Iterator[tuple[Recipe, ...]]:
    """Runs of neighbours that differ in nothing but their seed, at most `batch` long."""
    for _, run in groupby(recipes, key=lambda recipe: replace(recipe, seed=0)):
        same = list(run)
        for start in range(0, len(same), batch):
            yield tuple(same[start : start + batch])


def mates(recipe: Recipe) -> list[Recipe]:
    """The recipes of the batch that this one was drawn in, itself at its place.

    The neighbours have the seeds next to this one; only their number matters.
    """
    first = (recipe.seed or 0) - recipe.index
    seeds = [max(first + k, 0) for k in range(recipe.batch)]
    seeds[recipe.index] = recipe.seed or 0
    return [replace(recipe, seed=seed, batch=1, index=0, notes=()) for seed in seeds]


def draw(
    model: Model, recipes: Sequence[Recipe], planner: Planner, batch: int = 1, *, keep: bool = True
) -> Iterator[Event]:
    """Draws every recipe. Each picture comes as soon as it is decoded, and the frames of each clip likewise.

    The planner is given clips at the size and length that the family draws; what was asked is cut out of them.

    Args:
        keep: a clip holds its frames at the end; else they are in the `Frames` before it alone, and memory does not
            grow with its length.

    Closing the iterator cancels between two steps.

    Raises:
        NumericalError: a network gives NaN on every setting.
    """
    done = 0
    for group in batches(recipes, batch):
        with kernels.running(group[0].kernels, model.family) as lacking:
            plan, notes = planner(model, [as_drawn(model.family, recipe) for recipe in group])
            last = None
            for last in engine.run(model.family, plan):
                yield Progress(
                    first=done, batch=len(group), total=len(recipes), step=last.step.index + 1,
                    steps=last.step.count, x0=last.x0,
                )  # fmt: skip
            assert last is not None, "every schedule has at least one step"
            for k, recipe in enumerate(group):
                told = _once(recipe.notes, notes, lacking, last.notes)
                made = replace(recipe, batch=len(group), index=k, notes=told, extra={**recipe.extra, **last.extra})
                yield from _decoded(model, made, done + k, last.x[k : k + 1], keep)
        done += len(group)


def _once(*several: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for notes in several for note in notes))


def _decoded(model: Model, recipe: Recipe, index: int, z: Latents, keep: bool) -> Iterator[Event]:
    """A picture; or a clip's frames, then the clip."""
    latents = z[0].cpu().numpy()
    if recipe.frames is None:
        pixels, notes = decode(model.family, z)
        made = replace(recipe, notes=_once(recipe.notes, notes))
        yield Picture(index=index, pixels=pixels[0], latents=latents, recipe=made)
        return
    box, cutting = box_of(recipe, as_drawn(model.family, recipe))
    decoding = Decoding(family=model.family, z=z, box=box)
    start, kept = 0, list[np.ndarray]()
    for pixels in decoding:
        yield Frames(index=index, start=start, total=recipe.frames, pixels=pixels)
        start += len(pixels)
        kept.append(pixels if keep else pixels[:0].copy())  # a view would keep them all
    found: dict[str, Any] = {FRAMES_SHA256: decoding.sha256}
    if decoding.seam is not None:
        found["decoding_seam"] = round(decoding.seam, 6)
    made = replace(recipe, notes=_once(recipe.notes, cutting, decoding.notes), extra={**recipe.extra, **found})
    yield Clip(index=index, pixels=np.concatenate(kept), latents=latents, recipe=made)
