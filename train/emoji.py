"""Emoji pictures from npm packages, as 128x128 pictures on white with what is known about each.

Five drawing styles of the same things teach a small model what a word looks like apart from how it is drawn.
Licences: Fluent Emoji (3d, flat, fluent) MIT; Noto Apache-2.0; Twemoji CC-BY-4.0; names from emojibase, MIT.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffgen.errors import UsageError

NAMES_PACKAGE = "emojibase-data"
STYLE_PACKAGES = {
    "3d": "@lobehub/fluent-emoji-3d",
    "flat": "@iconify-json/fluent-emoji-flat",
    "fluent": "@iconify-json/fluent-emoji",
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
}
GROUPS = {0: "faces", 1: "people", 3: "animals", 4: "food", 5: "places", 6: "activities", 7: "objects", 8: "symbols"}

# Letters, digits, clock faces and country flags are told apart by marks of a few pixels that 16x16 latents
# cannot carry. Gendered, mirrored and family copies of one person repeat a picture under another name.
LEFT_OUT = re.compile(
    r"keycap|regional|o[’']clock|-thirty|button$|facing right|famil|couple|kiss:|holding hands|"
    r"^(man|men|woman|women)[ :]|^(man|woman)$|japanese|\bbox\b|flag|letter|input|parent|arrow|"
    r"mark$|medium|blood type|sign$|circled|zodiac|person: |people with|skin tone|^(mrs|mr)\b"
)
KEPT_ANYWAY = {"man", "woman", "boxing glove", "bento box", "check mark button", "exclamation mark", "question mark"}
SIZE = 128
FILL = 116


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji's names, without a drawing.

    Args:
        code: code points in lower-case hex joined by "-", without variation selectors.
        label: the official short name.
        group: one of `GROUPS`' values.
        tags: search words, alphabetical.
        synonyms: other short names, from the short codes of chat programs.
    """

    code: str
    label: str
    group: str
    tags: tuple[str, ...]
    synonyms: tuple[str, ...]


def plain_code(code: str) -> str:
    """The form in which all the packages' names agree: lower case, without variation selectors."""
    return "-".join(part for part in code.lower().split("-") if part not in ("fe0f", "fe0e"))


def stem(package: str) -> str:
    """What `npm pack` calls a package's file.

    >>> stem("@iconify-json/noto")
    'iconify-json-noto'
    """
    return package.lstrip("@").replace("/", "-")


def fetch(folder: Path, packages: tuple[str, ...] = (NAMES_PACKAGE, *STYLE_PACKAGES.values())) -> Path:
    """Download and unpack what is missing into `folder`/raw with `npm pack`; return that folder.

    Raises:
        UsageError: npm is missing or a package cannot be had.
    """
    packed, raw = folder / "npm", folder / "raw"
    for package in packages:
        name = stem(package)
        if (raw / name / "package.json").exists():
            continue
        packed.mkdir(parents=True, exist_ok=True)
        if not list(packed.glob(f"{name}-[0-9]*.tgz")):
            try:
                subprocess.run(["npm", "pack", package], cwd=packed, check=True, capture_output=True, text=True)
            except FileNotFoundError as error:
                raise UsageError("npm is not installed; it is needed to download the emoji packages") from error
            except subprocess.CalledProcessError as error:
                raise UsageError(f"npm pack {package} failed: {error.stderr.strip()[-300:]}") from error
        with tarfile.open(sorted(packed.glob(f"{name}-[0-9]*.tgz"))[-1]) as archive:
            for member in archive.getmembers():
                member.name = member.name.partition("/")[2]
            archive.extractall(raw / name, [m for m in archive.getmembers() if m.name], filter="data")
    return raw


def names(raw: Path) -> list[Emoji]:
    """Every emoji that is worth drawing at 128 px, in Unicode's order."""
    entries: list[dict[str, Any]] = json.loads((raw / NAMES_PACKAGE / "en" / "data.json").read_text())
    codes: dict[str, set[str]] = {}
    for book in ("emojibase", "github", "joypixels"):
        for code, given in json.loads((raw / NAMES_PACKAGE / "en" / "shortcodes" / f"{book}.json").read_text()).items():
            words = [given] if isinstance(given, str) else given
            codes.setdefault(plain_code(code), set()).update(word.replace("_", " ") for word in words)
    found = []
    for entry in sorted(entries, key=lambda e: e.get("order", 1 << 30)):
        label = entry["label"].lower()
        if entry.get("group") not in GROUPS or (LEFT_OUT.search(label) and label not in KEPT_ANYWAY):
            continue
        code = plain_code(entry["hexcode"])
        found.append(
            Emoji(
                code=code,
                label=label,
                group=GROUPS[entry["group"]],
                tags=tuple(sorted(tag.lower() for tag in entry.get("tags", ()))),
                synonyms=tuple(sorted(w for w in codes.get(code, ()) if w != label and re.fullmatch("[a-z ]{3,}", w))),
            )
        )
    return found


def on_white(picture: Image.Image) -> np.ndarray:
    """Crop to what is drawn, fit its longer side to `FILL` and centre it: uint8 [128, 128, 3].

    The styles leave different margins; one size lets the model spend nothing on learning them.
    """
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox() or (0, 0, *picture.size)
    picture = picture.crop(box)
    scale = FILL / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    page = Image.new("RGBA", (SIZE, SIZE), "white")
    page.alpha_composite(small, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(page.convert("RGB"))


def _svg(icons: dict[str, Any], name: str) -> str | None:
    """The SVG text of an iconify icon; None for a name that is missing or an alias that turns its parent."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        return _svg(icons, alias["parent"]) if set(alias) == {"parent"} else None
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{view}" width="{width}" height="{height}">{icon["body"]}</svg>'


def drawings(raw: Path, style: str, wanted: list[Emoji]) -> Iterator[tuple[Emoji, np.ndarray]]:
    """Each wanted emoji that this style draws, with its picture (uint8 [128, 128, 3])."""
    folder = raw / stem(STYLE_PACKAGES[style])
    if style == "3d":
        files = {plain_code(path.stem): path for path in (folder / "assets").glob("*.webp")}
        for emoji in wanted:
            if emoji.code in files:
                yield emoji, on_white(Image.open(files[emoji.code]))
        return
    import resvg_py  # only building the set needs it

    icons = json.loads((folder / "icons.json").read_text())
    # The package of the fluent style has no table of code points, but uses the flat style's names.
    table = json.loads((folder / "chars.json").read_text()) or json.loads(
        (folder.with_name("iconify-json-fluent-emoji-flat") / "chars.json").read_text()
    )
    by_code = {plain_code(code): name for code, name in table.items()}
    for emoji in wanted:
        svg = _svg(icons, by_code.get(emoji.code, ""))
        if svg is not None:
            png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIZE, height=2 * SIZE))
            yield emoji, on_white(Image.open(io.BytesIO(png)))
