"""Pictures to and from disk, with the recipe inside.

| format | parameters text | whole recipe (JSON) |
|---|---|---|
| PNG | text chunk `parameters` | iTXt chunk `diffgen` |
| JPEG, WebP | EXIF UserComment, as A1111 writes it | EXIF ImageDescription |

Clips: `diffgen.media.clips`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffgen.errors import NumericalError, UsageError, unknown
from diffgen.media import exif
from diffgen.media.files import new_file
from diffgen.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

T = TypeVar("T")
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
MAX_PIXELS = 100_000_000


def to_pixels(array: np.ndarray) -> np.ndarray:
    """float [..., h, w, 3] in 0..1 -> uint8 of the same shape, clipped, then (x * 255).round().

    The same rounding as diffusers, half to even. uint8 passes through. Raises NumericalError for NaN.
    """
    import numpy as np

    array = np.asarray(array)
    if array.ndim < 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise UsageError(f"a picture has the shape [height, width, 3], not {list(array.shape)}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"a picture is float in 0..1 or uint8 in 0..255, not {array.dtype}")
    if np.isnan(array).any():
        raise NumericalError("the picture holds NaN, so it was not saved")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


def save_image(
    path: str | Path,
    pixels: np.ndarray,
    recipe: Recipe | None = None,
    *,
    format: str | None = None,
    quality: int = 95,
    lossless: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes one picture, whole or not at all, and returns its path.

    `pixels` is [h, w, 3]: uint8, or float in 0..1. The extension decides the format; a path without one
    takes `format` (png, jpeg, webp). `quality` 1..100 is for JPEG and lossy WebP, `lossless` for WebP.
    Raises FileTaken when the name is in use, UsageError or DiffgenError naming the path and the cause.
    """
    from PIL import Image

    path, kind = _target(Path(path), format)
    if not 1 <= quality <= 100:
        raise UsageError(f"the quality is 1 to 100, not {quality}")
    pixels = to_pixels(pixels)
    if pixels.ndim != 3:
        raise UsageError(f"one picture has the shape [height, width, 3], not {list(pixels.shape)}")
    options = _options(kind, recipe, quality, lossless)
    encoded = io.BytesIO()
    try:
        Image.fromarray(pixels).save(encoded, kind, **options)
    except (OSError, ValueError) as error:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise UsageError(f"cannot encode {path} ({size}) as {kind}: {error}") from error
    with new_file(path, overwrite=overwrite) as file:
        file.write(encoded.getbuffer())
    return path


def save_npz(
    path: str | Path,
    pixels: np.ndarray,
    latents: Any,
    recipe: Recipe | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """float32 `pixels` [n, h, w, 3], or [n, frames, h, w, 3] for clips, in 0..1 and `latents`; unrounded, atomic.

    `latents` is anything NumPy can read, such as a CPU tensor [n, c, f, h, w]. The recipe's JSON is stored
    as the 0-d text array `diffgen`. Raises as `save_image` does.
    """
    import numpy as np

    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise unknown("array format", path.suffix, [".npz"])
    arrays = {"pixels": np.asarray(pixels, np.float32), "latents": np.asarray(latents)}
    if arrays["pixels"].ndim not in (4, 5) or arrays["pixels"].shape[-1] != 3:
        shape = list(arrays["pixels"].shape)
        raise UsageError(f"pixels have the shape [n, height, width, 3] or [n, frames, height, width, 3], not {shape}")
    if recipe is not None:
        arrays["diffgen"] = np.asarray(recipe.to_json())
    with new_file(path, overwrite=overwrite) as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return path


def load_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture file -> float32 [h, w, 3] in 0..1, upright (EXIF), alpha flattened on white, 16 bits kept.

    The first frame of an animation. Colour profiles are not applied. Raises UsageError for a missing file,
    a file that is no picture, a truncated one, or one of more than `max_pixels` pixels.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        return _decode(path, image, _to_float)


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An opened, not yet decoded picture (use it in a with block). Raises as `load_image` does."""
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        image = Image.open(path)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{path} is not a picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise UsageError(f"{path} is too large: {error}") from error
    except OSError as error:
        if error.errno is None:
            raise UsageError(f"{path} is damaged or cut off: {error}") from error
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, SyntaxError, EOFError) as error:
        raise UsageError(f"{path} is damaged or cut off: {error}") from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        image.close()
        raise UsageError(f"{path} is {size}, more than the {max_pixels:,} pixels that are read at most")
    return image


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts a picture or a clip carries, under the names they have in a PNG, whatever its format.

    EXIF UserComment appears as `parameters` and our JSON as `diffgen`; ComfyUI's EXIF entries appear as
    `prompt` and `workflow`. Raises UsageError for a file that cannot be read.
    """
    from diffgen.media.movie_reading import is_movie, movie_texts
    from diffgen.media.sequence import read_about

    if Path(path).is_dir():
        recipe = read_about(Path(path))[1]
        return {} if recipe is None else {"diffgen": recipe}
    if is_movie(Path(path)):
        return movie_texts(Path(path))
    with open_image(path) as image:
        # PNG allows texts behind the pixels, and `.text` decodes the picture to reach them.
        texts = _decode(path, image, lambda opened: dict(getattr(opened, "text", None) or {}))
        entries = _decode(path, image, exif.decode)
        comment = image.info.get("comment")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "replace")
    # A GIF holds one text and no names for it.
    kind = "diffgen" if isinstance(comment, str) and comment.startswith('{"diffgen_recipe"') else "Comment"
    more = {kind: comment} if isinstance(comment, str) and comment else {}
    return {**more, **entries, **{str(key): str(value) for key, value in texts.items()}}


