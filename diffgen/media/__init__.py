"""Pictures and clips to and from disk, with the recipe inside.

`files` writes atomically, `sheet` makes contact sheets, `clips` writes clips in the formats of `containers`,
`reading` reads them.
"""

from diffgen.media.clips import CLIP_FORMATS, FrameHash, NewClip, check_format, new_clip, save_clip
from diffgen.media.containers import ClipInfo, Encoding, Frame, Sound
from diffgen.media.pictures import (
    FORMATS,
    load_image,
    open_image,
    read_metadata,
    read_recipe,
    save_image,
    save_npz,
    to_pixels,
)
from diffgen.media.rates import exact_rate, exact_seconds, frames_in
from diffgen.media.reading import LoadedClip, clip_info, load_clip, read_frames

__all__ = [
    "CLIP_FORMATS", "FORMATS", "ClipInfo", "Encoding", "Frame", "FrameHash", "LoadedClip", "NewClip", "Sound",
    "check_format", "clip_info", "exact_rate", "exact_seconds", "frames_in", "load_clip", "load_image", "new_clip",
    "open_image", "read_frames", "read_metadata", "read_recipe", "save_clip", "save_image", "save_npz", "to_pixels",
]  # fmt: skip
