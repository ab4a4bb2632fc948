"""A clip again, from its own recipe: the same frames to the bit where the model and the machine are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from diffgen.checkpoints import Model
from diffgen.errors import UsageError
from diffgen.pipelines import adapting
from diffgen.pipelines.drawing import Event, Progress, mates
from diffgen.pipelines.image_to_video import digest, fitted_to
from diffgen.pipelines.image_to_video import stream as from_picture
from diffgen.pipelines.loop import stream as looping
from diffgen.pipelines.text_to_video import stream as from_words
from diffgen.recipe import Recipe

TASKS = ("text_to_video", "travel", "loop", "image_to_video")


def stream(
    model: Model, recipe: Recipe, *, image: np.ndarray | None = None, keep: bool = True, **where: object
) -> Iterator[Event]:
    """The steps, the frames and the clip of `recipe`, in the batch shape it was first made in.

    Args:
        image: the first frame, where the recipe began with one.
        keep: as for `diffgen.pipelines.text_to_video.stream`.
        where: finds adapters that have moved, see `diffgen.pipelines.adapting.located`.

    Raises:
        UsageError: the recipe's task needs a clip or pictures that it does not hold, or `image` is another one.
    """
    if recipe.task not in TASKS:
        raise UsageError(f"a clip made by {recipe.task} cannot be drawn again: its recipe holds no copy of its source")
    same = mates(adapting.located(recipe, **where))
    if recipe.task == "image_to_video":
        events = from_picture(model, same, _checked(recipe, image), batch=recipe.batch, keep=keep)
    elif recipe.task == "loop":
        events = looping(model, same, batch=recipe.batch)
    else:
        events = from_words(model, same, batch=recipe.batch, keep=keep)
    for event in events:
        if isinstance(event, Progress):
            yield event
        elif event.index == recipe.index:
            yield replace(event, index=0)


def _checked(recipe: Recipe, image: np.ndarray | None) -> np.ndarray:
    """`image`, found to be the one that the recipe began with."""
    if image is None:
        raise UsageError("this clip began with a picture; give it with --from")
    fitted, _ = fitted_to({0: image}, recipe)
    if digest(fitted[0]) != recipe.extra.get("image_sha256"):
        raise UsageError("the picture given with --from is not the one that this clip began with")
    return image
