"""Tasks: each makes a plan for the engine out of what a person asked for. One file a task."""

from diffgen.pipelines.drawing import Clip, Event, Picture, Progress
from diffgen.pipelines.extend import extend
from diffgen.pipelines.image_to_video import image_to_video
from diffgen.pipelines.interpolate import interpolate
from diffgen.pipelines.loop import loop
from diffgen.pipelines.text_to_image import prepare, replay, stream, text_to_image
from diffgen.pipelines.text_to_video import text_to_video
from diffgen.pipelines.travel import travel
from diffgen.pipelines.video_to_video import video_to_video

__all__ = [
    "Clip", "Event", "Picture", "Progress", "extend", "image_to_video", "interpolate", "loop", "prepare", "replay",
    "stream", "text_to_image", "text_to_video", "travel", "video_to_video",
]  # fmt: skip
