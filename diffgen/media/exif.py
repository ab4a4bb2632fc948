"""Texts in EXIF, for JPEG and WebP: the two entries that diffgen writes, and what other tools write.

| entry | what stands there |
|---|---|
| UserComment (0x9286) | the parameters text, after eight bytes that name its character set |
| ImageDescription (0x010E) | our JSON, plain or, where a JPEG has too little room, packed |
| Make, Model (0x010F, 0x0110) | ComfyUI's "workflow:{...}" and "prompt:{...}" |

Source: EXIF 2.3, section 4.6.5 (UserComment).
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

from diffgen.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from diffgen.recipe import Recipe

_DESCRIPTION, _MAKE, _MODEL, _SOFTWARE, _IFD, _COMMENT = 0x010E, 0x010F, 0x0110, 0x0131, 0x8769, 0x9286
_NAMES = {_DESCRIPTION: "ImageDescription", _MAKE: "Make", _MODEL: "Model", _SOFTWARE: "Software"}
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
_PACKED = "diffgen-zlib-base85:"
_UNPACKED_MOST = 16 * 1024 * 1024
# One JPEG segment holds 65,533 bytes; the rest is for the EXIF structure itself.
JPEG_ROOM = 64_000


def encode(recipe: Recipe, *, room: int | None = None) -> bytes:
    """EXIF data with the parameters text and the whole recipe; at most `room` bytes if that is given.

    When room is short the parameters text is cut, never the JSON. Raises UsageError when not even the
    compressed JSON fits.
    """
    text, whole = recipe.to_parameters(), recipe.to_json()
    packed = _PACKED + base64.b85encode(zlib.compress(whole.encode(), 9)).decode()
    left = max(0, (room or 0) - len(packed) - 300) // 2
    comment = _UNICODE + text.encode("utf-16-be")
    shortened = _UNICODE + (text[: left // 2] + "…").encode("utf-16-be")
    for description, user_comment in ((whole, comment), (packed, comment), (packed, shortened)):
        data = _entries(description, user_comment)
        if room is None or len(data) <= room:
            return data
    raise UsageError(f"the recipe is too long for a JPEG ({len(whole):,} bytes); save it as PNG or WebP")


def decode(image: Image.Image) -> dict[str, str]:
    """The texts in a picture's EXIF, under the names that diffgen, A1111 and ComfyUI use in a PNG."""
    exif = image.getexif()
    found: dict[str, str] = {}
    for tag, name in _NAMES.items():
        text = _repair(exif.get(tag))
        kind, colon, rest = text.partition(":")
        if tag == _DESCRIPTION and (text.startswith('{"diffgen_recipe"') or text.startswith(_PACKED)):
            found["diffgen"] = _unpack(text)
        elif colon and kind.lower() in ("prompt", "workflow") and rest.lstrip().startswith("{"):
            found[kind.lower()] = rest
        elif text:
            found[name] = text
    comment = decode_comment(exif.get_ifd(_IFD).get(_COMMENT, b""))
    if comment:
        found["parameters"] = comment
    return found


def decode_comment(value: Any) -> str:
    """A UserComment's text. UTF-16 in either byte order, UTF-8 and ASCII are told apart by their bytes."""
    if isinstance(value, str):
        return value.strip("\0")
    if not isinstance(value, bytes):
        return ""
    charset, body = value[:8], value[8:]
    if charset == _UNICODE:
        return _utf16(body).strip("\0")
    known = charset in (_ASCII, b"\0" * 8) or charset.startswith(b"JIS")
    return (body if known else value).decode("utf-8", "replace").strip("\0")


def _entries(description: str, comment: bytes) -> bytes:
    from PIL import Image

    from diffgen import __version__

    exif = Image.Exif()
    exif[_DESCRIPTION] = description
    exif[_SOFTWARE] = f"diffgen {__version__}"
    exif.get_ifd(_IFD)[_COMMENT] = comment
    return exif.tobytes()


def _utf16(body: bytes) -> str:
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return body.decode("utf-16", "replace")
    # Tools disagree on the byte order. The values after a prompt are ASCII, so one byte of each is zero.
    high, low = body[0::2].count(0), body[1::2].count(0)
    if not high and not low:
        return body.decode("utf-8", "replace")
    return body.decode("utf-16-be" if high >= low else "utf-16-le", "replace")


def _repair(value: Any) -> str:
    """An ASCII entry as text; PIL reads its bytes as latin-1, many tools write UTF-8 there."""
    if not isinstance(value, str):
        return ""
    try:
        return value.encode("latin-1").decode("utf-8").strip("\0")
    except UnicodeError:
        return value.strip("\0")


def _unpack(text: str) -> str:
    if not text.startswith(_PACKED):
        return text
    try:
        inflate = zlib.decompressobj()
        return inflate.decompress(base64.b85decode(text.removeprefix(_PACKED)), _UNPACKED_MOST).decode()
    except (ValueError, zlib.error) as error:
        raise UsageError(f"the recipe in this picture is damaged: {error}") from error
