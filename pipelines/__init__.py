"""Tasks: each makes a plan for the engine out of what a person asked for. One file a task."""

from diffgen.pipelines.drawing import Clip, Event, Picture, Progress
from diffgen.pipelines.image_to_video import image_to_video
from diffgen.pipelines.text_to_image import prepare, replay, stream, text_to_image
from diffgen.pipelines.text_to_video import text_to_video

__all__ = [
    "Clip", "Event", "Picture", "Progress", "image_to_video", "prepare", "replay", "stream", "text_to_image",
    "text_to_video",
]  # fmt: skip
