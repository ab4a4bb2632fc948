"""The picture set: built once into a folder, read as arrays, weighted, with some drawings held out.

The folder holds `pictures.npy` (uint8 [count, 128, 128, 3]) and `records.json` (one entry a picture).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffgen.errors import UsageError
from diffgen.train import augment, emoji
from diffgen.train.staples import STAPLES

HELD_OUT = 195
# Faces of people drown objects if every emoji counts the same, and signs are of little use in a picture.
GROUP_WEIGHTS = {"people": 0.6, "symbols": 0.6}
STAPLE_WEIGHT = 3.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known about one picture.

    Args:
        label: what it shows; for a recoloured copy the colour word is part of it.
        style: one of `emoji.STYLE_PACKAGES`.
        group: one of `emoji.GROUPS`' values.
        codes: the emoji shown (two for a pasted pair).
        kind: "drawn", "recoloured" or "pasted".
        names: the label's synonyms that may stand for it in a caption.
        weight: how often it is drawn, relative to the others.
        held_out: never trained on, though its emoji is seen in another style.
    """

    label: str
    style: str
    group: str
    codes: tuple[str, ...]
    kind: str = "drawn"
    names: tuple[str, ...] = ()
    weight: float = 1.0
    held_out: bool = False


def held_out_pairs(pairs: list[tuple[str, str]], count: int = HELD_OUT) -> set[tuple[str, str]]:
    """The (code, style) pairs to hold out: the same ones wherever the set is built.

    At most one style of an emoji, and only of emoji that have at least two others to learn from.
    """
    styles: dict[str, int] = {}
    for code, _ in pairs:
        styles[code] = styles.get(code, 0) + 1
    taken: dict[str, str] = {}
    for pair in sorted(pairs, key=lambda p: hashlib.sha256("/".join(p).encode()).hexdigest()):
        if styles[pair[0]] >= 3 and len(taken) < count:
            taken.setdefault(*pair)
    return set(taken.items())


def base_weight(label: str, group: str) -> float:
    """How often a drawn picture is shown, relative to an ordinary one."""
    return GROUP_WEIGHTS.get(group, 1.0) * (STAPLE_WEIGHT if label in STAPLES else 1.0)


def build(folder: Path, *, seed: int = 0) -> int:
    """Fetch the packages and build the set in `folder`; return the number of pictures.

    Raises:
        UsageError: a package cannot be had.
    """
    raw = emoji.fetch(folder)
    wanted = emoji.names(raw)
    owners: dict[str, int] = {}
    for item in wanted:
        for word in {item.label, *item.tags, *item.synonyms}:
            owners[word] = owners.get(word, 0) + 1
    pictures: list[np.ndarray] = []
    records: list[Record] = []
    for style in emoji.STYLE_PACKAGES:
        for item, picture in emoji.drawings(raw, style, wanted):
            # A word that belongs to several emoji names none of them.
            own = tuple(w for w in dict.fromkeys(item.synonyms + item.tags) if owners[w] == 1 and w != item.label)
            pictures.append(picture)
            records.append(
                Record(
                    label=item.label,
                    style=style,
                    group=item.group,
                    codes=(item.code,),
                    names=own,
                    weight=base_weight(item.label, item.group),
                )
            )
    out = held_out_pairs([(r.codes[0], r.style) for r in records])
    records = [dataclasses.replace(r, held_out=(r.codes[0], r.style) in out) for r in records]
    made = augment.recoloured(records, pictures, np.random.default_rng([seed, 1]))
    made += augment.pasted(records, pictures, np.random.default_rng([seed, 2]))
    records += [record for record, _ in made]
    pictures += [picture for _, picture in made]
    target = folder / "set"
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "pictures.npy", np.stack(pictures))
    (target / "records.json").write_text(json.dumps([dataclasses.asdict(r) for r in records], indent=0))
    return len(records)


class PictureSet:
    """The built set, pictures memory-mapped.

    Args:
        folder: what `build` was given.

    Raises:
        UsageError: no set was built there.
    """

    def __init__(self, folder: Path) -> None:
        path = Path(folder) / "set"
        if not (path / "records.json").is_file():
            raise UsageError(f"no picture set in {folder}; build it first with: diffgen train data --data {folder}")
        self.folder = Path(folder)
        self.pictures: np.ndarray = np.load(path / "pictures.npy", mmap_mode="r")
        self.records = [
            Record(**{**entry, "codes": tuple(entry["codes"]), "names": tuple(entry["names"])})
            for entry in json.loads((path / "records.json").read_text())
        ]

    def indices(self, *, held_out: bool, kinds: tuple[str, ...] = ("drawn", "recoloured", "pasted")) -> np.ndarray:
        """The picture numbers of one side of the split, int64 [n]."""
        chosen = [i for i, r in enumerate(self.records) if r.held_out == held_out and r.kind in kinds]
        return np.asarray(chosen, dtype=np.int64)

    def weights(self, indices: np.ndarray) -> np.ndarray:
        """Their probabilities of being drawn, float64 [n], summing to 1."""
        weights = np.asarray([self.records[i].weight for i in indices], dtype=np.float64)
        return weights / weights.sum()