def read_recipe(path: str | Path) -> Recipe | None:
    """The recipe that diffgen wrote into a picture, exact; None when there is none.

    Other tools' pictures: `diffgen.foreign.describe`. Raises UsageError for an unreadable or damaged file.
    """
    text = read_metadata(path).get("diffgen")
    return None if text is None else Recipe.from_json(text)


def _target(path: Path, format: str | None) -> tuple[Path, str]:
    """The path with its extension, and PIL's name of the format."""
    wanted = None if format is None else FORMATS.get(f".{format.lower().lstrip('.')}")
    if format is not None and wanted is None:
        raise unknown("picture format", format, [name[1:] for name in FORMATS])
    if not path.suffix and wanted and path.name:
        return path.with_name(f"{path.name}.{wanted}"), wanted
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise unknown("picture format", path.suffix or str(path), FORMATS)
    if wanted not in (None, kind):
        raise UsageError(
            f"{path} is named as {kind}, but the format asked for is {wanted}; change one of them"
        )
    return path, kind


def _options(kind: str, recipe: Recipe | None, quality: int, lossless: bool) -> dict[str, Any]:
    """What PIL's save takes for this format, the recipe included."""
    if kind == "png":
        return {"pnginfo": _png_texts(recipe)} if recipe else {}
    # 4:4:4 in JPEG: halved colour resolution is plainly visible on icons and small pictures.
    options: dict[str, Any] = {
        "quality": quality,
        **({"subsampling": 0} if kind == "jpeg" else {"lossless": lossless}),
    }
    if recipe:
        options["exif"] = exif.encode(recipe, room=exif.JPEG_ROOM if kind == "jpeg" else None)
    return options


def _png_texts(recipe: Recipe) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    # tEXt is latin-1 only; add_text falls back to iTXt, which is UTF-8, for every other text.
    info.add_text("parameters", recipe.to_parameters().replace("\0", ""))
    info.add_itxt("diffgen", recipe.to_json())
    return info


def _to_float(image: Image.Image) -> np.ndarray:
    import numpy as np
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        deep = np.asarray(image, np.float32)
        grey = deep if image.mode == "F" else deep / 65535
        return np.repeat(grey.clip(0, 1)[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"), np.float32) / 255
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])


def _decode(path: str | Path, image: Image.Image, read: Callable[[Image.Image], T]) -> T:
    try:
        return read(image)
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise a dozen unrelated types for a damaged file, struct.error among them.
        raise UsageError(f"{path} is damaged or cut off: {error}") from error
