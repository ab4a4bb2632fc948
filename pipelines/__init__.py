"""Tasks: each makes a plan for the engine out of what a person asked for. One file a task."""

from diffgen.pipelines.drawing import Event, Picture, Progress
from diffgen.pipelines.text_to_image import prepare, replay, stream, text_to_image

__all__ = ["Event", "Picture", "Progress", "prepare", "replay", "stream", "text_to_image"]
