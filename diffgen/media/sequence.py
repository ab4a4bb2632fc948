"""A folder of PNG files, frame-00001.png and so on, with the frame rate and the recipe in clip.json beside them."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.errors import UsageError
from diffgen.media.containers import Encoding, Shape, Sound

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

ABOUT = "clip.json"
_FRAME = re.compile(r"frame-\d{5,}\.png")


def ours(name: str) -> bool:
    """Whether a folder of frames holds files of that name."""
    return name == ABOUT or _FRAME.fullmatch(name) is not None


def frame_name(k: int) -> str:
    """The file of frame `k`, counted from 0; the files count from 1, as editors do."""
    return f"frame-{k + 1:05d}.png"


class FolderWriter:
    """Implements `diffgen.media.containers.Writer` on a folder that is there and empty."""

    def __init__(self, folder: Path, shape: Shape, encoding: Encoding) -> None:
        self.folder, self.shape, self.count = folder, shape, 0

    def add(self, pixels: np.ndarray) -> None:
        from PIL import Image

        Image.fromarray(pixels).save(self.folder / frame_name(self.count), "png")
        self.count += 1

    def finish(self, recipe: Recipe | None, sound: Sound | None) -> tuple[str, ...]:
        about: dict[str, Any] = {"frames": self.count, "fps": str(self.shape.fps)}
        if recipe:
            about["recipe"] = json.loads(recipe.to_json())
        (self.folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        return ()

    def close(self) -> None:
        """Nothing is open between two frames."""


def read_about(folder: Path) -> tuple[Fraction | None, str | None]:
    """(frames a second, the recipe's JSON) of a folder of frames, as far as it says.

    Raises:
        UsageError: its clip.json is damaged.
    """
    file = folder / ABOUT
    if not file.is_file():
        return None, None
    try:
        about = json.loads(file.read_text())
        recipe = about.get("recipe")
        fps = about.get("fps")
        return None if fps is None else Fraction(fps), None if recipe is None else json.dumps(recipe)
    except (OSError, ValueError, AttributeError, TypeError, ZeroDivisionError) as error:
        raise UsageError(f"{file} is damaged: {error}") from error
