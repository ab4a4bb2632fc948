"""Pictures that a task is given, brought to size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffgen.errors import UsageError


def padded(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture [height, width, 3] in the middle of a larger one, its edges repeated around it."""
    above, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    rows, columns = (above, height - image.shape[0] - above), (left, width - image.shape[1] - left)
    return np.pad(image, (rows, columns, (0, 0)), mode="edge")


def fit(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture at `width` x `height`: scaled to cover it, the overhang cut off evenly. And a note, if so.

    Args:
        image: [height, width, 3], floats in 0..1.

    Raises:
        UsageError: it has another shape or holds values outside 0..1.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UsageError(f"a picture is an array [height, width, 3]; got the shape {list(image.shape)}")
    if not (np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1):
        raise UsageError("the values of a picture are floats in 0..1")
    high, wide = image.shape[:2]
    if (wide, high) == (width, height):
        return image.astype(np.float32), ()
    scale = max(width / wide, height / high)
    cover = wide - width / scale, high - height / scale
    box = (cover[0] / 2, cover[1] / 2, wide - cover[0] / 2, high - cover[1] / 2)
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    fitted = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box=box), dtype=np.float32) / 255
    cut = f", {cover[0]:.0f} columns and {cover[1]:.0f} rows cut off" if max(cover) >= 0.5 else ""
    return fitted, (f"the picture was scaled from {wide}x{high} to {width}x{height}{cut}",)
