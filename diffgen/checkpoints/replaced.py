"""What a model was loaded with besides its own files: written into recipes, and found again for a replay.

A recipe's setting "parts" is a table by the options of `diffgen.load`: of a file or folder "file" (a home folder is
written "~", the motion module in the box "box") and "sha256", of several a list, and of `kind` and `prediction` the
word itself. That a pickle may be read is never written down: who draws a picture again has to allow it anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffgen.checkpoints.box import BOX, asset
from diffgen.checkpoints.fingerprint import fingerprint
from diffgen.checkpoints.motion import motion_path
from diffgen.errors import UsageError

PARTS = "parts"
WEIGHTS = ("vae", "text_encoder", "image_encoder", "denoiser_2", "motion")
PLAIN = ("tokenizer", "config")
WORDS = ("kind", "prediction")
_READ = (".json", ".txt", ".model", ".jinja")


def record(given: Mapping[str, Any]) -> dict[str, Any]:
    """The table for what `diffgen.load` was given, by the names of its arguments; empty where that was nothing.

    Raises:
        CheckpointError: a path holds no weights.
    """
    table: dict[str, Any] = {}
    for name in (*WEIGHTS, *PLAIN, *WORDS):
        value = given.get(name)
        if value is None or value == [] or value == ():
            continue
        if name in WORDS:
            table[name] = str(value)
        elif isinstance(value, str | Path):
            table[name] = _entry(name, Path(value))
        else:
            table[name] = [_entry(name, Path(one)) for one in value]
    return table


def _entry(name: str, path: Path) -> dict[str, str]:
    place = _place(name, path)
    if place == asset("box-motion"):
        return {"file": BOX, "sha256": _digest(name, place)}
    # A picture that is passed on should not tell who drew it.
    shown = Path("~") / place.relative_to(Path.home()) if place.is_relative_to(Path.home()) else place
    return {"file": shown.as_posix(), "sha256": _digest(name, place)}


def _place(name: str, path: Path) -> Path:
    return motion_path(path).absolute() if name == "motion" else path.expanduser().absolute()


def _digest(name: str, path: Path) -> str:
    if name in WEIGHTS:
        return fingerprint(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _READ)
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def recall(table: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `diffgen.load` out of a recipe's table; what is given anew takes the recorded one's place.

    Raises:
        UsageError: the table is malformed, or a file is missing or another one than then.
    """
    if not isinstance(table, Mapping):
        raise UsageError(f"the recipe's parts must be a table; got {table!r}")
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name in given:
            continue
        if name in WORDS and isinstance(value, str):
            found[name] = value
        elif name in (*WEIGHTS, *PLAIN) and isinstance(value, list):
            found[name] = [_path(name, one) for one in value]
        elif name in (*WEIGHTS, *PLAIN):
            found[name] = _path(name, value)
        else:
            raise UsageError(f"the recipe names a part {name!r}; known: {', '.join((*WEIGHTS, *PLAIN, *WORDS))}")
    return {**found, **given}


def _path(name: str, entry: Any) -> Path:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
        raise UsageError(f"a part in a recipe is a table with a file; got {entry!r}")
    path, digest = Path(entry["file"]).expanduser(), str(entry.get("sha256", ""))
    if name == "motion" and entry["file"] == BOX:
        path = asset("box-motion")
    option = f"say where it is with --{name.replace('_', '-')}"
    if not path.exists():
        raise UsageError(
            f"the picture was made with another {name}, {entry['file']} (SHA-256 {digest[:12]}), and there is nothing "
            f"there; {option}"
        )
    now = _digest(name, path)
    if digest and now != digest:
        raise UsageError(
            f"{path} is not the {name} that the picture was made with: its SHA-256 is {now[:12]}, not {digest[:12]}; "
            f"{option}"
        )
    return path
