"""Several pictures on one page, with labels: for looking at, never for measuring."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffgen.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_GAP = 8
_PAPER, _INK = (255, 255, 255), (32, 32, 32)
_LABEL_LINES = 3
# By file name, for Linux, Windows and macOS; those with the most scripts come first.
_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "Arial.ttf")


def contact_sheet(
    images: Sequence[Image.Image | np.ndarray],
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    *,
    max_side: int = 4096,
) -> Image.Image:
    """One RGB page with the pictures in reading order, each centred in its cell above its label.

    `images` are PIL pictures or arrays [h, w, 3] (uint8, or float in 0..1), of any sizes. Without
    `columns` the page is nearly square. Labels are wrapped to three lines and then end in "...". Pictures
    are made smaller where the page would pass `max_side` pixels, never larger. Labels beyond ASCII need a
    font of the system's; without one they lose their accents. Raises UsageError for no pictures, or for
    labels of another number.
    """
    from PIL import Image

    pictures = [_picture(image) for image in images]
    if not pictures:
        raise UsageError("a contact sheet needs at least one picture")
    if labels is not None and len(labels) != len(pictures):
        raise UsageError(f"{len(labels)} labels were given for {len(pictures)} pictures")
    if columns is not None and columns < 1:
        raise UsageError(f"a contact sheet needs at least one column, not {columns}")
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    most = max(8, max_side // max(columns, rows) - 2 * _GAP)
    for picture in pictures:
        picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    wide = max(picture.width for picture in pictures)
    high = max(picture.height for picture in pictures)
    texts, font, size = _wrapped(labels or [], wide)
    line = math.ceil(size * 1.25)
    below = line * max((len(text) for text in texts), default=0) + (_GAP // 2 if texts else 0)
    page = Image.new("RGB", (columns * (wide + _GAP) + _GAP, rows * (high + below + _GAP) + _GAP), _PAPER)
    for number, picture in enumerate(pictures):
        left = _GAP + (number % columns) * (wide + _GAP)
        top = _GAP + (number // columns) * (high + below + _GAP)
        page.paste(picture, (left + (wide - picture.width) // 2, top + (high - picture.height) // 2))
        if texts:
            _write(page, texts[number], (left, top + high + _GAP // 2), font, line)
    return page


def _picture(image: Any) -> Image.Image:
    """A fresh RGB copy: thumbnail works in place, and the caller's picture must not shrink."""
    from PIL import Image

    from diffgen.media import to_pixels

    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    pixels = to_pixels(image)
    if pixels.ndim != 3:
        raise UsageError(f"one picture has the shape [height, width, 3], not {list(pixels.shape)}")
    return Image.fromarray(pixels)


def _font(size: int, *, wide_script: bool) -> tuple[Any, bool]:
    """(font, whether it has more than ASCII). Pillow carries an ASCII font; others are looked up by name."""
    from PIL import ImageFont

    for name in _FONTS if wide_script else ():
        try:
            return ImageFont.truetype(name, size), True
        except OSError:
            # Not installed here; the last resort below always is.
            continue
    return ImageFont.load_default(size), False


def _wrapped(labels: Sequence[str], wide: int) -> tuple[list[list[str]], Any, int]:
    """Each label's lines, the font, and its size, which suits the cell: 12 to 28 pixels."""
    size = min(28, max(12, wide // 20))
    texts = [" ".join(label.split()) for label in labels]
    font, complete = _font(size, wide_script=not "".join(texts).isascii())
    if not complete:
        texts = [_ascii(text) for text in texts]
    return [_wrap(text, wide, font) for text in texts], font, size


def _ascii(text: str) -> str:
    """Letters without their accents, and "?" for what has no such form: better than empty boxes."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(c if c.isascii() else "?" for c in parts if not unicodedata.combining(c))


def _wrap(text: str, wide: int, font: Any) -> list[str]:
    lines: list[str] = []
    while text and len(lines) < _LABEL_LINES:
        fits = _fitting(text, wide, font)
        if fits < len(text):
            # Between words where there is a space to break at, within the word otherwise.
            space = text.rfind(" ", 0, fits + 1)
            fits = space if space > 0 else fits
        lines.append(text[:fits].rstrip())
        text = text[fits:].lstrip()
    if text:
        last = lines[-1]
        while last and font.getlength(last + "...") > wide:
            last = last[:-1]
        lines[-1] = last + "..."
    return lines


def _fitting(text: str, wide: int, font: Any) -> int:
    """How many leading characters fit on a line; at least one, so that wrapping ends."""
    low, high = 1, min(len(text), wide)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= wide else (low, middle - 1)
    return max(1, low)


def _write(page: Image.Image, lines: list[str], at: tuple[int, int], font: Any, line: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(page)
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + number * line), text, fill=_INK, font=font)
