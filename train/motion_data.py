"""Clips of moving emoji: fetched once, cut to one loop of `FRAMES` pictures each, kept in a folder.

The moving pictures are Fluent Emoji (MIT). Things that have no moving picture get one from a still one by a loop of
small shifts, turns and squashes, so that the motion modules also see fruit and houses.
The folder holds `clips.npy` (uint8 [count, FRAMES, 128, 128, 3]) and `clips.json` (one entry a clip).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffgen.errors import UsageError
from diffgen.train import emoji
from diffgen.train.captions import article
from diffgen.train.motion_words import KEPT, STILLS, base_weight, motion_words

PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4))
FRAMES = 32  # twice what a clip is trained with, so that each has two halves to choose from
STILL_WEIGHT = 0.5
HELD_OUT_EVERY = 25
LEAST = 12  # pictures of a file that moves; most have 72


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """What is known about one clip.

    Args:
        label: what it shows.
        code: the emoji's code points.
        kind: "drawn" for a moving picture, "still" for one that was set in motion here.
        weight: how often it is drawn, relative to the others.
        held_out: never trained on.
    """

    label: str
    code: str
    kind: str
    weight: float = 1.0
    held_out: bool = False


def clip_captions(label: str) -> list[str]:
    """What a clip may be called: with and without the style, and with a word for the motion.

    >>> clip_captions("red heart")[:3]
    ['3d emoji of a red heart', '3d emoji of a beating red heart', 'a red heart']
    """
    word = motion_words(label)
    moving = label if label.startswith(word) else f"{word} {label}"
    thing, named = article(label), article(moving)
    return [
        f"3d emoji of {thing}", f"3d emoji of {named}", thing, named, f"3d emoji of {label}", f"3d {moving}",
    ]  # fmt: skip


def _evenly(path: Path) -> list[Image.Image]:
    """`FRAMES` pictures at even distances over one round of an animated file."""
    with Image.open(path) as file:
        count = getattr(file, "n_frames", 1)
        wanted = [k * count // FRAMES for k in range(FRAMES)]
        frames: dict[int, Image.Image] = {}
        for number in sorted(set(wanted)):
            file.seek(number)
            frames[number] = file.convert("RGBA")
    return [frames[number] for number in wanted]


def on_white(frames: list[Image.Image]) -> np.ndarray:
    """Cut to all that is drawn in any frame, fitted and centred as a still: uint8 [frames, 128, 128, 3]."""
    boxes = [frame.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox() for frame in frames]
    seen = np.array([box for box in boxes if box is not None] or [(0, 0, *frames[0].size)])
    box = (*seen[:, :2].min(0).tolist(), *seen[:, 2:].max(0).tolist())
    scale = emoji.FILL / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    corner = ((emoji.SIZE - size[0]) // 2, (emoji.SIZE - size[1]) // 2)
    made = []
    for frame in frames:
        small = frame.crop(box).convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
        page = Image.new("RGBA", (emoji.SIZE, emoji.SIZE), "white")
        page.alpha_composite(small, corner)
        made.append(np.asarray(page.convert("RGB")))
    return np.stack(made)


def set_in_motion(picture: Image.Image, kind: str) -> list[Image.Image]:
    """A still picture through one loop of motion, `FRAMES` pictures.

    Args:
        kind: "bouncing" (up and down, squashed on the ground), "swaying" (turned about its foot) or "pulsing".
    """
    side = max(picture.size) * 5 // 4
    page = Image.new("RGBA", (side, side))
    page.alpha_composite(picture.convert("RGBA"), ((side - picture.width) // 2, (side - picture.height) // 2))
    foot = (side + picture.height) / 2
    return [_moved(page, kind, 2 * math.pi * k / FRAMES, foot) for k in range(FRAMES)]


def _moved(page: Image.Image, kind: str, phase: float, foot: float) -> Image.Image:
    turn, wide, tall, up = 0.0, 1.0, 1.0, 0.0
    anchor = foot
    if kind == "bouncing":
        height = abs(math.sin(phase))
        wide, tall = 1.06 - 0.06 * height, 0.92 + 0.08 * height
        up = 0.1 * page.height * height
    elif kind == "swaying":
        turn = 0.17 * math.sin(phase)
    else:
        wide = tall = 0.92 + 0.08 * math.cos(phase)
        anchor = page.height / 2
    centre = page.width / 2
    cos, sin = math.cos(turn), math.sin(turn)
    # Image.transform asks for the way back: where each pixel of the result comes from.
    row = (cos / wide, sin / wide, centre - cos / wide * centre - sin / wide * (anchor - up))
    column = (-sin / tall, cos / tall, anchor + sin / tall * centre - cos / tall * (anchor - up))
    return page.transform(page.size, Image.Transform.AFFINE, (*row, *column), Image.Resampling.BICUBIC)


def _drawn(raw: Path, names: dict[str, emoji.Emoji]) -> Iterator[tuple[ClipRecord, np.ndarray]]:
    files = [path for package in PACKAGES for path in (raw / emoji.stem(package) / "assets").glob("*.webp")]
    for path in sorted(files, key=lambda p: p.stem):
        known = names.get(emoji.plain_code(path.stem))
        if known is None or (known.group == "people" and not KEPT.search(known.label)):
            continue
        with Image.open(path) as file:
            if getattr(file, "n_frames", 1) < LEAST:
                continue
        record = ClipRecord(label=known.label, code=known.code, kind="drawn", weight=base_weight(known.label))
        yield record, on_white(_evenly(path))


def _stills(raw: Path, names: dict[str, emoji.Emoji]) -> Iterator[tuple[ClipRecord, np.ndarray]]:
    folder = raw / emoji.stem(emoji.STYLE_PACKAGES["3d"]) / "assets"
    files = {emoji.plain_code(path.stem): path for path in folder.glob("*.webp")}
    kinds = ("bouncing", "swaying", "pulsing")
    for number, label in enumerate(sorted(STILLS)):
        found = [known for known in names.values() if known.label == label and known.code in files]
        for known in found:
            kind = kinds[number % 3]
            with Image.open(files[known.code]) as picture:
                frames = on_white(set_in_motion(picture, kind))
            yield ClipRecord(label=f"{kind} {label}", code=known.code, kind="still", weight=STILL_WEIGHT), frames


def build(folder: Path) -> int:
    """Fetch the packages and build the clips in `folder`; return their number.

    Raises:
        UsageError: a package cannot be had.
    """
    raw = emoji.fetch(folder, (emoji.NAMES_PACKAGE, emoji.STYLE_PACKAGES["3d"], *PACKAGES))
    names = {known.code: known for known in emoji.names(raw)}
    records: list[ClipRecord] = []
    clips: list[np.ndarray] = []
    for make in (_drawn, _stills):
        for record, clip in make(raw, names):
            held_out = record.kind == "drawn" and record.weight == 1.0 and len(records) % HELD_OUT_EVERY == 0
            records.append(dataclasses.replace(record, held_out=held_out))
            clips.append(clip)
    target = folder / "clips"
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "clips.npy", np.stack(clips))
    (target / "clips.json").write_text(json.dumps([dataclasses.asdict(r) for r in records], indent=0))
    return len(records)


class ClipSet:
    """The built clips, memory-mapped.

    Args:
        folder: what `build` was given.

    Raises:
        UsageError: no clips were built there.
    """

    def __init__(self, folder: Path) -> None:
        path = Path(folder) / "clips"
        if not (path / "clips.json").is_file():
            raise UsageError(f"no clips in {folder}; build them first with: diffgen train clips --data {folder}")
        self.clips: np.ndarray = np.load(path / "clips.npy", mmap_mode="r")
        self.records = [ClipRecord(**entry) for entry in json.loads((path / "clips.json").read_text())]

    def indices(self, *, held_out: bool) -> np.ndarray:
        """The clip numbers of one side of the split, int64 [n]."""
        return np.asarray([i for i, r in enumerate(self.records) if r.held_out == held_out], dtype=np.int64)
