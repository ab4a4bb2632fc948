"""Pictures made from pictures: recoloured copies and pasted pairs, each with the words for what changed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from diffgen.train.data import Record

# Hue on Pillow's circle of 256, and the factors for saturation and value that make the name fit.
COLOURS = {
    "red": (0, 1.0, 1.0),
    "orange": (20, 1.05, 1.05),
    "yellow": (38, 1.0, 1.15),
    "green": (88, 1.0, 0.95),
    "blue": (152, 1.0, 1.0),
    "purple": (194, 0.95, 0.95),
    "pink": (232, 0.6, 1.15),
}
RECOLOURED_GROUPS = ("animals", "food", "places", "activities", "objects")
RECOLOURED_SHARE = 0.5
PASTED_COUNT = 700


def dominant_hue(picture: np.ndarray) -> tuple[int, float]:
    """The hue (0..255) that most saturated pixels share and the share of them within 22 steps of it."""
    hsv = np.asarray(Image.fromarray(picture).convert("HSV")).reshape(-1, 3)
    strong = hsv[(hsv[:, 1] > 70) & (hsv[:, 2] > 60), 0]
    if len(strong) < 1200:
        return 0, 0.0
    counts = np.bincount(strong, minlength=256).astype(float)
    smooth = sum(np.roll(counts, shift) for shift in range(-8, 9))
    hue = int(np.argmax(smooth))
    distance = np.abs((strong.astype(int) - hue + 128) % 256 - 128)
    return hue, float((distance <= 22).mean())


def recolour(picture: np.ndarray, hue: int, colour: str) -> np.ndarray:
    """Turn every hue by what takes `hue` to the colour's: uint8 in, uint8 out."""
    target, saturation, value = COLOURS[colour]
    hsv = np.asarray(Image.fromarray(picture).convert("HSV")).astype(np.float32)
    coloured = hsv[..., 1] > 40
    hsv[..., 0] = (hsv[..., 0] + target - hue) % 256
    hsv[..., 1] = np.where(coloured, np.clip(hsv[..., 1] * saturation, 0, 255), hsv[..., 1])
    hsv[..., 2] = np.where(coloured, np.clip(hsv[..., 2] * value, 0, 255), hsv[..., 2])
    return np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))


def recoloured(
    records: list[Record], pictures: list[np.ndarray], rng: np.random.Generator
) -> list[tuple[Record, np.ndarray]]:
    """A copy in another colour of about half the pictures that have one main hue, captioned "blue X"."""
    made = []
    for record, picture in zip(records, pictures, strict=True):
        if record.held_out or record.group not in RECOLOURED_GROUPS:
            continue
        hue, share = dominant_hue(picture)
        plain = " ".join(w for w in record.label.split() if w not in COLOURS)
        if share < 0.7 or rng.random() > RECOLOURED_SHARE:
            continue
        far = [c for c, (h, _, _) in COLOURS.items() if abs((h - hue + 128) % 256 - 128) > 25]
        colour = far[int(rng.integers(len(far)))]
        copy = dataclasses.replace(
            record, label=f"{colour} {plain}", kind="recoloured", names=(), weight=0.5 * record.weight
        )
        made.append((copy, recolour(picture, hue, colour)))
    return made


def _paste(parts: list[tuple[np.ndarray, int, tuple[int, int]]]) -> np.ndarray:
    """Pictures scaled to a side and multiplied onto white at (left, top): uint8 [128, 128, 3]."""
    page = np.full((128, 128, 3), 255, np.uint8)
    for picture, side, (left, top) in parts:
        small = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
        view = page[top : top + side, left : left + side]
        view[:] = np.minimum(view, small)
    return page


def pasted(
    records: list[Record], pictures: list[np.ndarray], rng: np.random.Generator
) -> list[tuple[Record, np.ndarray]]:
    """Two things side by side, or the same thing twice, in one style: "X and Y", "two X"."""
    usable = [
        i for i, r in enumerate(records) if r.group in ("animals", "food", "objects", "places") and not r.held_out
    ]
    weights = np.asarray([records[i].weight for i in usable])
    by_style: dict[str, list[int]] = {}
    for i in usable:
        by_style.setdefault(records[i].style, []).append(i)
    made = []
    for number in range(PASTED_COUNT):
        first = usable[int(rng.choice(len(usable), p=weights / weights.sum()))]
        same = by_style[records[first].style]
        second = first if number % 3 == 0 else same[int(rng.integers(len(same)))]
        a, b = records[first], records[second]
        label = f"two {a.label}" if first == second else f"{a.label} and {b.label}"
        codes = a.codes if first == second else a.codes + b.codes
        top = int(rng.integers(24, 41))
        page = _paste([(pictures[first], 64, (0, top)), (pictures[second], 64, (64, top))])
        made.append((dataclasses.replace(a, label=label, codes=codes, kind="pasted", names=(), weight=0.5), page))
    return made
