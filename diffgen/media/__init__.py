"""Pictures to and from disk, with the recipe inside. `files` writes atomically, `sheet` makes contact sheets."""

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

__all__ = [
    "FORMATS", "load_image", "open_image", "read_metadata", "read_recipe", "save_image", "save_npz", "to_pixels",
]  # fmt: skip
