"""Clips whose frames are known only at the end, because something is done to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from diffgen.media import FrameHash
from diffgen.pipelines.drawing import FRAMES_SHA256, Clip, Event, Frames


def changed(events: Iterator[Event], change: Callable[[Clip], np.ndarray]) -> Iterator[Event]:
    """The events with other frames in each clip, and the hash of those in its recipe.

    Args:
        change: the clip's new frames, float32 [frames, height, width, 3] in 0..1.
    """
    for event in events:
        if isinstance(event, Clip):
            pixels, hashed = change(event), FrameHash()
            hashed.add(pixels)
            recipe = replace(event.recipe, extra={**event.recipe.extra, FRAMES_SHA256: hashed.hexdigest()})
            yield replace(event, pixels=pixels, recipe=recipe)
        elif not isinstance(event, Frames):
            yield event
